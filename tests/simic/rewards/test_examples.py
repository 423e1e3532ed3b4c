"""The worked examples of section 19, rows 1 to 21."""

import pytest
from formula_builders import GAMMA, SHAPED, pay, seed, step
from reference_inputs import LossInputs, Seed
from reference_step import loss_step_reward

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import Stage
from esper_ray.simic.rewards.bonuses import Drip

WAIT, PRUNE, FOSSILIZE = LifecycleOp.WAIT, LifecycleOp.PRUNE, LifecycleOp.FOSSILIZE


def grown(gained, **fields):
    """Accuracy 70 after a germination at ``gained`` points less."""
    return {"accuracy": 70.0, "accuracy_at_germination": 70.0 - gained} | fields


def blending(improvement=5.0, **fields):
    return seed(Stage.BLENDING, 4, improvement=improvement, **fields)


def holding(ticks, improvement=5.0, **fields):
    return seed(Stage.HOLDING, ticks, improvement=improvement, **fields)


ROWS = {
    "shaped-germinate-epoch1": (step(LifecycleOp.GERMINATE, epoch=1), {"operation": -0.01269}, -0.01269),
    "shaped-attr-harmonic": (
        step(seed=blending(9.0), contribution=9.0, **grown(4.0)),
        {"attribution": 5.538461538, "shaping": 0.08295},
        5.621411538,
    ),
    "shaped-discount-m0p5": (
        step(seed=blending(-0.5), contribution=2.0, **grown(10.0)),
        {"attribution": 0.364851048, "suspicion": 0.0, "blending warning": -0.3, "shaping": 0.08295},
        0.147801048,
    ),
    "shaped-ratio-8": (
        step(seed=blending(1.0), contribution=8.0, **grown(10.0)),
        {"attribution": 8.0, "suspicion": -0.06, "shaping": 0.08295},
        8.02295,
    ),
    "shaped-timing-germ3": (
        step(seed=blending(age=16), epoch=19, contribution=3.0, **grown(10.0)),
        {"attribution": 1.74, "shaping": 0.08295},
        1.82295,
    ),
    "shaped-holdwarn-7": (
        step(seed=holding(7), contribution=2.0, **grown(10.0)),
        {"attribution": 2.0, "holding warning": -0.3, "shaping": 0.04875},
        1.74875,
    ),
    "shaped-fossilize-full": (
        step(FOSSILIZE, holding(5), contribution=4.0, **grown(10.0)),
        {"attribution": 4.0, "shaping": 0.0795, "operation": 0.9 - 0.01 + 0.964538213},
        5.934038213,
    ),
    "shaped-fossilize-ransomware": (
        step(FOSSILIZE, holding(5, -0.5), contribution=2.0, **grown(10.0)),
        {"attribution": 0.0, "shaping": 0.0795, "operation": -0.5 - 0.1 - 0.3 - 0.01},
        -0.8305,
    ),
    "shaped-prune-good": (
        step(PRUNE, blending(age=16), contribution=2.0, **grown(10.0)),
        {"attribution": -2.0, "shaping": 0.08295, "operation": -1.41 - 0.4 - 0.005},
        -3.73205,
    ),
    "shaped-prune-hurting": (
        step(PRUNE, blending(-1.0, age=16), contribution=-1.0, **grown(10.0)),
        {"attribution": 1.0, "blending warning": -0.3, "shaping": 0.08295, "operation": -1.41 + 0.15 - 0.005},
        -0.48205,
    ),
    "shaped-rent-effective": (
        step(total_parameters=900_000, effective_parameters=250_000.0),
        {"rent": -0.626381484},
        -0.626381484,
    ),
    "shaped-kitchen-sink": (
        step(
            seed=Seed(Stage.HOLDING, 4, Stage.BLENDING, 5, 14, improvement=1.1, interaction_sum=1.2),
            epoch=18,
            accuracy=72.4,
            accuracy_at_germination=69.1,
            contribution=6.5,
            total_parameters=180_000,
            effective_parameters=62_310.0,
            squared_alpha_changes=0.011,
            live_seeds=2,
            committed_seeds=1,
            slot_id="r0c1",
            seed_id="s-1",
        ),
        {
            "attribution": 2.783450835 + 0.018181818,
            "suspicion": -0.018181818,
            "holding warning": -0.2,
            "shaping": 0.07995,
            "synergy": 0.053704957,
            "rent": -0.242168950,
            "shock": -0.0021538,
            "occupancy": -0.02,
            "upkeep": -0.002,
        },
        2.450783041,
    ),
    "escrow-geometric": (
        step(seed=blending(), contribution=16.0, accuracy_at_germination=60.0, stable_accuracy=64.0, escrow_credit=7.5),
        {"attribution": 0.5, "shaping": 0.08295},
        0.58295,
    ),
    "escrow-negative-unclipped": (
        step(seed=blending(-0.8), contribution=-0.8, stable_accuracy=64.0, escrow_credit=5.0, **grown(10.0)),
        {"attribution": -5.8, "blending warning": -0.3, "shaping": 0.08295},
        -6.01705,
    ),
    "escrow-prune-refund": (
        step(PRUNE, blending(), contribution=2.0, stable_accuracy=64.0, escrow_credit=4.5, **grown(10.0)),
        {"attribution": -4.5, "shaping": 0.08295, "operation": -1.815},
        -6.23205,
    ),
    "basic-fossilize": (
        step(FOSSILIZE, holding(5), contribution=4.0, effective_parameters=10_000.0),
        {"commitment": 2.522222222, "shaping": 0.0795, "rent": -0.002},
        2.599722222,
    ),
    "basic_plus-fossilize-split": (
        step(FOSSILIZE, holding(5), contribution=4.0, effective_parameters=10_000.0, slot_id="r0c0", seed_id="s-1"),
        {"commitment": 0.756666667, "shaping": 0.0795, "rent": -0.002},
        0.834166667,
    ),
    "basic-terminal": (
        step(epoch=150, accuracy_change=2.0, effective_parameters=10_000.0),
        {"terminal": 0.1, "rent": -0.002},
        0.098,
    ),
    "sparse-terminal": (
        step(epoch=150, committed_accuracy=75.0, committed_parameters=100_000),
        {"terminal": 0.73},
        0.73,
    ),
    "simplified-terminal": (
        step(epoch=150, accuracy=80.0, contributing_committed_seeds=2),
        {"terminal": 6.4},
        6.4,
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_worked_example(row):
    inputs, terms, total = ROWS[row]
    reward = pay(inputs, RewardConfig(mode=row.split("-")[0]))
    assert {source: reward.of(source) for source in terms} == pytest.approx(terms, abs=2e-9)
    others = [amount for source, amount in reward.amounts if source not in terms]
    assert others == [0.0] * len(others)
    assert reward.total == pytest.approx(total, abs=2e-9)


def test_worked_example_of_the_loss_family():
    """Row 21."""
    inputs = LossInputs(150, 150, change=-0.05, loss=1.5, host_parameters=100, total_parameters=120)
    reward = loss_step_reward(inputs, RewardConfig(family="loss"), GAMMA)
    terms = {"loss": 2.5, "rent": -0.009116078, "terminal": 0.4}
    assert dict(reward.amounts) == pytest.approx(terms, abs=1e-9)
    assert reward.total == pytest.approx(2.890883922, abs=1e-9)


def test_a_split_commitment_starts_a_drip():
    """Row 17."""
    inputs, _, _ = ROWS["basic_plus-fossilize-split"]
    drip = pay(inputs, RewardConfig(mode="basic_plus")).drip
    assert (drip.slot_id, drip.seed_id) == ("r0c0", "s-1")
    assert drip.pool == pytest.approx(1.765555556, abs=1e-9)
    assert drip.scale == pytest.approx(0.019617284, abs=1e-9)
    assert pay(inputs, RewardConfig(mode="basic")).drip is None


def test_a_running_drip_of_five_points():
    """Section 8: full 2.8 at epoch 20 pays 0.84 at once and 0.0754 per epoch, for 130 epochs about 9.8."""
    inputs = step(FOSSILIZE, holding(5), epoch=20, contribution=5.0, slot_id="r0c0", seed_id="s-1")
    plus = RewardConfig(mode="basic_plus")
    reward = pay(inputs, plus)
    assert reward.of("commitment") == pytest.approx(0.84)
    later = step(epoch=21, drips=(reward.drip,), committed_contributions={"s-1": 5.0})
    assert pay(later, plus).of("drip") == pytest.approx(0.0753846, abs=1e-7)
    assert 130 * pay(later, plus).of("drip") == pytest.approx(9.8)


def test_several_drips_are_paid_and_limited_one_by_one():
    drips = (Drip("a", "s-1", 1.0, 0.05), Drip("b", "s-2", 1.0, 0.02), Drip("c", "s-3", 1.0, 0.1))
    inputs = step(drips=drips, committed_contributions={"s-1": 4.0, "s-2": 3.0, "s-3": -2.0})
    assert [amount for source, amount in pay(inputs, RewardConfig(mode="basic_plus")).amounts if source == "drip"] == [
        0.1,
        pytest.approx(0.06),
        -0.05,
    ]


def test_the_credit_of_six_epochs_under_escrow():
    """Section 7, ``escrow-ledger-sequence``."""
    config, credit, balances = RewardConfig(mode="escrow"), 0.0, []
    lives = [(6.0, 66.0), (6.0, 66.0), (6.0, 64.0), (2.0, 64.0), (-0.5, 64.0), (1.0, 65.0)]
    for contribution, stable in lives:
        inputs = step(
            seed=blending(),
            contribution=contribution,
            stable_accuracy=stable,
            accuracy_at_germination=60.0,
            escrow_credit=credit,
        )
        credit = pay(inputs, config).escrow.balance
        balances.append(credit)
    assert balances == pytest.approx([2.0, 4.0, 4.898979486, 2.898979486, 0.0, 1.0], abs=1e-9)


def test_committing_a_harmful_seed_moves_the_credit_without_pay():
    """Section 7, marked as a defect there and kept in the formula; the live engine pays every move."""
    inputs = step(
        FOSSILIZE,
        holding(5, -0.5),
        contribution=4.0,
        stable_accuracy=64.0,
        accuracy_at_germination=60.0,
        escrow_credit=1.0,
    )
    reward = pay(inputs, RewardConfig(mode="escrow"))
    # target 4 - 0.3 * 4 / 10 = 3.88: 2.88 away, clipped to 2
    assert reward.escrow.target == pytest.approx(3.88)
    assert reward.escrow.balance == pytest.approx(3.0)
    assert reward.of("attribution") == 0.0


@pytest.mark.parametrize(("epoch", "net"), [(1, -0.01269), (5, 0.05895), (10, 0.1485), (149, 0.1485), (150, -0.15)])
def test_the_net_reward_of_a_germination_by_epoch(epoch, net):
    """Section 6.9."""
    assert pay(step(LifecycleOp.GERMINATE, epoch=epoch)).of("operation") == pytest.approx(net, abs=1e-9)


def test_a_germination_in_an_occupied_slot_is_penalised():
    reward = pay(step(LifecycleOp.GERMINATE, seed(Stage.TRAINING)))
    assert reward.of("operation") == pytest.approx(-0.45)


@pytest.mark.parametrize("stage", [None, *Stage])
def test_advancing_costs_in_training_only(stage):
    inputs = step(LifecycleOp.ADVANCE, None if stage is None else seed(stage))
    assert pay(inputs, SHAPED).of("operation") == (-0.1 if stage is Stage.TRAINING else 0.0)

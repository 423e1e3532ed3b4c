"""Edge cases of attribution, warnings and operations against numbers computed by hand."""

import pytest
from formula_builders import GAMMA, PREDECESSORS, SHAPED, seed, step
from formula_builders import pay as reward_of

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import STAGES, TRANSITIONS, Stage
from esper_ray.simic.rewards import bonuses, credit, operations, shaping

HOLDING, BLENDING = Stage.HOLDING, Stage.BLENDING
BONUSES = {
    # at 0, 1, 2, 6, 7, 8 and 20 epochs in the stage, after 4 in the one before
    Stage.GERMINATED: [-0.0615, 0.08805, 0.08760, 0.08580, 0.05550, -0.00450, -0.00450],
    Stage.TRAINING: [-0.0630, 0.08655, 0.08610, 0.08430, 0.05400, -0.00600, -0.00600],
    Stage.BLENDING: [0.08475, 0.08430, 0.08385, 0.08205, 0.05175, -0.00825, -0.00825],
    Stage.HOLDING: [0.23175, 0.08130, 0.08085, 0.07905, 0.04875, -0.01125, -0.01125],
    Stage.FOSSILIZED: [-0.2190, 0.08055, 0.08010, 0.07830, 0.04800, -0.01200, -0.01200],
}


@pytest.mark.parametrize("stage", BONUSES, ids=lambda stage: stage.name)
def test_stage_bonuses_follow_the_table(stage):
    """Section 6.4."""
    before = PREDECESSORS[stage]
    assert stage in TRANSITIONS[before]
    bonuses_by_ticks = [shaping.stage_bonus(stage, n, before, 4, GAMMA, SHAPED) for n in (0, 1, 2, 6, 7, 8, 20)]
    assert bonuses_by_ticks == pytest.approx(BONUSES[stage], abs=1e-12)


def test_potentials_on_entering_each_stage_by_hand():
    expected = {Stage.GERMINATED: 1.0, Stage.TRAINING: 2.0, BLENDING: 3.5, HOLDING: 5.5, Stage.FOSSILIZED: 6.0}
    potentials = {stage: shaping.stage_potential(stage) for stage in STAGES}
    assert potentials == {stage: expected.get(stage, 0.0) for stage in STAGES}


@pytest.mark.parametrize(("ticks", "dwell"), [(0, 0.0), (1, 0.3), (6, 1.8), (7, 2.0), (500, 2.0)])
def test_potential_grows_with_dwell_up_to_two_in_every_stage(ticks, dwell):
    grown = [shaping.seed_potential(s, ticks, SHAPED) - shaping.stage_potential(s) for s in STAGES]
    assert grown == pytest.approx([dwell] * 10)


@pytest.mark.parametrize(
    ("improvement", "discount"),
    [
        (None, 1.0),
        (0.0, 1.0),
        (7.0, 1.0),
        (-0.1, 0.425557483),
        (-0.5, 0.182425524),
        (-2.0, 0.002472623),
        (-1e6, 0.0),
    ],
)
def test_the_discount_for_joint_damage_by_hand(improvement, discount):
    assert credit.improvement_discount(improvement, 3.0) == pytest.approx(discount, abs=1e-9)


@pytest.mark.parametrize(
    ("contribution", "improvement", "discount", "charge"),
    [
        (5.0, 1.0, 1.0, 0.0),  # five times is not charged
        (5.5, 1.0, 1.0, -0.01),
        (8.0, 1.0, 1.0, -0.06),
        (20.0, 1.0, 1.0, -0.3),
        (40.0, 1.0, 1.0, -0.3),
        (2.0, 0.1, 1.0, -0.06),  # not above the safe threshold: by the contribution alone
        (2.0, 0.16, 1.0, -0.15),
        (1.0, 0.0, 1.0, 0.0),  # one point is never charged
        (1.1, 0.0, 1.0, -0.033),
        (10.0, 0.0, 1.0, -0.3),
        (15.0, 0.0, 1.0, -0.3),
        (4.0, -3.0, 1.0, -0.12),  # escrow has no discount
        (4.0, 0.0, 0.5, -0.12),
        (4.0, 0.0, 0.49, 0.0),
    ],
)
def test_suspicion_by_hand(contribution, improvement, discount, charge):
    assert credit.suspicion(contribution, improvement, discount, SHAPED) == pytest.approx(charge, abs=1e-12)


def test_a_safe_threshold_of_zero_has_a_positive_floor():
    config = RewardConfig(improvement_safe_threshold=0.0)
    assert credit.suspicion(2.0, 0.0, 1.0, config) == pytest.approx(-0.06)
    assert credit.suspicion(2.0, 1e-9, 1.0, config) == pytest.approx(-0.06)
    assert credit.suspicion(2.0, 1e-7, 1.0, config) == pytest.approx(-0.3)


@pytest.mark.parametrize(
    ("contribution", "improvement", "ransom"),
    [
        (0.11, -0.21, True),
        (0.1, -0.21, False),
        (0.11, -0.2, False),
        (None, -1.0, False),
        (1.0, None, False),
        (9.0, 1.0, False),
    ],
)
def test_a_ransom_is_beyond_both_thresholds(contribution, improvement, ransom):
    assert credit.is_ransom(contribution, improvement) is ransom


@pytest.mark.parametrize(
    ("epoch", "warmup", "floor", "factor"),
    [
        (-4, 10, 0.4, 0.16),  # older than the episode: below the floor
        (0, 10, 0.4, 0.4),
        (1, 10, 0.4, 0.46),
        (5, 10, 0.4, 0.7),
        (9, 10, 0.4, 0.94),
        (10, 10, 0.4, 1.0),
        (70, 10, 0.4, 1.0),
        (0, 0, 0.4, 1.0),
        (1, 4, 0.0, 0.25),
    ],
)
def test_the_timing_discount_by_hand(epoch, warmup, floor, factor):
    assert credit.timing_discount(epoch, warmup, floor) == pytest.approx(factor)


@pytest.mark.parametrize(("age", "paid"), [(64, 0.64), (60, 1.6), (55, 2.8), (50, 4.0), (49, 4.0)])
def test_attribution_is_discounted_by_the_epoch_of_the_germination(age, paid):
    inputs = step(
        seed=seed(BLENDING, age=age, improvement=5.0), contribution=4.0, accuracy=70.0, accuracy_at_germination=60.0
    )
    assert reward_of(inputs).of("attribution") == pytest.approx(paid)
    assert reward_of(inputs, RewardConfig(disable_timing_discount=True)).of("attribution") == 4.0


@pytest.mark.parametrize(
    ("progress", "contribution", "harmonic", "minimum", "geometric"),
    [
        (None, 6.0, 3.0, 3.0, 3.0),
        (0.0, 6.0, 0.0, 0.0, 0.0),
        (-2.0, 6.0, 0.0, 0.0, 0.0),
        (4.0, 9.0, 72 / 13, 4.0, 6.0),
        (4.0, 4.0, 4.0, 4.0, 4.0),
        (9.0, 4.0, 4.0, 4.0, 4.0),  # never more than the contribution
        (4.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_attributed_value_of_each_mean_by_hand(progress, contribution, harmonic, minimum, geometric):
    means = credit.harmonic, credit.minimum, credit.geometric
    attributed = [credit.attributed_value(progress, contribution, mean) for mean in means]
    assert attributed == pytest.approx([harmonic, minimum, geometric])


def test_the_formula_of_attribution_can_be_chosen():
    fields = {"contribution": 9.0, "accuracy": 70.0, "accuracy_at_germination": 66.0}
    inputs = step(seed=seed(BLENDING, improvement=9.0), **fields)
    assert reward_of(inputs, RewardConfig(attribution_formula="minimum")).of("attribution") == pytest.approx(4.0)
    assert reward_of(inputs, RewardConfig(contribution_weight=0.5)).of("attribution") == pytest.approx(36 / 13)
    assert reward_of(step(**fields)).of("attribution") == pytest.approx(72 / 13)  # a contribution without a seed


@pytest.mark.parametrize(
    ("stage", "gained", "paid"),
    [
        (BLENDING, 2.0, 0.6),
        (HOLDING, 2.0, 0.6),
        (Stage.TRAINING, 2.0, 0.0),
        (Stage.FOSSILIZED, 2.0, 0.0),
        (BLENDING, 0.0, 0.0),
        (BLENDING, -2.0, 0.0),
        (BLENDING, None, 0.0),
    ],
)
def test_an_unmeasured_seed_is_paid_a_share_of_the_gain_since_its_stage_began(stage, gained, paid):
    inputs = step(seed=seed(stage, age=58, improvement_since_stage=gained))
    assert reward_of(inputs).of("attribution") == pytest.approx(paid)  # no timing discount
    heavy = RewardConfig(contribution_weight=2.0, proxy_confidence_factor=0.25)
    assert reward_of(inputs, heavy).of("attribution") == pytest.approx(paid * 0.5 / 0.3)


@pytest.mark.parametrize(
    ("balance", "contribution", "progress", "doubt", "clip", "change", "payout"),
    [
        (0.0, 16.0, 4.0, 0.0, 2.0, 2.0, 2.0),
        (7.5, 16.0, 4.0, 0.0, 2.0, 0.5, 0.5),
        (11.0, 16.0, 4.0, 0.0, 2.0, -2.0, -2.0),
        (0.0, 16.0, 4.0, 0.0, 0.0, 8.0, 8.0),  # no limit
        (11.0, 16.0, 4.0, 0.0, 0.0, -3.0, -3.0),
        (0.0, 16.0, 4.0, -0.25, 0.0, 7.75, 7.75),
        (1.0, 0.1, 5.0, -0.3, 2.0, -1.0, -1.0),  # a target is never negative
        (5.0, -0.8, 4.0, 0.0, 2.0, -5.0, -5.8),
        (0.0, -0.8, 4.0, 0.0, 2.0, 0.0, -0.8),
        (5.0, None, 4.0, 0.0, 2.0, 0.0, 0.0),
        (0.0, 3.0, None, 0.0, 2.0, 1.5, 1.5),
        (1.0, 3.0, -1.0, 0.0, 2.0, -1.0, -1.0),
        (0.0, 0.0, 4.0, 0.0, 2.0, 0.0, 0.0),
    ],
)
def test_escrow_moves_by_hand(balance, contribution, progress, doubt, clip, change, payout):
    move = credit.escrow_move(balance, contribution, progress, doubt, RewardConfig(escrow_delta_clip=clip))
    assert (move.change, move.payout, move.balance) == pytest.approx((change, payout, balance + change))


@pytest.mark.parametrize(
    ("stage", "ticks", "improvement", "warning"),
    [
        (BLENDING, 0, -0.001, -0.1),
        (BLENDING, 4, -5.0, -0.3),
        (BLENDING, 6, -5.0, -0.4),
        (BLENDING, 7, -5.0, -0.4),
        (BLENDING, 4, 0.0, 0.0),
        (BLENDING, 4, None, 0.0),
        (HOLDING, 4, -5.0, 0.0),
    ],
)
def test_the_blending_warning_by_hand(stage, ticks, improvement, warning):
    assert operations.blending_warning(stage, ticks, improvement) == pytest.approx(warning)


@pytest.mark.parametrize(
    ("ticks", "warning"), [(0, 0.0), (1, 0.0), (2, -0.1), (3, -0.15), (5, -0.25), (6, -0.3), (7, -0.3), (90, -0.3)]
)
def test_the_holding_warning_by_hand(ticks, warning):
    assert operations.holding_warning(HOLDING, ticks, 0.001) == pytest.approx(warning)
    assert operations.holding_warning(HOLDING, ticks, 0.0) == 0.0
    assert operations.holding_warning(BLENDING, ticks, 1.0) == 0.0


@pytest.mark.parametrize(
    ("interaction", "paid"), [(1.2, 0.053704957), (0.0, 0.0), (-3.0, 0.0), (2.0, 0.076159416), (1e3, 0.1)]
)
def test_synergy_by_hand(interaction, paid):
    assert bonuses.synergy(interaction, 0.1) == pytest.approx(paid, abs=1e-9)
    held = seed(HOLDING, 1, improvement=4.0, interaction_sum=interaction)
    earning = step(seed=held, contribution=4.0, accuracy_at_germination=60.0)
    idle = step(seed=held, contribution=4.0, accuracy_at_germination=70.0)
    assert reward_of(earning).of("synergy") == pytest.approx(paid, abs=1e-9)
    assert reward_of(idle).of("synergy") == 0.0


def test_joint_damage_excludes_synergy_for_measured_seeds_only():
    """Section 6.1: the gates need a contribution."""
    hurting = seed(BLENDING, improvement=-1.0, improvement_since_stage=2.0, interaction_sum=1.2)
    assert reward_of(step(seed=hurting)).of("synergy") == pytest.approx(0.053704957, abs=1e-9)
    measured = reward_of(step(seed=hurting, contribution=4.0, accuracy_at_germination=60.0))
    assert measured.of("attribution") > 0
    assert measured.of("synergy") == 0.0


@pytest.mark.parametrize(
    ("boost", "improvement", "paid"),
    [(1.5, 10.0, 0.090514825), (0.5, 10.0, 0.046211716), (0.0, 10.0, 0.0), (2.0, 0.0, 0.0), (-1.0, -9.0, 0.0)],
)
def test_hindsight_credit_by_hand(boost, improvement, paid):
    assert bonuses.hindsight_credit(boost, improvement, 0.1) == pytest.approx(paid, abs=1e-9)


@pytest.mark.parametrize(
    ("stage", "ticks", "contribution", "improvement", "paid", "bonus"),
    [
        (HOLDING, 5, 4.0, 5.0, 0.9, 0.964538213),
        (HOLDING, 50, 4.0, 5.0, 0.9, 0.964538213),
        (HOLDING, 2, 4.0, 5.0, 0.36, 0.385815285),
        (HOLDING, 0, 4.0, 5.0, 0.0, 0.0),
        (HOLDING, 5, 1.0, 0.0, 0.6, 0.964538213),  # both thresholds are met exactly
        (HOLDING, 5, 0.999, 5.0, -0.2, 0.0),
        (HOLDING, 0, 0.999, 5.0, -0.2, 0.0),  # dwell does not scale a penalty
        (HOLDING, 5, None, 5.0, -0.2, 0.0),
        (HOLDING, 5, 4.0, None, -1.0, 0.0),
        (BLENDING, 5, 4.0, 5.0, -1.0, 0.0),
        (Stage.FOSSILIZED, 5, 4.0, 5.0, -1.0, 0.0),
        (None, 0, None, None, -1.0, 0.0),
        (HOLDING, 5, 2.0, -0.2, -0.54, 0.0),  # not below the ransom's threshold
        (HOLDING, 5, 0.1, -0.3, -0.56, 0.0),
        (HOLDING, 5, 0.2, -0.3, -0.86, 0.0),
        (HOLDING, 5, 2.0, -5.0, -1.8, 0.0),
        (HOLDING, 5, -2.0, -9.0, -1.5, 0.0),
    ],
)
def test_commitment_pay_by_hand(stage, ticks, contribution, improvement, paid, bonus):
    case = stage, ticks, contribution, improvement
    assert operations.commitment_pay(*case, SHAPED) == pytest.approx(paid)
    assert operations.commitment_bonus(*case, SHAPED) == pytest.approx(bonus, abs=1e-9)
    assert operations.commitment_bonus(*case, RewardConfig(disable_terminal_reward=True)) == 0.0


@pytest.mark.parametrize(
    ("stage", "ticks", "improvement", "contribution", "paid"),
    [
        (HOLDING, 5, 5.0, 4.0, 0.3 + 20 / 9),
        (HOLDING, 50, 5.0, 4.0, 0.3 + 20 / 9),
        (HOLDING, 2, 5.0, 4.0, 0.12 + 8 / 9),
        (HOLDING, 0, 5.0, 4.0, 0.0),
        (HOLDING, 5, 1.0, 9.0, 1.2),  # imbalance is discounted
        (HOLDING, 5, 3.0, 1.0, 1.05),  # one point is enough
        (HOLDING, 5, 3.0, 0.999, -0.2),
        (HOLDING, 5, 3.0, None, -0.2),
        (HOLDING, 5, None, 2.0, -0.5),  # unknown counts as no improvement
        (HOLDING, 5, 0.0, 2.0, -0.5),
        (HOLDING, 5, -1.0, 0.11, -0.5),
        (HOLDING, 5, -1.0, 0.1, -0.2),
        (HOLDING, 5, -1.0, -3.0, -0.2),
        (HOLDING, 5, None, None, -0.2),
        (BLENDING, 5, 5.0, 4.0, -0.5),
    ],
)
def test_commitment_pay_of_basic_by_hand(stage, ticks, improvement, contribution, paid):
    pay = operations.basic_commitment_pay(stage, ticks, contribution, improvement, SHAPED)
    assert pay == pytest.approx(paid, abs=1e-12)


def test_basic_with_formula_minimum_pays_by_the_smaller_value():
    config = RewardConfig(attribution_formula="minimum")
    assert operations.basic_commitment_pay(HOLDING, 5, 4.0, 5.0, config) == pytest.approx(2.3)


@pytest.mark.parametrize(
    ("stage", "age", "contribution", "paid"),
    [
        (None, 0, None, -0.2),
        (Stage.FOSSILIZED, 0, 9.0, -1.0),
        (BLENDING, 0, -3.0, -1.5),
        (BLENDING, 4, -3.0, -0.3),
        (BLENDING, 5, -3.0, 0.15),
        (BLENDING, 5, -0.501, 0.15),
        (BLENDING, 5, -0.5, 0.1),  # strictly below the threshold only
        (BLENDING, 5, -0.001, 0.1),
        (BLENDING, 5, 0.0, -0.3),
        (BLENDING, 5, 4.0, -0.5),
        (BLENDING, 5, 12.0, -0.9),
        (BLENDING, 5, 30.0, -0.9),
        (BLENDING, 5, None, 0.0),
    ],
)
def test_prune_pay_by_hand(stage, age, contribution, paid):
    assert operations.prune_pay(stage, age, contribution, SHAPED) == pytest.approx(paid)


@pytest.mark.parametrize(("age", "unmeasured", "hurting"), [(2, -0.3, -0.3), (3, -0.1, -0.1), (8, -0.1, 0.15)])
def test_the_three_age_thresholds_of_prunes_are_independent(age, unmeasured, hurting):
    config = RewardConfig(min_prune_age=3, min_prune_bonus_age=8, early_prune_threshold=9)
    assert operations.prune_pay(BLENDING, age, None, config) == pytest.approx(unmeasured)
    assert operations.prune_pay(BLENDING, age, -1.0, config) == pytest.approx(hurting)
    assert operations.prune_pay(BLENDING, 9, None, config) == 0.0
    assert operations.prune_pay(BLENDING, 7, -1.0, config) == -0.1


@pytest.mark.parametrize(
    ("stage", "ticks", "forfeit"), [(Stage.GERMINATED, 0, 0.3), (BLENDING, 4, 1.41), (HOLDING, 9, 2.25)]
)
def test_a_prune_forfeits_the_potential_in_shaped_and_basic(stage, ticks, forfeit):
    inputs = step(LifecycleOp.PRUNE, seed(stage, ticks))
    assert reward_of(inputs).of("operation") == pytest.approx(-forfeit - 0.005)
    assert reward_of(inputs, RewardConfig(mode="basic")).of("shaping") == pytest.approx(-forfeit)
    assert reward_of(inputs, RewardConfig(disable_pbrs=True)).of("operation") == pytest.approx(-0.005)

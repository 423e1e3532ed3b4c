"""Edge cases of rent, shock, drip, terminal and loss terms, and validation of the reward configuration."""

import math

import pytest
from formula_builders import GAMMA, SHAPED, seed, step
from formula_builders import pay as reward_of
from pydantic import ValidationError
from reference_inputs import LossInputs
from reference_step import loss_step_reward

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import LossRewardConfig, RewardConfig
from esper_ray.leyline.stages import Stage
from esper_ray.simic.rewards import bonuses, costs, losses, operations, terminal

TERMS = LossRewardConfig()
FAMILY = RewardConfig(family="loss")


@pytest.mark.parametrize(
    ("overhead", "host", "rent"),
    [
        (250_000.0, 100_000, 0.626381484),
        (200.0, 100, 0.346573590),  # the host counts for two hundred
        (200.0, 200, 0.346573590),
        (1_908_000.0, 100_000, 1.499862147),
        (1_909_000.0, 100_000, 1.5),
        (0.0, 100_000, 0.0),
        (-5.0, 100_000, 0.0),
        (250_000.0, 0, 0.0),
    ],
)
def test_logarithmic_rent_by_hand(overhead, host, rent):
    assert costs.logarithmic_rent(overhead, host, SHAPED) == pytest.approx(rent, abs=1e-9)


def test_linear_rent_by_hand():
    assert costs.linear_rent(25_000.0, SHAPED) == pytest.approx(0.005)
    assert costs.linear_rent(50.0, RewardConfig(param_budget=2000, param_penalty_weight=0.2)) == pytest.approx(0.005)


def test_without_effective_parameters_all_extra_parameters_count():
    basic = RewardConfig(mode="basic")
    assert reward_of(step(total_parameters=150_000), basic).total == pytest.approx(-0.01)
    assert reward_of(step(total_parameters=150_000, effective_parameters=0.0), basic).total == 0.0
    assert reward_of(step(total_parameters=90_000), basic).total == 0.0
    assert reward_of(step(total_parameters=150_000, host_parameters=0), basic).total == 0.0


@pytest.mark.parametrize(("changes", "shock"), [(0.0, 0.0), (0.011, -0.0021538), (5.1, -0.99858), (5.2, -1.0)])
def test_shock_by_hand(changes, shock):
    assert costs.shock(changes, SHAPED) == pytest.approx(shock)


@pytest.mark.parametrize(
    ("before", "after", "parameters", "host", "square"),
    [
        (0.5, 0.0, 1000, 100, 1.25),  # against the floor of 200
        (0.5, 0.0, 1000, 1000, 0.25),
        (0.0, 1.0, 500, 1000, 0.5),
        (0.0, 1.0, 0, 1000, 0.0),  # a newborn
        (0.0, 1.0, 500, 0, 0.0),
    ],
)
def test_squared_changes_of_the_amplitude_by_hand(before, after, parameters, host, square):
    assert costs.squared_change(before, after, parameters, host, 200) == pytest.approx(square)


def test_parameters_count_in_proportion_to_their_amplitude_from_blending_on():
    loads = {
        "r0c0": costs.Load(Stage.TRAINING, 1.0, 9000),
        "r0c1": costs.Load(Stage.BLENDING, 0.5, 1000),
        "r0c2": costs.Load(Stage.HOLDING, 1.0, 500),
        "r0c3": costs.Load(Stage.FOSSILIZED, 0.25, 400),
        "r0c4": costs.Load(Stage.PRUNED, 0.5, 7000),
    }
    # 500 + 500 + 100, and 390 for each of three slots
    assert costs.effective_parameters(loads, 100_000, 0.0039) == pytest.approx(2270.0)
    assert costs.effective_parameters({}, 100_000, 0.0039) == 0.0


@pytest.mark.parametrize(
    ("live", "committed", "free", "price"),
    [(0, 0, 1, 0.0), (1, 0, 1, 0.0), (0, 2, 1, 0.01), (2, 1, 1, 0.02), (2, 1, 0, 0.03)],
)
def test_occupancy_by_hand(live, committed, free, price):
    assert costs.occupancy(live, committed, RewardConfig(free_slots=free)) == pytest.approx(price)


@pytest.mark.parametrize(("epochs_left", "scale"), [(130, 0.01), (5, 0.26), (4, 0.26), (0, 0.26)])
def test_the_scale_of_a_drip_by_hand(epochs_left, scale):
    drip = bonuses.deferred_bonus("r0c0", "s-1", 13 / 7, epochs_left, RewardConfig(mode="basic_plus"))
    assert drip.pool == pytest.approx(1.3)
    assert drip.scale == pytest.approx(scale)


@pytest.mark.parametrize(
    ("contribution", "ratio", "paid"),
    [
        (4.0, 0.5, 0.08),
        (5.0, 0.5, 0.1),
        (9.0, 0.5, 0.1),
        (-2.0, 0.5, -0.04),
        (-2.5, 0.5, -0.05),
        (-9.0, 0.5, -0.05),
        (-9.0, 1.0, -0.1),
        (-9.0, 0.0, 0.0),
        (0.0, 0.5, 0.0),
    ],
)
def test_an_epoch_of_a_drip_by_hand(contribution, ratio, paid):
    assert bonuses.epoch_drip(0.02, contribution, 0.1, ratio) == pytest.approx(paid)


def test_drips_with_fraction_zero_or_without_seed_id_are_paid_at_once():
    held = seed(Stage.HOLDING, 5, improvement=5.0)
    named = step(LifecycleOp.FOSSILIZE, held, contribution=4.0, slot_id="r0c0", seed_id="s-1")
    nameless = step(LifecycleOp.FOSSILIZE, held, contribution=4.0, slot_id="r0c0")
    for inputs, fraction in ((named, 0.0), (nameless, 0.7)):
        reward = reward_of(inputs, RewardConfig(mode="basic_plus", drip_fraction=fraction))
        assert reward.drip is None
        assert reward.of("commitment") == pytest.approx(0.3 + 20 / 9)


@pytest.mark.parametrize(
    ("accuracy", "parameters", "scale", "paid"),
    [
        (75.0, 100_000, 1.0, 0.73),
        (75.0, 100_000, 4.0, 2.92),
        (0.0, 5_000_000, 3.0, -3.0),
        (0.0, 50_000_000, 3.0, -3.0),  # clamped before it is scaled
        (100.0, 0, 2.0, 2.0),
    ],
)
def test_pay_for_committed_accuracy_by_hand(accuracy, parameters, scale, paid):
    config = RewardConfig(sparse_reward_scale=scale)
    assert terminal.committed_pay(accuracy, parameters, config) == pytest.approx(paid)


def test_other_terminal_pay_by_hand():
    assert terminal.accuracy_pay(70.0, SHAPED) == pytest.approx(3.5)
    assert terminal.accuracy_pay(70.0, RewardConfig(disable_terminal_reward=True)) == 0.0
    assert terminal.gain_pay(2.0, SHAPED) == pytest.approx(0.1)
    assert terminal.gain_pay(-3.0, SHAPED) == pytest.approx(-0.15)
    assert terminal.simplified_pay(80.0, 2, SHAPED) == pytest.approx(6.4)


@pytest.mark.parametrize("mode", ["basic", "sparse"])
def test_disabling_the_terminal_reward_does_not_affect_basic_and_sparse(mode):
    """Section 3.2: basic and sparse keep their terminal pay."""
    inputs = step(epoch=150, accuracy_change=2.0, committed_accuracy=10.0)
    assert reward_of(inputs, RewardConfig(mode=mode, disable_terminal_reward=True)).total == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "paid"),
    [(0.0, 0.0), (-0.05, 2.5), (0.05, -1.25), (-0.5, 25.0), (-10.0, 25.0), (0.5, -12.5), (math.inf, -12.5)],
)
def test_pay_for_a_change_of_the_loss_by_hand(change, paid):
    assert losses.change_pay(change, TERMS) == pytest.approx(paid)


@pytest.mark.parametrize(
    ("overhead", "host", "rent"),
    [(20, 100, 0.009116078), (100, 100, 0.034657359), (0, 100, 0.0), (-9, 100, 0.0), (20, 0, 0.0), (20, -1, 0.0)],
)
def test_rent_of_the_loss_family_by_hand(overhead, host, rent):
    assert losses.rent(overhead, host, TERMS) == pytest.approx(rent, abs=1e-9)
    assert losses.rent(overhead, host, LossRewardConfig(max_rent_penalty=0.001)) == min(rent, 0.001)


@pytest.mark.parametrize(("age", "rent"), [(2, 0.0), (3, -0.009116078), (None, -0.009116078)])
def test_the_loss_family_charges_no_rent_for_young_seeds(age, rent):
    grown = None if age is None else seed(Stage.TRAINING, age=age)
    reward = loss_step_reward(LossInputs(5, 10, 0.0, 1.0, 100, 120, grown), FAMILY, GAMMA)
    assert reward.of("rent") == pytest.approx(rent, abs=1e-9)


@pytest.mark.parametrize(
    ("stage", "paid"),
    [(Stage.GERMINATED, 0.0995), (Stage.TRAINING, 0.099), (Stage.BLENDING, 0.14825), (Stage.HOLDING, 0.19725)],
)
def test_the_stage_term_of_the_loss_family_by_hand(stage, paid):
    for ticks in (0, 1, 30):
        inputs = LossInputs(5, 10, 0.0, 1.0, 100, 100, seed(stage, ticks))
        assert loss_step_reward(inputs, FAMILY, GAMMA).total == pytest.approx(paid)


@pytest.mark.parametrize(("loss", "paid"), [(2.3, 0.0), (2.4, 0.0), (1.5, 0.4), (0.3, 1.0), (0.0, 1.0)])
def test_the_final_loss_between_baseline_and_target(loss, paid):
    assert losses.final_pay(loss, TERMS) == pytest.approx(paid)
    assert losses.final_pay(loss, LossRewardConfig(terminal_loss_weight=3.0)) == pytest.approx(3 * paid)


@pytest.mark.parametrize(("loss", "paid"), [(1.0, 0.0), (1.2, 0.0), (0.75, 0.25), (-1.0, 1.0)])
def test_a_range_of_zero_counts_as_one_nat(loss, paid):
    config = LossRewardConfig(baseline_loss=1.0, target_loss=1.0)
    assert losses.final_pay(loss, config) == pytest.approx(paid)


@pytest.mark.parametrize(("age", "paid"), [(0, -0.1), (4, -0.1), (5, 0.0)])
def test_minimal_charges_an_early_prune(age, paid):
    inputs = step(LifecycleOp.PRUNE, seed(Stage.TRAINING, age=age), committed_accuracy=50.0)
    assert reward_of(inputs, RewardConfig(mode="minimal")).total == pytest.approx(paid)
    assert operations.operation_cost(LifecycleOp.PRUNE, SHAPED) == -0.005


@pytest.mark.parametrize(
    "field", ["param_budget", "sparse_reward_scale", "max_drip_per_epoch", "hacking_ratio_threshold"]
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_divisors_and_limits_must_be_positive_and_finite(field, value):
    with pytest.raises(ValidationError, match=field):
        RewardConfig(**{field: value})


@pytest.mark.parametrize("field", ["drip_fraction", "negative_drip_ratio", "germination_discount_floor"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_fractions_lie_between_zero_and_one(field, value):
    with pytest.raises(ValidationError, match=field):
        RewardConfig(**{field: value})
    assert RewardConfig(**{field: 0.0}) != RewardConfig(**{field: 1.0})


@pytest.mark.parametrize("field", ["rent_host_params_floor", "min_holding_epochs", "min_drip_epochs"])
def test_counts_start_at_one(field):
    assert getattr(RewardConfig(**{field: 1}), field) == 1
    for value in (0, -3, 1.5):
        with pytest.raises(ValidationError, match=field):
            RewardConfig(**{field: value})


@pytest.mark.parametrize(
    "field", [name for name, info in RewardConfig.model_fields.items() if info.annotation is float]
)
def test_no_number_may_be_nan(field):
    with pytest.raises(ValidationError, match=field):
        RewardConfig(**{field: math.nan})


@pytest.mark.parametrize(
    "field", [name for name, info in LossRewardConfig.model_fields.items() if info.annotation is float]
)
def test_no_number_of_the_loss_family_may_be_nan(field):
    with pytest.raises(ValidationError, match=field):
        LossRewardConfig(**{field: math.nan})


@pytest.mark.parametrize("field", ["germinate_cost", "prune_good_seed_penalty", "invalid_fossilize_penalty"])
def test_penalties_are_not_positive(field):
    with pytest.raises(ValidationError, match=field):
        RewardConfig(**{field: 0.01})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "basicplus"}, "unknown reward mode 'basicplus'; did you mean 'basic_plus'?"),
        ({"mode": "escroww"}, "did you mean 'escrow'?"),
        ({"mode": "zzz"}, "unknown reward mode 'zzz' (known: shaped, simplified, basic"),
        ({"family": "losses"}, "unknown reward family 'losses'; did you mean 'loss'?"),
        ({"family": "loss", "mode": "basic"}, "reward family 'loss' has the mode 'shaped' only, got mode 'basic'"),
        ({"family": "loss", "mode": "settlement"}, "got mode 'settlement'"),
        ({"attribution_formula": "geometric"}, "attribution_formula"),
        ({"reward_mode": "basic"}, "Extra inputs are not permitted"),
    ],
)
def test_names_that_are_refused(settings, message):
    with pytest.raises(ValidationError) as caught:
        RewardConfig(**settings)
    assert message in str(caught.value)


def test_the_loss_family_goes_with_the_mode_shaped():
    assert RewardConfig(family="loss", mode="shaped").mode == "shaped"

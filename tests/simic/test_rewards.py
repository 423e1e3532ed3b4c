"""The terms of the reward modes against numbers worked out by hand (specification, sections 6.4, 8 and 9)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.leyline.config import RewardConfig
from esper_ray.leyline.stages import STAGES, TRANSITIONS, Stage
from esper_ray.simic import rewards

CONFIG = RewardConfig()
GAMMA = 0.995

PBRS_TABLE = {
    # stage: predecessor, then the bonus at n = 0, 1, 2, 6, 7, 8 and 20 epochs in the stage
    Stage.GERMINATED: (Stage.DORMANT, [-0.0615, 0.08805, 0.08760, 0.08580, 0.05550, -0.00450, -0.00450]),
    Stage.TRAINING: (Stage.GERMINATED, [-0.0630, 0.08655, 0.08610, 0.08430, 0.05400, -0.00600, -0.00600]),
    Stage.BLENDING: (Stage.TRAINING, [0.08475, 0.08430, 0.08385, 0.08205, 0.05175, -0.00825, -0.00825]),
    Stage.HOLDING: (Stage.BLENDING, [0.23175, 0.08130, 0.08085, 0.07905, 0.04875, -0.01125, -0.01125]),
    Stage.FOSSILIZED: (Stage.HOLDING, [-0.2190, 0.08055, 0.08010, 0.07830, 0.04800, -0.01200, -0.01200]),
}


@pytest.mark.parametrize("stage", PBRS_TABLE, ids=lambda stage: stage.name)
def test_shaping_reproduces_the_table_of_stage_bonuses(stage):
    predecessor, row = PBRS_TABLE[stage]
    assert predecessor is Stage.DORMANT or stage in TRANSITIONS[predecessor]
    for n, expected in zip((0, 1, 2, 6, 7, 8, 20), row, strict=True):
        before = rewards.seed_potential(stage, n - 1) if n else rewards.seed_potential(predecessor, 4)
        assert rewards.shaping(before, rewards.seed_potential(stage, n), GAMMA, 0.3) == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Stage.UNKNOWN, 0.0),
        (Stage.DORMANT, 0.0),
        (Stage.GERMINATED, 1.0),
        (Stage.TRAINING, 2.0),
        (Stage.BLENDING, 3.5),
        (Stage.HOLDING, 5.5),
        (Stage.FOSSILIZED, 6.0),
        (Stage.PRUNED, 0.0),
        (Stage.EMBARGOED, 0.0),
        (Stage.RESETTING, 0.0),
    ],
)
def test_potential_on_entering_a_stage(stage, expected):
    assert rewards.seed_potential(stage, 0) == expected


def test_every_stage_has_a_tested_potential():
    assert len(STAGES) == 10


@pytest.mark.parametrize(("ticks", "dwell"), [(1, 0.3), (6, 1.8), (7, 2.0), (500, 2.0)])
def test_potential_grows_with_dwell_up_to_two_in_every_stage(ticks, dwell):
    for stage in STAGES:
        grown = rewards.seed_potential(stage, ticks) - rewards.seed_potential(stage, 0)
        assert grown == pytest.approx(dwell, abs=1e-12)


@given(path=st.lists(st.floats(0, 20), min_size=2, max_size=30), gamma=st.floats(0.5, 1.0))
def test_discounted_shaping_telescopes_over_any_path_of_potentials(path, gamma):
    steps = len(path) - 1
    total = sum(gamma**t * rewards.shaping(path[t], path[t + 1], gamma, 0.3) for t in range(steps))
    assert total == pytest.approx(0.3 * (gamma**steps * path[-1] - path[0]), abs=1e-9)


def test_rent_is_linear_in_the_overhead_and_priced_by_the_budget():
    assert rewards.rent(25_000.0, CONFIG) == pytest.approx(0.005, abs=1e-15)
    assert rewards.rent(50.0, RewardConfig(param_budget=2000, param_penalty_weight=0.1)) == pytest.approx(0.0025)
    assert rewards.rent(0.0, CONFIG) == 0.0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(5.0, 4.0, 40.0 / 9.0), (1.0, 9.0, 1.8), (2.0, 2.0, 2.0), (0.0, 4.0, 0.0), (4.0, 0.0, 0.0), (-1.0, 4.0, 0.0)],
)
def test_harmonic_mean_literals(a, b, expected):
    assert rewards.harmonic(a, b) == pytest.approx(expected, abs=1e-12)


@given(a=st.floats(0.01, 100), b=st.floats(0.01, 100))
def test_harmonic_mean_is_symmetric_and_lies_between_its_arguments(a, b):
    value = rewards.harmonic(a, b)
    assert value == rewards.harmonic(b, a)
    assert min(a, b) * (1 - 1e-9) <= value <= max(a, b) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("holding", "ticks", "improvement", "contribution", "expected", "why"),
    [
        (True, 5, 5.0, 4.0, 0.3 + 0.5 * 40.0 / 9.0, "paid in full after five epochs"),
        (True, 50, 5.0, 4.0, 0.3 + 0.5 * 40.0 / 9.0, "no more than in full"),
        (True, 2, 5.0, 4.0, 0.4 * (0.3 + 0.5 * 40.0 / 9.0), "two fifths after two epochs"),
        (True, 0, 5.0, 4.0, 0.0, "nothing without holding"),
        (True, 5, 1.0, 9.0, 0.3 + 0.5 * 1.8, "imbalance is discounted"),
        (True, 5, 3.0, 1.0, 0.3 + 0.5 * 1.5, "one point is enough"),
        (True, 5, 3.0, 0.999, -0.2, "below one point is non-contributing"),
        (True, 5, 3.0, None, -0.2, "unmeasured is non-contributing"),
        (True, 5, None, 2.0, -0.5, "unknown improvement counts as none: looks like ransom"),
        (True, 5, -0.4, 2.0, -0.5, "the seed only looks good because the others need it"),
        (True, 5, 0.0, 2.0, -0.5, "no improvement at all"),
        (True, 5, -1.0, 0.1, -0.2, "a tenth of a point is not yet ransom"),
        (True, 5, -1.0, -3.0, -0.2, "harmful for everyone"),
        (True, 5, None, None, -0.2, "nothing known"),
        (False, 5, 5.0, 4.0, -0.5, "wrong stage"),
    ],
)
def test_fossilise_bonus_branch_by_branch(holding, ticks, improvement, contribution, expected, why):
    amount = rewards.fossilise_bonus(holding, ticks, improvement, contribution, CONFIG)
    assert amount == pytest.approx(expected, abs=1e-12), why


def test_terminal_gain_pays_five_for_a_hundred_points():
    assert rewards.terminal_gain(2.0, CONFIG) == pytest.approx(0.1, abs=1e-15)
    assert rewards.terminal_gain(-3.0, CONFIG) == pytest.approx(-0.15, abs=1e-15)


@pytest.mark.parametrize(
    ("accuracy", "parameters", "scale", "expected"),
    [
        (75.0, 100_000, 1.0, 0.73),
        (75.0, 100_000, 4.0, 2.92),
        (0.0, 50_000_000, 3.0, -3.0),  # clamped to -1 before scaling
        (100.0, 0, 2.0, 2.0),
    ],
)
def test_sparse_terminal_is_clamped_before_it_is_scaled(accuracy, parameters, scale, expected):
    config = RewardConfig(sparse_reward_scale=scale)
    assert rewards.sparse_terminal(accuracy, parameters, config) == pytest.approx(expected, abs=1e-12)

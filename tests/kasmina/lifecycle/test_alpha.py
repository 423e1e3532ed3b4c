"""Amplitude controller: curves, ramps and their limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.kasmina.lifecycle.alpha import AlphaController, ramp_share
from esper_ray.leyline.actions import AlphaCurve, AlphaMode

UNIT = st.floats(0, 1)
CURVE = st.sampled_from(list(AlphaCurve))
STEEPNESS = st.floats(0.1, 1e4)

# Amplitude from 0 to 1 after each tick.
RAMPS = [
    (3, "LINEAR", 12, [0.3333, 0.6667, 1]),
    (3, "COSINE", 12, [0.25, 0.75, 1]),
    (3, "SIGMOID", 6, [0.2447, 0.7553, 1]),
    (3, "SIGMOID", 12, [0.1173, 0.8827, 1]),
    (3, "SIGMOID", 24, [0.0180, 0.9820, 1]),
    (5, "LINEAR", 12, [0.2, 0.4, 0.6, 0.8, 1]),
    (5, "COSINE", 12, [0.0955, 0.3455, 0.6545, 0.9045, 1]),
    (5, "SIGMOID", 6, [0.1043, 0.3391, 0.6609, 0.8957, 1]),
    (5, "SIGMOID", 12, [0.0242, 0.2301, 0.7699, 0.9758, 1]),
    (5, "SIGMOID", 24, [0.0007, 0.0832, 0.9168, 0.9993, 1]),
    (8, "LINEAR", 12, [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]),
    (8, "COSINE", 12, [0.0381, 0.1464, 0.3087, 0.5, 0.6913, 0.8536, 0.9619, 1]),
    (8, "SIGMOID", 6, [0.0529, 0.1491, 0.3020, 0.5, 0.6980, 0.8509, 0.9471, 1]),
    (8, "SIGMOID", 12, [0.0086, 0.0452, 0.1808, 0.5, 0.8192, 0.9548, 0.9914, 1]),
    (8, "SIGMOID", 24, [0.0001, 0.0025, 0.0474, 0.5, 0.9526, 0.9975, 0.9999, 1]),
]


def at_rest(alpha):
    return AlphaController(alpha=alpha, start=alpha, target=alpha)


def ticks_of(controller):
    seen = []
    while controller.mode is not AlphaMode.HOLD:
        controller = controller.ticked()
        seen.append(controller)
    return seen


@pytest.mark.parametrize(("ticks", "curve", "steepness", "expected"), RAMPS)
def test_ramps_follow_the_table(ticks, curve, steepness, expected):
    ramp = AlphaController().retargeted(1.0, ticks, AlphaCurve[curve], steepness)
    assert [state.alpha for state in ticks_of(ramp)] == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(("ticks", "curve", "steepness", "expected"), RAMPS)
def test_a_ramp_down_mirrors_the_ramp_up(ticks, curve, steepness, expected):
    ramp = at_rest(1.0).retargeted(0.5, ticks, AlphaCurve[curve], steepness)
    assert ramp.mode is AlphaMode.DOWN
    assert [s.alpha for s in ticks_of(ramp)] == pytest.approx([1 - x / 2 for x in expected], abs=5.1e-5)


@given(UNIT, UNIT, st.integers(0, 30), CURVE, STEEPNESS)
def test_a_ramp_is_monotone_does_not_overshoot_and_lands_exactly(start, target, ticks, curve, steepness):
    ramp = at_rest(start).retargeted(target, ticks, curve, steepness)
    states = [ramp, *ticks_of(ramp)]
    path = [state.alpha for state in states]
    assert path == sorted(path, reverse=target < start)
    assert all(min(start, target) <= alpha <= max(start, target) for alpha in path)
    assert path[-1] == target
    assert states[-1].at_target
    assert len(states) - 1 in {0, ticks}


@given(CURVE, STEEPNESS)
def test_curves_pass_through_both_ends_and_the_middle(curve, steepness):
    shares = [ramp_share(curve, time, steepness) for time in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.0, 0.5, 1.0], abs=1e-9)


@pytest.mark.parametrize("curve", AlphaCurve)
def test_time_outside_the_ramp_counts_as_its_end(curve):
    assert (ramp_share(curve, -0.5), ramp_share(curve, 1.5)) == (0.0, 1.0)


def test_a_sigmoid_without_slope_is_a_straight_line():
    assert ramp_share(AlphaCurve.SIGMOID, 0.3, 0.0) == 0.3


def test_a_ramp_reports_mode_progress_and_mean_slope():
    ramp = at_rest(0.25).retargeted(1.0, 3, AlphaCurve.SIGMOID, 12.0)
    assert (ramp.mode, ramp.start, ramp.target, ramp.total, ramp.done) == (AlphaMode.UP, 0.25, 1.0, 3, 0)
    assert ramp.velocity == 0.25
    assert not ramp.at_target
    states = ticks_of(ramp)
    assert [state.done for state in states] == [1, 2, 3]
    assert [state.velocity for state in states] == [0.25, 0.25, 0.0]


def test_a_ramp_of_zero_ticks_jumps_to_the_target():
    jumped = at_rest(0.2).retargeted(0.7, 0, AlphaCurve.COSINE, 12.0)
    assert (jumped.alpha, jumped.mode, jumped.total, jumped.done) == (0.7, AlphaMode.HOLD, 0, 0)
    assert jumped.at_target


def test_a_ramp_to_the_present_amplitude_ends_at_once():
    same = at_rest(1.0).retargeted(1.0, 8, AlphaCurve.LINEAR, 12.0)
    assert (same.mode, same.total, same.velocity) == (AlphaMode.HOLD, 0, 0.0)


@pytest.mark.parametrize("ticks", [0, 3])
def test_a_running_ramp_cannot_be_retargeted(ticks):
    ramp = AlphaController().retargeted(1.0, 5, AlphaCurve.LINEAR, 12.0).ticked()
    with pytest.raises(ValueError, match=r"ramping UP to 1\.0"):
        ramp.retargeted(0.5, ticks, AlphaCurve.LINEAR, 12.0)


@pytest.mark.parametrize("target", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_target_outside_the_unit_interval_is_refused_with_its_value(target):
    with pytest.raises(ValueError, match=rf"lie in \[0, 1\], got {target}"):
        AlphaController().retargeted(target, 3, AlphaCurve.LINEAR, 12.0)


def test_a_negative_ramp_length_is_refused_with_its_value():
    with pytest.raises(ValueError, match="got -1"):
        AlphaController().retargeted(1.0, -1, AlphaCurve.LINEAR, 12.0)


def test_steepness_has_a_minimum():
    assert AlphaController().retargeted(1.0, 3, AlphaCurve.SIGMOID, 0.0).steepness == 0.1


def test_a_tick_at_rest_changes_nothing():
    rest = at_rest(0.5)
    assert rest.ticked() == rest


@pytest.mark.parametrize("steepness", [float("inf"), float("nan")])
def test_a_steepness_that_is_not_finite_is_refused_with_its_value(steepness):
    with pytest.raises(ValueError, match=f"steepness must be finite, got {steepness}"):
        AlphaController().retargeted(1.0, 3, AlphaCurve.SIGMOID, steepness)


@given(UNIT, st.integers(1, 12), CURVE)
def test_a_forced_ramp_runs_its_ticks_at_constant_amplitude(alpha, ticks, curve):
    ramp = at_rest(alpha).retargeted(alpha, ticks, curve, 12.0, even_if_there=True)
    states = ticks_of(ramp)
    assert (ramp.mode, len(states)) == (AlphaMode.UP, ticks)
    assert {state.alpha for state in states} == {alpha}
    shares = [state.share for state in states]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0

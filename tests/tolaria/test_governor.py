"""Governor: every fault causes a panic, and healthy curves cause none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.leyline.config.run import GovernorConfig
from esper_ray.tolaria.governor import Governor

RANDOM_GUESS = math.log(10)
CHANCE = 10.0
EXAMPLES = 10_000
CONFIG = GovernorConfig(window=20, min_history=5, loss_multiple=3.0, deviations=6.0, confirmations=2)


def governor_after(losses=(2.0, 1.9, 1.8, 1.7, 1.6), random_guess=RANDOM_GUESS, config=CONFIG):
    governor = Governor(config, random_guess, CHANCE, EXAMPLES)
    for loss in losses:
        assert governor.judge(loss, loss, 50.0).healthy
    return governor


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("which", "name"), [(0, "training"), (1, "validation")])
def test_a_nonfinite_loss_is_a_panic_at_once(broken, which, name):
    losses = [1.0, 1.0]
    losses[which] = broken
    verdict = Governor(CONFIG, RANDOM_GUESS, CHANCE, EXAMPLES).judge(*losses, 50.0)
    assert verdict.panic
    assert not verdict.healthy
    assert verdict.reason == f"{name} loss is not finite"
    assert verdict.value is broken or verdict.value == broken


def test_divergence_is_a_panic_once_confirmed():
    governor = governor_after()
    first, second = governor.judge(1.0, 8.0, 50.0), governor.judge(1.0, 8.5, 50.0)
    assert (first.panic, first.healthy) == (False, False)
    assert (second.panic, second.healthy) == (True, False)
    assert second.reason == "validation loss diverges"
    assert second.value == 8.5
    assert second.threshold == pytest.approx(3.0 * RANDOM_GUESS)  # three times random guessing


def test_a_healthy_epoch_in_between_resets_the_confirmations():
    governor = governor_after()
    assert not governor.judge(1.0, 8.0, 50.0).panic
    assert governor.judge(1.0, 1.5, 50.0).healthy
    assert not governor.judge(1.0, 8.0, 50.0).panic
    assert governor.judge(1.0, 8.0, 50.0).panic


@pytest.mark.parametrize("confirmations", [1, 2, 4])
def test_a_panic_takes_exactly_the_configured_confirmations(confirmations):
    governor = governor_after(config=CONFIG.model_copy(update={"confirmations": confirmations}))
    panics = [governor.judge(1.0, 9.0, 50.0).panic for _ in range(confirmations)]
    assert panics == [False] * (confirmations - 1) + [True]


def test_the_threshold_of_a_tight_history_by_hand():
    """Median 1.2, median absolute deviation 0.1: 1.2 + 6 * 1.4826 * 0.1 = 2.08956, above 3 * 0.5."""
    history = (1.0, 1.1, 1.2, 1.3, 1.4)
    assert governor_after(history, random_guess=0.5).judge(1.0, 2.0895, 50.0).healthy
    verdict = governor_after(history, random_guess=0.5).judge(1.0, 2.0896, 50.0)
    assert not verdict.healthy
    assert verdict.threshold == pytest.approx(2.08956)


def test_the_deviation_is_at_least_a_hundredth_of_the_random_guess_loss():
    """Without a minimum deviation any change after a plateau would diverge: 1 + 6 * 0.01 * 0.2 = 1.012."""
    assert governor_after((1.0,) * 5, random_guess=0.2).judge(1.0, 1.0119, 50.0).healthy
    verdict = governor_after((1.0,) * 5, random_guess=0.2).judge(1.0, 1.0121, 50.0)
    assert not verdict.healthy
    assert verdict.threshold == pytest.approx(1.012)


def test_divergence_is_not_judged_without_a_history():
    governor = governor_after((1.0, 1.0, 1.0, 1.0))
    assert governor.judge(1.0, 1e6, 50.0).healthy


def test_unhealthy_losses_do_not_enter_the_history():
    """A slow explosion cannot raise its own threshold."""
    patient = governor_after(config=CONFIG.model_copy(update={"confirmations": 50}))
    thresholds = {patient.judge(1.0, 10.0 + k, 50.0).threshold for k in range(30)}
    assert len(thresholds) == 1
    assert list(patient.state.losses) == [2.0, 1.9, 1.8, 1.7, 1.6]


def test_the_history_is_limited_to_the_window():
    governor = governor_after([5.0] * 10 + [0.5] * 3, config=CONFIG.model_copy(update={"window": 3, "min_history": 2}))
    assert list(governor.state.losses) == [0.5, 0.5, 0.5]


def test_a_large_training_loss_is_no_divergence():
    """Training losses are only checked for finiteness; divergence is judged on the validation loss."""
    governor = governor_after()
    assert all(governor.judge(1e9, 1.5, 50.0).healthy for _ in range(5))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10.0), noise=st.floats(0.0, 0.2))
def test_a_noisy_falling_loss_is_healthy(seed, scale, noise):
    """Thresholds scale with the loss: the same curve in other units is healthy too."""
    rng = np.random.default_rng(seed)
    governor = Governor(CONFIG, scale, CHANCE, EXAMPLES)
    for epoch in range(100):
        loss = scale * (0.1 + math.exp(-epoch / 20)) * math.exp(noise * rng.standard_normal())
        assert governor.judge(loss, loss, 50.0).healthy


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10.0))
def test_an_explosion_after_a_healthy_curve_is_a_panic(seed, scale):
    rng = np.random.default_rng(seed)
    governor = Governor(CONFIG, scale, CHANCE, EXAMPLES)
    for epoch in range(20):
        governor.judge(scale, scale * (0.1 + math.exp(-epoch / 20)) * math.exp(0.1 * rng.standard_normal()), 50.0)
    assert [governor.judge(scale, 20.0 * scale, 50.0).panic for _ in range(2)] == [False, True]


def governor_after_accuracies(accuracies=(50.0, 51.0, 52.0, 51.0, 50.0), **changes):
    """A governor with a history of these committed accuracies."""
    governor = Governor(CONFIG.model_copy(update=changes), RANDOM_GUESS, CHANCE, EXAMPLES)
    for accuracy in accuracies:
        assert governor.judge(1.0, 1.0, accuracy).healthy
    return governor


def test_collapse_of_the_committed_accuracy_is_a_panic_once_confirmed():
    """Median 51, chance 10: half of the accuracy above chance is lost below 10 + 0.5 * 41 = 30.5."""
    assert governor_after_accuracies().judge(1.0, 1.0, 30.6).healthy
    governor = governor_after_accuracies()
    first, second = governor.judge(1.0, 1.0, 30.0), governor.judge(1.0, 1.0, 12.0)
    assert (first.panic, second.panic) == (False, True)
    assert second.reason == "committed accuracy collapses"
    assert second.value == 12.0
    assert second.threshold == pytest.approx(30.5)


def test_near_chance_the_collapse_threshold_is_the_noise():
    """Median 14, deviation 1.4826: half of the four points above chance is within the noise."""
    history = (13.0, 14.0, 15.0, 14.0, 13.0)
    assert governor_after_accuracies(history).judge(1.0, 1.0, 6.0).healthy
    assert governor_after_accuracies(history).judge(1.0, 1.0, 4.9).threshold == pytest.approx(14.0 - 6.0 * 1.4826)


def test_with_few_examples_the_standard_error_lowers_the_threshold():
    """50 % of 25 examples has a standard error of 10 points; six of them reach below chance."""
    governor = Governor(CONFIG, RANDOM_GUESS, CHANCE, 25)
    for _ in range(5):
        governor.judge(1.0, 1.0, 50.0)
    assert governor.judge(1.0, 1.0, 0.0).healthy
    with_many_examples = governor_after_accuracies((50.0,) * 5)
    assert with_many_examples.judge(1.0, 1.0, 0.0).threshold == pytest.approx(30.0)  # half of 40 above chance


def test_collapse_is_optional_and_needs_a_history():
    assert governor_after_accuracies(collapse_share=0.0).judge(1.0, 1.0, 0.0).healthy
    assert governor_after_accuracies((50.0,) * 4).judge(1.0, 1.0, 0.0).healthy


def test_divergence_and_collapse_confirm_each_other_until_a_healthy_epoch():
    governor = governor_after_accuracies()
    assert not governor.judge(1.0, 9.0, 51.0).panic
    assert governor.judge(1.0, 1.0, 51.0).healthy
    assert not governor.judge(1.0, 1.0, 20.0).panic
    assert governor.judge(1.0, 9.0, 51.0).panic


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0.0, 4.0), top=st.floats(20.0, 95.0))
def test_a_noisy_rising_accuracy_is_healthy(seed, noise, top):
    rng = np.random.default_rng(seed)
    governor = Governor(CONFIG, RANDOM_GUESS, CHANCE, EXAMPLES)
    for epoch in range(100):
        usual = CHANCE + (top - CHANCE) * (1 - math.exp(-epoch / 20))
        accuracy = min(max(usual + noise * rng.uniform(-1, 1), 0.0), 100.0)
        assert governor.judge(1.0, 1.0, accuracy).healthy


def test_a_restored_state_gives_the_same_verdicts():
    first, second = governor_after_accuracies(), Governor(CONFIG, RANDOM_GUESS, CHANCE, EXAMPLES)
    first.judge(1.0, 1.0, 12.0)
    second.state = first.state
    assert first.judge(1.0, 1.0, 12.0) == second.judge(1.0, 1.0, 12.0)
    assert second.state == first.state

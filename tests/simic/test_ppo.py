"""PPO losses against numbers computed by hand; every mean excludes steps without weight."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.simic.ppo import (
    approximate_kl,
    clip_share,
    clipped_policy_loss,
    correlation,
    explained_variance,
    ratio_extremes,
    value_loss,
    weighted_mean,
    weighted_variance,
)

CLIP = 0.2
ONE = torch.tensor(1.0)


def loss_of(ratio, advantage):
    return clipped_policy_loss(torch.tensor([math.log(ratio)]), torch.tensor([advantage]), torch.ones(1), CLIP, ONE)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "why"),
    [
        (1.1, 2.0, -2.2, "inside the range, positive advantage"),
        (1.1, -2.0, 2.2, "inside the range, negative advantage"),
        (1.5, 2.0, -2.4, "above the range, positive advantage: clipped at 1.2"),
        (1.5, -2.0, 3.0, "above the range, negative advantage: not clipped"),
        (0.5, 2.0, -1.0, "below the range, positive advantage: not clipped"),
        (0.5, -2.0, 1.6, "below the range, negative advantage: clipped at 0.8"),
    ],
)
def test_clipped_loss_of_one_step_by_hand(ratio, advantage, expected, why):
    assert loss_of(ratio, advantage).item() == pytest.approx(expected, rel=1e-6), why


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.1, 2.0, -2.2), (1.5, 2.0, 0.0), (1.5, -2.0, 3.0), (0.5, 2.0, -1.0), (0.5, -2.0, 0.0)],
)
def test_gradient_vanishes_exactly_where_the_clip_holds(ratio, advantage, expected):
    """``d loss / d log r = -r A`` where it is not capped."""
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    clipped_policy_loss(log_ratio, torch.tensor([advantage]), torch.ones(1), CLIP, ONE).backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad.item() == pytest.approx(expected, rel=1e-6)


def test_loss_divides_by_the_count_and_not_by_the_weights():
    """A rare head with one step in ten weighs a tenth of the operation head."""
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    loss = clipped_policy_loss(torch.zeros(4), torch.full((4,), 3.0), weights, CLIP, torch.tensor(10.0))
    assert loss.item() == pytest.approx(-0.3)


def test_the_loss_of_an_empty_batch_is_zero():
    loss = clipped_policy_loss(torch.zeros(3), torch.ones(3), torch.zeros(3), CLIP, torch.tensor(0.0))
    assert loss.item() == 0.0


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 30))
def test_at_ratio_one_the_loss_is_minus_the_weighted_mean_advantage(seed, size):
    rng = np.random.default_rng(seed)
    advantages = torch.from_numpy(rng.normal(size=size))
    weights = torch.from_numpy(rng.integers(0, 2, size).astype(np.float64))
    weights[0] = 1.0
    loss = clipped_policy_loss(torch.zeros(size, dtype=torch.float64), advantages, weights, CLIP, weights.sum())
    naive = -sum(a for a, w in zip(advantages.tolist(), weights.tolist(), strict=True) if w) / weights.sum().item()
    assert loss.item() == pytest.approx(naive, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 30))
def test_steps_without_weight_have_no_effect_and_no_gradient(seed, size):
    rng = np.random.default_rng(seed)
    is_weighted = rng.integers(0, 2, size).astype(bool)
    is_weighted[0], is_weighted[-1] = True, False
    weights = torch.from_numpy(is_weighted.astype(np.float64))
    log_ratio, noise = torch.from_numpy(rng.normal(size=(2, size)))
    advantages, predictions, targets = torch.from_numpy(rng.normal(size=(3, size)))
    weighted = torch.from_numpy(is_weighted)
    noisy = torch.where(weighted, log_ratio, noise * 20).requires_grad_()
    count = weights.sum()

    def results(ratios, w, a, p, t, of=count):
        return [
            clipped_policy_loss(ratios, a, w, CLIP, of),
            clip_share(ratios, w, CLIP),
            approximate_kl(ratios, w),
            value_loss(p, t, w),
        ]

    full = results(noisy, weights, advantages, predictions, targets)
    short = results(
        log_ratio[weighted], weights[weighted], advantages[weighted], predictions[weighted], targets[weighted]
    )
    for a, b in zip(full, short, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-9, abs=1e-9)
    (full[0] + full[2]).backward()
    assert noisy.grad is not None
    assert (noisy.grad[~weighted] == 0).all()


def test_weighted_mean_by_hand():
    assert weighted_mean(torch.tensor([1.0, 2.0, 50.0]), torch.tensor([1.0, 3.0, 0.0])).item() == pytest.approx(1.75)
    assert weighted_mean(torch.tensor([5.0]), torch.zeros(1)).item() == 0.0


def test_clip_share_counts_weighted_steps_outside_the_range():
    ratios = torch.tensor([1.0, 1.19, 1.21, 0.81, 0.79, 3.0]).log()
    assert clip_share(ratios, torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]), CLIP).item() == pytest.approx(0.4)


def test_kl_is_zero_for_equal_policies_and_positive_otherwise():
    assert approximate_kl(torch.zeros(5), torch.ones(5)).item() == 0.0
    # r = 2: 2 - 1 - ln 2; r = 1/2: 1/2 - 1 + ln 2; their mean is 1/4
    assert approximate_kl(torch.tensor([2.0, 0.5]).log(), torch.ones(2)).item() == pytest.approx(0.25)


@given(st.floats(-5, 5))
def test_kl_estimate_is_never_negative(log_ratio):
    assert approximate_kl(torch.tensor([log_ratio], dtype=torch.float64), torch.ones(1)).item() >= -1e-12


def test_kl_estimate_is_unbiased_over_the_old_policy():
    """Weighting each outcome by its old probability gives KL(old || new) exactly."""
    old, new = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)
    exact = (old * (old / new).log()).sum().item()
    assert approximate_kl((new / old).log(), old).item() == pytest.approx(exact, rel=1e-9)


def test_value_loss_is_half_the_weighted_mean_square():
    loss = value_loss(torch.tensor([1.0, 4.0, 9.0]), torch.tensor([0.0, 1.0, -9.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert loss.item() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ([1.0, 3.0], 1.0),  # perfect
        ([2.0, 2.0], 0.0),  # a constant explains nothing
        ([11.0, 13.0], 1.0),  # a constant error is not variance
        ([1.5, 2.5], 0.75),  # residuals -0.5, 0.5: variance 0.25 of 1
        ([3.0, 1.0], -3.0),  # upside down
    ],
)
def test_explained_variance_by_hand(predictions, expected):
    ratio, spread = explained_variance(torch.tensor(predictions), torch.tensor([1.0, 3.0]), torch.ones(2))
    assert ratio.item() == pytest.approx(expected, abs=1e-6)
    assert spread.item() == pytest.approx(1.0)


def test_explained_variance_uses_weighted_steps_only():
    ratio, spread = explained_variance(
        torch.tensor([1.5, 70.0, 2.5]), torch.tensor([1.0, -40.0, 3.0]), torch.tensor([1.0, 0.0, 1.0])
    )
    assert ratio.item() == pytest.approx(0.75, abs=1e-6)
    assert spread.item() == pytest.approx(1.0)


@pytest.mark.parametrize("constant", [4.0, 0.1, -1e-3])
def test_explained_variance_of_constant_targets_is_not_a_number(constant):
    """Also if rounding makes the mean of equal numbers differ from them."""
    predictions = torch.linspace(0, 1, 7)
    ratio, spread = explained_variance(predictions, torch.full((7,), constant), torch.ones(7))
    assert math.isnan(ratio.item())
    assert spread.item() == pytest.approx(0.0, abs=1e-12)


def test_the_extremes_of_ratios_by_hand():
    """Ratios 0.5, 1.1, 1.3, 2.0 and, without weight, 9.0; the clip range is 0.8 to 1.2."""
    log_ratio = torch.tensor([0.5, 1.1, 1.3, 2.0, 9.0]).log()
    extremes = ratio_extremes(log_ratio, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]), CLIP)
    assert {name: pytest.approx(float(value)) for name, value in extremes.items()} == {
        "ratio_max": 2.0,
        "clip_share_up": 0.5,
        "clip_share_down": 0.25,
    }


def test_the_shares_above_and_below_the_range_are_those_outside_it():
    log_ratio = torch.randn(200, generator=torch.Generator().manual_seed(3)) * 0.3
    weights = (torch.rand(200, generator=torch.Generator().manual_seed(4)) > 0.3).float()
    extremes = ratio_extremes(log_ratio, weights, CLIP)
    both = extremes["clip_share_up"] + extremes["clip_share_down"]
    assert float(both) == pytest.approx(float(clip_share(log_ratio, weights, CLIP)), abs=1e-6)


def test_correlation_and_variance_count_weighted_entries_only():
    first, second = torch.tensor([1.0, 2.0, 4.0, 50.0]), torch.tensor([2.0, 1.0, 6.0, -9.0])
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    expected = np.corrcoef([1.0, 2.0, 4.0], [2.0, 1.0, 6.0])[0, 1]
    assert float(correlation(first, second, weights)) == pytest.approx(expected, rel=1e-5)
    assert float(weighted_variance(first, weights)) == pytest.approx(np.var([1.0, 2.0, 4.0]), rel=1e-5)
    assert math.isnan(float(correlation(torch.ones(4), second, weights)))

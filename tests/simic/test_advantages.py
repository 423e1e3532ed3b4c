"""Generalised advantages against their quadratic definition, and standardisation under weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.simic.advantages import argument_advantages, generalised_advantages, standardised


def naive_advantages(rewards, values, bootstrap, gamma, lam):
    """The definition for one episode: ``A_t = sum_l (gamma lam)^l delta_(t+l)``, in O(T^2)."""
    following = [*values[1:], bootstrap]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, following, strict=True)]
    steps = len(rewards)
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, steps)) for t in range(steps)]


@st.composite
def packings(draw):
    """Episodes of different lengths, terminated (bootstrap 0) or truncated, padded with random values."""
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (len(lengths), max(lengths) + draw(st.integers(0, 3)))
    rewards, values = rng.normal(size=shape) * 3, rng.normal(size=shape) * 3
    terminated = draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    bootstrap = np.where(terminated, 0.0, rng.normal(size=len(lengths)) * 3)
    weights = (np.arange(shape[1])[None, :] < np.array(lengths)[:, None]).astype(np.float64)
    return lengths, rewards, values, bootstrap, weights


def advantages_of(rewards, values, bootstrap, weights, gamma, lam):
    tensors = (torch.from_numpy(x.copy()) for x in (rewards, values, bootstrap, weights))
    return generalised_advantages(*tensors, gamma, lam).numpy()


def test_advantages_of_two_steps_by_hand():
    # delta_1 = 2 + 0.5*4 - 0.25 = 3.75; delta_0 = 1 + 0.5*0.25 - 0.5 = 0.625; A_0 = 0.625 + 0.25*3.75
    result = generalised_advantages(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.25]]), torch.tensor([4.0]), torch.ones(1, 2), 0.5, 0.5
    )
    assert result.tolist() == [[1.5625, 3.75]]


def test_a_truncated_episode_is_bootstrapped_and_a_terminated_one_is_not():
    rewards, values, weights = torch.tensor([[1.0]]), torch.tensor([[0.25]]), torch.ones(1, 1)
    ended = generalised_advantages(rewards, values, torch.tensor([0.0]), weights, 0.9, 0.95)
    cut = generalised_advantages(rewards, values, torch.tensor([10.0]), weights, 0.9, 0.95)
    assert ended.item() == pytest.approx(0.75)
    assert cut.item() == pytest.approx(9.75)


@settings(max_examples=40)
@given(packing=packings(), gamma=st.floats(0.0, 1.0), lam=st.floats(0.0, 1.0))
def test_advantages_equal_the_quadratic_definition_on_any_packing(packing, gamma, lam):
    lengths, rewards, values, bootstrap, weights = packing
    result = advantages_of(rewards, values, bootstrap, weights, gamma, lam)
    for row, length in enumerate(lengths):
        naive = naive_advantages(rewards[row, :length], values[row, :length], bootstrap[row], gamma, lam)
        np.testing.assert_allclose(result[row, :length], naive, rtol=1e-9, atol=1e-9)
        assert (result[row, length:] == 0).all()


@settings(max_examples=40)
@given(packing=packings(), noise=st.integers(0, 2**32 - 1))
def test_the_content_of_the_padding_has_no_effect(packing, noise):
    _, rewards, values, bootstrap, weights = packing
    rng = np.random.default_rng(noise)
    other_rewards = np.where(weights > 0, rewards, rng.normal(size=rewards.shape) * 1e6)
    other_values = np.where(weights > 0, values, rng.normal(size=values.shape) * 1e6)
    first = advantages_of(rewards, values, bootstrap, weights, 0.99, 0.95)
    assert (first == advantages_of(other_rewards, other_values, bootstrap, weights, 0.99, 0.95)).all()


@settings(max_examples=40)
@given(packing=packings(), extra=st.integers(1, 5))
def test_the_length_of_the_padding_has_no_effect(packing, extra):
    _, rewards, values, bootstrap, weights = packing
    first = advantages_of(rewards, values, bootstrap, weights, 0.99, 0.95)
    longer = [np.pad(x, ((0, 0), (0, extra)), constant_values=fill) for x, fill in ((rewards, 9), (values, 9))]
    padded = advantages_of(*longer, bootstrap, np.pad(weights, ((0, 0), (0, extra))), 0.99, 0.95)
    assert (padded[:, : first.shape[1]] == first).all()
    assert (padded[:, first.shape[1] :] == 0).all()


@settings(max_examples=40)
@given(packing=packings(), gamma=st.floats(0.0, 1.0))
def test_lambda_one_is_the_return_minus_the_baseline(packing, gamma):
    lengths, rewards, values, bootstrap, weights = packing
    result = advantages_of(rewards, values, bootstrap, weights, gamma, 1.0)
    for row, length in enumerate(lengths):
        for t in range(length):
            tail = sum(gamma ** (k - t) * rewards[row, k] for k in range(t, length))
            tail += gamma ** (length - t) * bootstrap[row]
            assert result[row, t] == pytest.approx(tail - values[row, t], abs=1e-9)


def test_argument_advantages_measure_against_the_operation_taken():
    assert argument_advantages(torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.5])).tolist() == [2.0, -1.5]


def test_standardised_advantages_by_hand():
    # weighted: values 1 and 5, mean 3, deviation 2; the 99 has no weight
    result = standardised(torch.tensor([[1.0, 99.0, 5.0]]), torch.tensor([[1.0, 0.0, 1.0]]), spread=4.0)
    assert result.tolist() == [[-1.0, 0.0, 1.0]]


def test_standardising_divides_by_at_least_a_hundredth_of_the_spread():
    # mean 0, deviation 0.01, spread 10: divided by 0.1
    result = standardised(torch.tensor([-0.01, 0.01]), torch.ones(2), spread=10.0)
    assert result.tolist() == pytest.approx([-0.1, 0.1])


@pytest.mark.parametrize("factor", [1e-4, 0.01, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("deviation", [1e-3, 1.0])
def test_standardised_advantages_do_not_depend_on_the_factor_of_rewards(factor, deviation):
    advantages = deviation * torch.tensor([0.5, -2.0, 1.25, 3.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    expected = standardised(advantages, weights, spread=1.0)
    torch.testing.assert_close(standardised(factor * advantages, weights, spread=factor), expected)


def test_standardised_advantages_without_weights_are_zero():
    assert standardised(torch.tensor([1.0, -5.0]), torch.zeros(2), spread=1.0).tolist() == [0.0, 0.0]


def test_advantages_of_equal_returns_standardise_to_zero():
    assert standardised(torch.full((4,), 7.0), torch.ones(4), spread=1.0).tolist() == [0.0] * 4
    assert standardised(torch.tensor([1e-13, -1e-13]), torch.ones(2), spread=0.0).tolist() == [0.0, 0.0]


@settings(max_examples=40)
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=20), seed=st.integers(0, 2**32 - 1))
def test_standardised_advantages_have_weighted_mean_zero_and_at_most_unit_variance(values, seed):
    advantages = torch.tensor(values, dtype=torch.float64)
    weights = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, len(values)).astype(np.float64))
    result = standardised(advantages, weights, spread=10.0)
    assert (result[weights == 0] == 0).all()
    assert (weights * result).sum().item() == pytest.approx(0.0, abs=1e-6)
    weighted = advantages[weights > 0]
    if len(weighted) and weighted.std(correction=0) > 0.1:
        assert result[weights > 0].std(correction=0).item() == pytest.approx(1.0, abs=1e-9)

"""Statistics of returns: constant within a rollout, in any order of episodes, moved by factor and offset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.simic.normalisation import EpisodeRewards, ReturnStatistics, discounted_returns

rewards = st.lists(st.floats(-20, 20), min_size=1, max_size=30).map(np.array)
episodes = st.builds(EpisodeRewards, rewards, st.just(0))
rounds = st.lists(st.lists(episodes, min_size=1, max_size=4), min_size=1, max_size=4)


def learned(episodes_by_round, gamma):
    statistics = ReturnStatistics()
    for round_episodes in episodes_by_round:
        statistics = statistics.learned(round_episodes, gamma)
    return statistics


def test_returns_by_hand():
    assert discounted_returns(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]
    assert discounted_returns(np.array([1.0, 2.0]), 0.5, end=8.0).tolist() == [4.0, 6.0]


def test_without_data_offset_mean_and_spread_are_unknown_or_zero():
    nothing = ReturnStatistics()
    assert (nothing.offset, nothing.mean, nothing.spread) == (None, 0.0, 0.0)
    assert nothing.learned([], 0.9) == nothing


def test_statistics_of_a_round_by_hand():
    """Rewards 1, 2 and 6 have the mean 3; centred they are -2, -1 and 3, with returns -1.75, 0.5 and 3 at gamma 0.5."""
    statistics = ReturnStatistics().learned([EpisodeRewards(np.array([1.0, 2.0, 6.0]))], 0.5)
    assert statistics.offset == 3.0
    assert statistics.mean == pytest.approx(1.75 / 3)
    assert statistics.spread == pytest.approx(np.std([-1.75, 0.5, 3.0]))


@pytest.mark.parametrize(("gamma", "end"), [(0.5, -3.5), (1.0, -4.5)])
def test_steps_that_an_early_end_cuts_off_pay_zero_before_centring(gamma, end):
    """Two of them at an offset of 2 are worth -2 - 0.5 * 2 = -3, or -4; the given end value is added."""
    statistics = ReturnStatistics(offset=2.0)
    centred = statistics.centred(EpisodeRewards(np.array([5.0]), missing=2, end=-0.5), gamma)
    assert centred.rewards.tolist() == [3.0]
    assert centred.end == end


@settings(max_examples=40)
@given(rewards=rewards, missing=st.integers(0, 20), offset=st.floats(-5, 5), gamma=st.floats(0.5, 1.0))
def test_an_early_end_is_worth_the_same_as_steps_that_pay_zero(rewards, missing, offset, gamma):
    """Centring must not make an early end look better or worse than it is."""
    statistics = ReturnStatistics(offset=offset)
    ended = statistics.centred(EpisodeRewards(rewards, missing), gamma)
    padded = statistics.centred(EpisodeRewards(np.concatenate([rewards, np.zeros(missing)])), gamma)
    expected = discounted_returns(padded.rewards, gamma)[: len(rewards)]
    np.testing.assert_allclose(discounted_returns(ended.rewards, gamma, ended.end), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=60)
@given(rounds, st.floats(0.5, 1.0))
def test_mean_and_spread_are_those_of_all_returns_of_centred_rewards(episodes_by_round, gamma):
    statistics = learned(episodes_by_round, gamma)
    offset = np.concatenate([e.rewards for e in episodes_by_round[0]]).mean()
    everything = [discounted_returns(e.rewards - offset, gamma) for es in episodes_by_round for e in es]
    assert statistics.offset == pytest.approx(offset, abs=1e-12)
    assert statistics.mean == pytest.approx(np.concatenate(everything).mean(), rel=1e-6, abs=1e-9)
    assert statistics.spread == pytest.approx(np.concatenate(everything).std(), rel=1e-6, abs=1e-7)


@given(rounds)
def test_learning_does_not_change_the_statistics_of_the_rollout(episodes_by_round):
    """P52 in our form: the statistics are constant within a rollout."""
    statistics = learned(episodes_by_round[:1], 0.99)
    before = statistics.offset, statistics.mean, statistics.spread, statistics.moments.count
    statistics.learned([EpisodeRewards(np.full(9, 1e3))], 0.99)
    assert (statistics.offset, statistics.mean, statistics.spread, statistics.moments.count) == before


@settings(max_examples=60)
@given(rounds, st.sampled_from([0.01, 1.0, 100.0]), st.sampled_from([0.0, 20.0, -7.0]), st.floats(0.5, 1.0))
def test_factor_and_offset_of_rewards_move_the_statistics_with_them(episodes_by_round, factor, offset, gamma):
    moved = [[EpisodeRewards(factor * e.rewards + offset) for e in es] for es in episodes_by_round]
    first, second = learned(episodes_by_round, gamma), learned(moved, gamma)
    assert second.offset == pytest.approx(factor * first.offset + offset, rel=1e-9, abs=1e-9)
    tolerance = 1e-9 * (factor + abs(offset)) * 1e2
    assert second.mean == pytest.approx(factor * first.mean, rel=1e-6, abs=tolerance)
    assert second.spread == pytest.approx(factor * first.spread, rel=1e-6, abs=tolerance)


@pytest.mark.parametrize("reward", [0.0, 20.0, 0.1, -1e6 / 3])
def test_equal_rewards_have_no_spread(reward):
    """Rounding must not become the unit of the critic."""
    statistics = learned([[EpisodeRewards(np.full(n, reward)) for n in (7, 150, 1)] for _ in range(3)], 0.995)
    assert statistics.spread == 0.0
    assert statistics.mean == pytest.approx(0.0, abs=1e-6)


def test_statistics_stay_finite_for_the_largest_rewards():
    statistics = learned([[EpisodeRewards(np.array([1e12, -1e12] * 75))]], 1.0)
    assert np.isfinite([statistics.offset, statistics.mean, statistics.spread]).all()

"""Unit of returns: constant within a rollout and independent of the order of episodes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.simic.normalisation import ReturnScale, discounted_returns

rewards = st.lists(st.floats(-20, 20), min_size=1, max_size=30).map(np.array)
rounds = st.lists(st.lists(rewards, min_size=1, max_size=4), min_size=1, max_size=4)


def test_returns_by_hand():
    assert discounted_returns(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]


def test_the_unit_without_data_or_spread_is_one():
    assert ReturnScale().unit == 1.0
    assert ReturnScale().learned([np.zeros(5)], 0.9).unit == 1.0


@settings(max_examples=60)
@given(rounds, st.floats(0.5, 1.0))
def test_the_unit_is_the_standard_deviation_of_all_returns(episodes_by_round, gamma):
    scale = ReturnScale()
    for episodes in episodes_by_round:
        scale = scale.learned(episodes, gamma)
    everything = np.concatenate(
        [discounted_returns(rewards, gamma) for episodes in episodes_by_round for rewards in episodes]
    )
    expected = everything.std()
    assert scale.unit == pytest.approx(expected if expected > 1e-6 else 1.0, rel=1e-6)


@given(rounds)
def test_learning_does_not_change_the_scale_of_the_rollout(episodes_by_round):
    """P52 in our form: the scale is constant within a rollout."""
    scale = ReturnScale().learned(episodes_by_round[0], 0.99)
    before = scale.unit, scale.moments.count
    scale.learned([np.full(9, 1e3)], 0.99)
    assert (scale.unit, scale.moments.count) == before


@settings(max_examples=60)
@given(rounds, st.floats(0.1, 50))
def test_the_unit_scales_with_the_rewards(episodes_by_round, factor):
    scale, scaled = ReturnScale(), ReturnScale()
    for episodes in episodes_by_round:
        scale = scale.learned(episodes, 0.99)
        scaled = scaled.learned([factor * rewards for rewards in episodes], 0.99)
    if scale.unit not in (1.0, 0.0) and scaled.unit != 1.0:
        assert scaled.unit == pytest.approx(factor * scale.unit, rel=1e-6)

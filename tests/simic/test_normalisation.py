"""The unit of returns: frozen within a rollout, the same whoever played what in which order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.simic.normalisation import ReturnScale, discounted_returns

rewards = st.lists(st.floats(-20, 20), min_size=1, max_size=30).map(np.array)
rounds = st.lists(st.lists(rewards, min_size=1, max_size=4), min_size=1, max_size=4)


def test_returns_by_hand():
    assert discounted_returns(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]


def test_as_long_as_nothing_is_known_the_unit_is_one():
    assert ReturnScale().unit == 1.0
    assert ReturnScale().learned([np.zeros(5)], 0.9).unit == 1.0


@settings(max_examples=60)
@given(rounds, st.floats(0.5, 1.0))
def test_the_unit_is_the_deviation_of_all_returns_ever_seen(played, gamma):
    scale = ReturnScale()
    for episodes in played:
        scale = scale.learned(episodes, gamma)
    everything = np.concatenate([discounted_returns(rewards, gamma) for episodes in played for rewards in episodes])
    expected = everything.std()
    assert scale.unit == pytest.approx(expected if expected > 1e-6 else 1.0, rel=1e-6)


@given(rounds)
def test_learning_leaves_the_scale_of_the_rollout_as_it_was(played):
    """P52 in our form: within a rollout nothing moves."""
    scale = ReturnScale().learned(played[0], 0.99)
    before = scale.unit, scale.moments.count
    scale.learned([np.full(9, 1e3)], 0.99)
    assert (scale.unit, scale.moments.count) == before


@settings(max_examples=60)
@given(rounds, st.floats(0.1, 50))
def test_the_unit_follows_the_unit_of_the_rewards(played, factor):
    one, other = ReturnScale(), ReturnScale()
    for episodes in played:
        one = one.learned(episodes, 0.99)
        other = other.learned([factor * rewards for rewards in episodes], 0.99)
    if one.unit not in (1.0, 0.0) and other.unit != 1.0:
        assert other.unit == pytest.approx(factor * one.unit, rel=1e-6)

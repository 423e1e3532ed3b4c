"""Records of measurements."""

import pytest

from esper_ray.leyline.records import UNMEASURED, Coalition, Measurement

FULL = frozenset({"r0c0", "r0c1"})


def test_every_measurement_of_a_fresh_seed_is_none():
    values = [getattr(UNMEASURED, name) for name in UNMEASURED.__slots__]
    assert values == [None] * len(values)


def test_accuracy_is_looked_up_by_the_exact_coalition():
    members = [frozenset(), frozenset({"r0c0"}), frozenset({"r0c1"}), FULL]
    coalitions = tuple(Coalition(m, 10.0 * k) for k, m in enumerate(members))
    measurement = Measurement(1.0, 30.0, 100, ("r0c0", "r0c1"), coalitions)
    assert [measurement.coalition_accuracy_pp(m) for m in members] == [0.0, 10.0, 20.0, 30.0]


def test_without_players_the_empty_coalition_is_the_whole_network():
    assert Measurement(1.0, 42.0, 100).coalition_accuracy_pp(frozenset()) == 42.0


def test_an_unmeasured_coalition_is_an_error_with_its_name():
    measurement = Measurement(1.0, 30.0, 100, ("r0c0",), (Coalition(frozenset({"r0c0"}), 30.0),))
    with pytest.raises(KeyError, match=r"\['r0c1'\] was not measured; players were \['r0c0'\]"):
        measurement.coalition_accuracy_pp(frozenset({"r0c1"}))
    with pytest.raises(KeyError, match=r"\[\] was not measured"):
        measurement.coalition_accuracy_pp(frozenset())

"""What is written down at the end of an episode about what each seed is worth."""

import pytest

from esper_actors.rollout.event_records import worth_records
from esper_ray.leyline.records import Coalition, Measurement
from esper_ray.nissa.log.validation import record_problem

CLOCK = {"episode": 7, "env": 1, "step": 40}
ACCURACIES = {(): 10.0, ("r0c0",): 20.0, ("r0c1",): 30.0, ("r0c0", "r0c1"): 50.0}


def measured(accuracies, orders=()):
    coalitions = tuple(Coalition(frozenset(members), pp) for members, pp in accuracies.items())
    return Measurement(1.0, 50.0, 300, ("r0c0", "r0c1"), coalitions, orders)


def records(*arguments):
    seen, worth = worth_records(CLOCK, measured(*arguments))
    for record in (seen, worth):
        assert record_problem(record | {"round": 0}) is None
    return seen, worth


def test_every_coalition_gives_exact_values():
    seen, worth = records(ACCURACIES)
    assert (seen["players"], seen["examples"], seen["complete"]) == (["r0c0", "r0c1"], 300, True)
    assert seen["coalitions"][1] == {"members": ["r0c0"], "accuracy_pp": 20.0}
    assert (worth["method"], worth["orders"]) == ("exact", 0)
    assert [slot["shapley_pp"] for slot in worth["slots"]] == [pytest.approx(15.0), pytest.approx(25.0)]
    assert [slot["leave_one_out_pp"] for slot in worth["slots"]] == [20.0, 30.0]
    assert worth["pairs"] == [{"first": "r0c0", "second": "r0c1", "interaction_pp": pytest.approx(10.0)}]


def test_what_was_not_measured_is_null_and_not_zero():
    some = {members: pp for members, pp in ACCURACIES.items() if members != ("r0c1",)}
    seen, worth = records(some)
    assert (seen["complete"], worth["method"]) == (False, "orders")
    assert [slot["shapley_pp"] for slot in worth["slots"]] == [None, None]
    assert [slot["leave_one_out_pp"] for slot in worth["slots"]] == [None, 30.0]
    assert worth["pairs"][0]["interaction_pp"] is None


def test_random_orders_are_counted():
    orders = (("r0c0", "r0c1"), ("r0c1", "r0c0"))
    seen, worth = records(ACCURACIES, orders)
    assert (seen["complete"], worth["orders"]) == (True, 0)
    partial = {members: pp for members, pp in ACCURACIES.items() if members != ("r0c1",)}
    assert records(partial, (("r0c0", "r0c1"),))[1]["orders"] == 1


def test_an_episode_without_seeds_has_nothing_to_tell():
    assert worth_records(CLOCK, Measurement(1.0, 50.0, 300)) == []

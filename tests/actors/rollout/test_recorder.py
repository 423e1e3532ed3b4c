"""Attribution records at the end of an episode: coalitions and values of seeds."""

import pytest

from esper_actors.rollout.event_records import attribution_records
from esper_ray.leyline.records import Coalition, Measurement
from esper_ray.nissa.log.validation import record_problem

IDS = {"episode": 7, "env": 1, "step": 40}
ACCURACIES = {(): 10.0, ("r0c0",): 20.0, ("r0c1",): 30.0, ("r0c0", "r0c1"): 50.0}


def measurement(accuracies, orders=()):
    coalitions = tuple(Coalition(frozenset(members), pp) for members, pp in accuracies.items())
    return Measurement(1.0, 50.0, 300, ("r0c0", "r0c1"), coalitions, orders)


def records(*arguments):
    coalitions, attribution = attribution_records(IDS, measurement(*arguments))
    for record in (coalitions, attribution):
        assert record_problem(record | {"round": 0}) is None
    return coalitions, attribution


def test_all_coalitions_give_exact_values():
    coalitions, attribution = records(ACCURACIES)
    assert (coalitions["players"], coalitions["examples"], coalitions["complete"]) == (["r0c0", "r0c1"], 300, True)
    assert coalitions["coalitions"][1] == {"members": ["r0c0"], "accuracy_pp": 20.0}
    assert (attribution["method"], attribution["orders"]) == ("exact", 0)
    assert [slot["shapley_pp"] for slot in attribution["slots"]] == [pytest.approx(15.0), pytest.approx(25.0)]
    assert [slot["leave_one_out_pp"] for slot in attribution["slots"]] == [20.0, 30.0]
    assert attribution["pairs"] == [{"first": "r0c0", "second": "r0c1", "interaction_pp": pytest.approx(10.0)}]


def test_unmeasured_values_are_null_and_not_zero():
    incomplete = {members: pp for members, pp in ACCURACIES.items() if members != ("r0c1",)}
    coalitions, attribution = records(incomplete)
    assert (coalitions["complete"], attribution["method"]) == (False, "orders")
    assert [slot["shapley_pp"] for slot in attribution["slots"]] == [None, None]
    assert [slot["leave_one_out_pp"] for slot in attribution["slots"]] == [None, 30.0]
    assert attribution["pairs"][0]["interaction_pp"] is None


def test_random_orders_are_counted():
    orders = (("r0c0", "r0c1"), ("r0c1", "r0c0"))
    coalitions, attribution = records(ACCURACIES, orders)
    assert (coalitions["complete"], attribution["orders"]) == (True, 0)
    partial = {members: pp for members, pp in ACCURACIES.items() if members != ("r0c1",)}
    assert records(partial, (("r0c0", "r0c1"),))[1]["orders"] == 1


def test_an_episode_without_seeds_has_no_attribution_records():
    assert attribution_records(IDS, Measurement(1.0, 50.0, 300)) == []

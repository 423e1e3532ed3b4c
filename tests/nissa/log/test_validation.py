"""Records against their declaration."""

import math

import pytest
from hypothesis import given
from nissa_builders import any_records, complete, quarantined, transition

from esper_ray.nissa.log.validation import record_problem


@given(any_records)
def test_a_record_as_declared_has_no_problem(record):
    assert record_problem(record) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "seed_transitoin"}, "kind 'seed_transitoin' is none of run_started, "),
        ({"kind": 3}, "kind 3 is none of"),
        ({"colour": "red"}, "seed_transition.colour: Extra inputs are not permitted, got 'red'"),
        ({"ticks": 1.5}, "seed_transition.ticks: Input should be a valid integer, got 1.5"),
        ({"ticks": True}, "seed_transition.ticks: Input should be a valid integer, got True"),
        ({"from": None}, "seed_transition.from: Input should be a valid string, got None"),
        ({"env": -1}, "seed_transition.env: Input should be greater than or equal to 0, got -1"),
        ({"step": "2"}, "seed_transition.step: Input should be a valid integer, got '2'"),
    ],
)
def test_what_is_wrong_is_said_with_place_and_value(changes, problem):
    assert record_problem(transition(0, 1) | changes).startswith(problem)


@pytest.mark.parametrize("name", ["round", "slot", "seed", "reason"])
def test_a_field_that_is_missing_is_named_though_it_may_be_null(name):
    record = transition(0, 1)
    del record[name]
    assert record_problem(record).startswith(f"seed_transition.{name}: Field required")


def test_a_kind_without_a_clock_has_none():
    record = {"kind": "run_started", "config_sha256": "x", "step": 1}
    assert record_problem(record) == "run_started.step: Extra inputs are not permitted, got 1"


def test_records_inside_are_checked():
    gate = {**dict.fromkeys(("round", "episode", "env", "step"), 0), "kind": "gate", "slot": "r0c0", "seed": None}
    check = {"name": "age", "value": math.nan, "threshold": 1, "margin": None, "passed": True}
    gate |= {"gate": "G1", "passed": True, "checks": [check]}
    assert record_problem(gate) is None
    gate["checks"] = [check, check | {"passed": 1}]
    assert record_problem(gate) == "gate.checks.1.passed: Input should be a valid boolean, got 1"


def test_what_is_optional_may_be_null():
    assert record_problem(transition(0, 1) | {"seed": None, "blueprint": None}) is None
    assert record_problem(quarantined(0) | {"error": None}) is not None


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        ("round", {"val_accuracy_ratio": 85.0}, "val_accuracy_ratio: in the unit share it lies in [0, 1], got 85.0"),
        ("outcome", {"val_accuracy_pp": 850.0}, "val_accuracy_pp: in the unit pp it lies in [-100, 100], got 850.0"),
        ("outcome", {"total_parameters": -1}, "total_parameters: in the unit parameters it lies in [0, inf], got -1"),
        ("control", {"curve_pp": [101.0]}, "curve_pp: in the unit pp it lies in [-100, 100], got [101.0]"),
        ("decision", {"operations": {"WAIT": 50.0}}, "operations: in the unit share it lies in [0, 1], got {"),
        ("profile", {"seconds": {"train": -1.0}}, "seconds: in the unit seconds it lies in [0, inf], got {"),
    ],
)
def test_a_value_in_another_unit_is_told_with_what_it_can_be(kind, changes, problem):
    assert record_problem(complete({"kind": kind})) is None
    assert record_problem(complete({"kind": kind}) | changes).startswith(f"{kind}.{problem}")


@pytest.mark.parametrize("value", [0.0, 1.0, 1.00001, math.nan, math.inf])
def test_arithmetic_may_go_a_little_beyond_and_what_is_not_finite_is_told_elsewhere(value):
    assert record_problem(complete({"kind": "round"}) | {"val_accuracy_ratio": value}) is None

"""Validation of records against the declarations of their kinds."""

import math

import pytest
from hypothesis import given
from nissa_builders import any_records, complete, quarantined, transition

from esper_ray.nissa.log.validation import record_problem


@given(any_records)
def test_a_declared_record_has_no_problem(record):
    assert record_problem(record) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "seed_transitoin"}, "kind 'seed_transitoin' is not one of run_started, "),
        ({"kind": 3}, "kind 3 is not one of"),
        ({"colour": "red"}, "seed_transition.colour: Extra inputs are not permitted, got 'red'"),
        ({"ticks": 1.5}, "seed_transition.ticks: Input should be a valid integer, got 1.5"),
        ({"ticks": True}, "seed_transition.ticks: Input should be a valid integer, got True"),
        ({"from": None}, "seed_transition.from: Input should be a valid string, got None"),
        ({"env": -1}, "seed_transition.env: Input should be greater than or equal to 0, got -1"),
        ({"step": "2"}, "seed_transition.step: Input should be a valid integer, got '2'"),
    ],
)
def test_a_problem_is_reported_with_field_and_value(changes, problem):
    assert record_problem(transition(0, 1) | changes).startswith(problem)


@pytest.mark.parametrize("name", ["round", "slot", "seed", "reason"])
def test_a_missing_optional_field_is_reported(name):
    record = transition(0, 1)
    del record[name]
    assert record_problem(record).startswith(f"seed_transition.{name}: Field required")


def test_an_id_that_the_kind_lacks_is_reported():
    record = {"kind": "run_started", "config_sha256": "x", "step": 1}
    assert record_problem(record) == "run_started.step: Extra inputs are not permitted, got 1"


def test_nested_records_are_checked():
    gate = {**dict.fromkeys(("round", "episode", "env", "step"), 0), "kind": "gate", "slot": "r0c0", "seed": None}
    check = {"name": "age", "value": math.nan, "threshold": 1, "margin": None, "passed": True}
    gate |= {"gate": "G1", "passed": True, "checks": [check]}
    assert record_problem(gate) is None
    gate["checks"] = [check, check | {"passed": 1}]
    assert record_problem(gate) == "gate.checks.1.passed: Input should be a valid boolean, got 1"


def test_an_optional_field_accepts_null_and_a_required_one_does_not():
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
def test_a_value_outside_its_unit_is_reported_with_the_range(kind, changes, problem):
    assert record_problem(complete({"kind": kind})) is None
    assert record_problem(complete({"kind": kind}) | changes).startswith(f"{kind}.{problem}")


@pytest.mark.parametrize("value", [0.0, 1.0, 1.00001, math.nan, math.inf])
def test_rounding_errors_and_nonfinite_values_pass_the_range_check(value):
    assert record_problem(complete({"kind": "round"}) | {"val_accuracy_ratio": value}) is None

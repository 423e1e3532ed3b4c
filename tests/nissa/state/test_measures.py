"""Numbers that metrics, anomalies and viewers share."""

import math

import pytest
from hypothesis import given
from metric_numbers import metric_values, state_numbers
from nissa_builders import complete
from state_builders import lives, report, step

from esper_ray.leyline.stages import Stage
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS, METRICS
from esper_ray.nissa.log.finite import json_record
from esper_ray.nissa.metrics.projection import MetricsProjection
from esper_ray.nissa.state.answers import slot_stages
from esper_ray.nissa.state.measures import gaming_pattern, normalized_entropy, occupied_stages, rolling_mean
from esper_ray.nissa.state.run_state import RunState


def test_a_rolling_mean_is_of_the_newest_ten_without_missing_ones():
    assert rolling_mean([100.0, *map(float, range(10))]) == 4.5
    assert rolling_mean([None, 1.0, 2.0]) == 1.5
    assert rolling_mean([None]) is None


def test_a_normalized_entropy_is_one_for_a_uniform_choice():
    row = {"entropy_op": math.log(6), "entropy_slot": None}
    assert normalized_entropy(row, "op", {"op": 6}) == pytest.approx(1.0)
    assert normalized_entropy(row, "op", {"op": 1}) is None
    assert normalized_entropy(row, "slot", {"slot": 3}) is None
    assert normalized_entropy(row, "style", {"style": 4}) is None


def test_a_charge_for_gaming_has_its_pattern_and_a_payment_has_none():
    assert gaming_pattern({"source": "suspicion", "amount": -1.0}) is not None
    assert gaming_pattern({"source": "suspicion", "amount": 1.0}) is None
    assert gaming_pattern({"source": "suspicion", "amount": None}) is None
    assert gaming_pattern({"source": "rent", "amount": -1.0}) is None


def test_slots_are_counted_by_stage():
    slots = {"r0c0": report("HOLDING"), "r0c1": report("TRAINING", seed="r0c1-1")}
    state = RunState.of([step(env=0, slots=slots), step(env=1, slots={"r0c0": report("HOLDING")})])
    assert occupied_stages(state.episodes.values()) == {Stage.HOLDING: 2, Stage.TRAINING: 1}
    assert slot_stages(state) == {"HOLDING": 2, "TRAINING": 1}


CHOICES = dict.fromkeys(ENTROPY_FLOORS, 4)


def exported(records):
    """Values of the metrics after these records, and the state."""
    projection = MetricsProjection(("r0c0",), CHOICES)
    state, changes = RunState(), []
    for record in records:
        before, state = state, state.apply(record)
        changes += projection.changes(before, record, state)
    return metric_values(changes), state


OTHERS = [
    {"kind": "veto", "reason": "gate"},
    {"kind": "rollback", "reason": "nonfinite"},
    {"kind": "ppo_update", "optimizer_steps": 3, "stopped_by_kl": 1.0, "skipped_minibatches": 2, "kl": math.nan},
    {"kind": "samples_lost", "count": 5, "reason": "full"},
    {"kind": "malformed", "problem": "p", "record": "{}"},
    {"kind": "control", "val_accuracy_pp": 30.0},
    {"kind": "gate", "gate": "G1", "passed": False, "checks": [{"name": "age", "passed": False}]},
]
"""Records of the kinds that a generated log lacks."""


@given(lives())
def test_every_number_that_metrics_have_too_is_that_of_the_state(records):
    values, state = exported([*records, *(json_record(complete(record)) for record in OTHERS)])
    expected = state_numbers(state, CHOICES)
    assert len(expected) > len(OTHERS)
    for key, number in expected.items():
        assert values[key] == pytest.approx(number, rel=1e-12), key
    apart = {"ppo_skipped_minibatches_total", "faults_total"}  # the state has no sum of them, or not by its events
    counted = {name.removeprefix("esper_") for name, metric in METRICS.items() if metric.type == "counter"} - apart
    others = {key for key, value in values.items() if key[0] in counted and value} - expected.keys()
    assert {key[0] for key in others} <= {"seed_outcomes_total"}  # by their initiator

"""Numbers that metrics, anomalies and viewers share."""

import math

import pytest
from hypothesis import given
from nissa_builders import complete
from state_builders import lives, report, step

from esper_ray.leyline.stages import Stage
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS, METRICS
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


def exported(records):
    """Values of the metrics after these records, and the state."""
    projection = MetricsProjection(("r0c0",), dict.fromkeys(ENTROPY_FLOORS, 4))
    state, values = RunState(), {}
    for record in records:
        before, state = state, state.apply(record)
        for change in projection.changes(before, record, state):
            key = (change.metric.removeprefix("esper_"), *change.labels)
            values[key] = change.value + (values.get(key, 0.0) if METRICS[change.metric].type == "counter" else 0.0)
    return values, state


def of_state(state):
    """The numbers of the state that metrics have too, by metric and labels; those that are zero are left out."""
    totals = state.totals
    refused, ran = totals.refused, totals.operations
    numbers = {
        ("env_steps_total",): totals.steps,
        ("rounds_total",): len(state.rounds),
        ("round_accuracy_rolling_ratio",): state.rolling_accuracy_ratio,
        ("round_accuracy_control_ratio",): state.control_accuracy_ratio,
        ("reward_accuracy_correlation_ratio",): state.reward_accuracy_correlation,
        ("telemetry_dropped_total", "evidence", "malformed"): totals.malformed,
        **{("actions_total", name, "ok"): count - refused.get(name, 0) for name, count in ran.items()},
        **{("actions_total", name, "refused"): count for name, count in refused.items()},
        **{("reward_gaming_total", name): count for name, count in totals.gaming.items()},
        **{("gate_evaluations_total", name, "pass"): count for name, count in totals.gates_passed.items()},
        **{("gate_evaluations_total", name, "fail"): count for name, count in totals.gates_failed.items()},
        **{("vetoes_total", name): count for name, count in totals.vetoes.items()},
        **{("rollbacks_total", name): count for name, count in totals.rollbacks.items()},
        **{("episodes_total", name): count for name, count in totals.episodes.items()},
        **{("ppo_updates_total", name): count for name, count in totals.updates.items()},
        **{("anomalies_total", name): count for name, count in totals.anomalies.items()},
        **{("anomalies_open", name): state.open_anomalies(name) for name in totals.anomalies},
        **{("nonfinite_total", kind): count for kind, count in totals.nonfinite.items()},
        **{("telemetry_dropped_total", "sample", name): count for name, count in totals.samples_lost.items()},
    }
    for source, targets in totals.transitions.items():
        numbers |= {("seed_transitions_total", source, target): count for target, count in targets.items()}
    for gate, checks in totals.failed_checks.items():
        numbers |= {("gate_check_failures_total", gate, check): count for check, count in checks.items()}
    for env, episode in state.episodes.items():
        accuracy, best = episode.val_accuracy_pp, episode.best_accuracy_pp
        numbers["env_accuracy_ratio", str(env)] = None if accuracy is None else accuracy / 100.0
        numbers["env_best_accuracy_ratio", str(env)] = None if best is None else best / 100.0
    return {key: value for key, value in numbers.items() if value}


OTHERS = [
    {"kind": "veto", "reason": "gate"},
    {"kind": "rollback", "reason": "nonfinite"},
    {"kind": "ppo_update", "optimizer_steps": 3, "stopped_by_kl": 1.0, "skipped_minibatches": 2},
    {"kind": "samples_lost", "count": 5, "reason": "full"},
    {"kind": "malformed", "problem": "p", "record": "{}"},
    {"kind": "control", "val_accuracy_pp": 30.0},
    {"kind": "gate", "gate": "G1", "passed": False, "checks": [{"name": "age", "passed": False}]},
]
"""Records of the kinds that a generated log lacks."""


@given(lives())
def test_every_number_that_metrics_have_too_is_that_of_the_state(records):
    values, state = exported([*records, *map(complete, OTHERS)])
    expected = of_state(state)
    assert len(expected) > len(OTHERS)
    for key, number in expected.items():
        assert values[key] == pytest.approx(number, rel=1e-12), key
    counted = {name for name, *_ in expected if METRICS[f"esper_{name}"].type == "counter"}
    assert {key for key, value in values.items() if key[0] in counted and value} <= expected.keys()

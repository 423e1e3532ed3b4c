"""Metrics projected from events, with expected numbers computed by hand."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nissa_builders import any_records, complete, quarantined

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS, METRICS
from esper_ray.nissa.log.finite import json_record
from esper_ray.nissa.metrics.projection import ENV_LABELS, MetricsProjection
from esper_ray.nissa.state.run_state import RunState

CHOICES = dict.fromkeys(ENTROPY_FLOORS, 4)


class Board:
    """Values of the metrics after the added records."""

    def __init__(self, slots=("r0c0", "r0c1")):
        self.projection, self.state, self.values = MetricsProjection(slots, CHOICES), RunState(), {}

    def add(self, *records):
        for record in records:
            before, self.state = self.state, self.state.apply(record)
            for change in self.projection.changes(before, record, self.state):
                metric = METRICS[change.metric]
                assert len(change.labels) == len(metric.labels), change
                assert math.isfinite(change.value), change
                key = (change.metric.removeprefix("esper_"), *change.labels)
                total = 0.0 if metric.type == "gauge" else self.values.get(key, 0.0)
                assert metric.type == "gauge" or change.value >= 0, change
                self.values[key] = total + change.value
        return self

    def preview(self, record):
        before, self.state = self.state, self.state.preview(record)
        for change in self.projection.preview(before, record, self.state):
            assert METRICS[change.metric].type == "gauge"
            self.values[(change.metric.removeprefix("esper_"), *change.labels)] = change.value

    def __getitem__(self, key):
        return self.values[key if isinstance(key, tuple) else (key,)]


def step(env=0, number=1, accuracy=50.0, slots=None, operation="WAIT", entries=(), **more):
    record = {"kind": "env_epoch", "env": env, "step": number, "val_accuracy_pp": accuracy, "operation": operation}
    record |= {"slots": slots or {}, "entries": list(entries), "success": True, "growth_ratio": 2.0, "log_prob": -0.5}
    return complete(record | more)


def moved(target, env=0, number=1, source="DORMANT", seed="r0c0-1", **more):
    record = {"kind": "seed_transition", "env": env, "step": number, "slot": "r0c0", "seed": seed, "from": source}
    return complete(record | {"to": target, "initiator": "policy", "blueprint": "norm"} | more)


def report(stage, worth=None, alpha=0.5, seed="r0c0-1"):
    return {"seed": seed, "blueprint": "norm", "stage": stage, "alpha": alpha, "contribution_pp": worth}


def _sizes(value):
    if isinstance(value, dict):
        return {name: _sizes(size) for name, size in value.items()}
    return abs(value) if math.isfinite(value) else value


@given(st.lists(any_records, max_size=4))
def test_declared_records_change_declared_metrics_to_finite_values(records):
    board, stages = Board(), ("DORMANT", "TRAINING", "PRUNED", "FOSSILIZED")
    for record in records:
        for name in ("from", "to"):
            if name in record:
                record[name] = stages[len(record[name]) % 4]
        for name in ("seconds", "cuda_bytes", "count"):  # counters and histograms are never negative
            if name in record:
                record[name] = _sizes(record[name])
        for report in record["slots"].values() if record["kind"] == "env_epoch" else ():
            report["stage"] = "BLENDING"
        board.add(json_record(record))
    counted = Counter(KINDS[record["kind"]].delivery for record in records)
    for delivery in ("evidence", "sample"):
        assert board.values.get(("telemetry_events_total", delivery), 0) == counted[delivery]


def test_environment_metrics_follow_its_steps_and_restart_with_an_episode():
    board = Board().add(complete({"kind": "episode_started", "val_accuracy_pp": 10.0, "val_loss": 2.3}))
    assert (board["env_accuracy_ratio", "0"], board["env_val_loss_nats", "0"]) == (0.1, 2.3)
    board.add(step(number=1, accuracy=40.0), step(number=2, accuracy=30.0), step(number=3, accuracy=20.0))
    assert board["env_accuracy_ratio", "0"] == 0.2
    assert board["env_best_accuracy_ratio", "0"] == 0.4
    assert board["env_steps_since_best", "0"] == 2
    assert (board["env_steps_total"], board["actions_total", "WAIT", "ok"]) == (3, 3)
    board.add(complete({"kind": "episode_started", "val_accuracy_pp": 10.0}))
    assert (board["env_best_accuracy_ratio", "0"], board["env_steps_since_best", "0"]) == (0.1, 0)


def test_environments_beyond_the_label_limit_have_shared_metrics_only():
    board = Board().add(step(env=ENV_LABELS - 1), step(env=ENV_LABELS))
    assert board["env_steps_total"] == 2
    assert ("env_accuracy_ratio", str(ENV_LABELS - 1)) in board.values
    assert ("env_accuracy_ratio", str(ENV_LABELS)) not in board.values


def test_slots_have_stage_amplitude_and_contribution():
    board = Board().add(
        complete({"kind": "episode_started"}), moved("GERMINATED"), step(slots={"r0c0": report("BLENDING", 12.0, 0.25)})
    )
    assert board["slot_stage_code", "0", "r0c0"] == 4
    assert board["slot_stage_code", "0", "r0c1"] == 0
    assert (board["slot_alpha_ratio", "0", "r0c0"], board["slot_contribution_ratio", "0", "r0c0"]) == (0.25, 0.12)
    assert board["seed_transitions_total", "DORMANT", "GERMINATED"] == 1
    board.add(complete({"kind": "episode_started", "env": 1}), moved("TRAINING", env=1))
    assert (board["slots", "BLENDING"], board["slots", "TRAINING"], board["slots", "DORMANT"]) == (1, 1, 2)


def test_ended_seeds_are_counted_with_lifespan_and_contribution():
    board = Board().add(moved("GERMINATED", number=3), step(number=4, slots={"r0c0": report("HOLDING", 20.0)}))
    board.add(moved("FOSSILIZED", number=13, source="HOLDING"))
    assert board["seed_outcomes_total", "norm", "fossilized", "policy"] == 1
    assert board["seed_lifespan_steps", "fossilized"] == 10
    assert board["blueprint_contribution_ratio", "norm"] == pytest.approx(0.2)
    board.add(moved("GERMINATED", seed="r0c0-2"), step(slots={"r0c0": report("HOLDING", 30.0, seed="r0c0-2")}))
    board.add(moved("FOSSILIZED", number=9, source="HOLDING", seed="r0c0-2"))
    assert board["blueprint_contribution_ratio", "norm"] == pytest.approx(0.25)
    board.add(moved("PRUNED", source="TRAINING", seed="r0c0-9", initiator="clock"))
    assert board["seed_outcomes_total", "norm", "pruned", "clock"] == 1


def test_gates_vetoes_rollbacks_and_quarantines_are_counted():
    shut = {"name": "age", "value": 1.0, "threshold": 2.0, "margin": -1.0, "passed": False}
    board = Board().add(
        complete({"kind": "gate", "gate": "G2", "passed": False, "checks": [shut, shut | {"passed": True}]}),
        complete({"kind": "gate", "gate": "G2", "passed": True, "checks": []}),
        complete({"kind": "veto", "reason": "parameters"}),
        complete({"kind": "rollback", "reason": "loss"}),
        quarantined(0, 1),
        quarantined(0, 2),
    )
    assert (board["gate_evaluations_total", "G2", "fail"], board["gate_evaluations_total", "G2", "pass"]) == (1, 1)
    assert board["gate_check_failures_total", "G2", "age"] == 1
    assert (board["vetoes_total", "parameters"], board["rollbacks_total", "loss"]) == (1, 1)
    assert board["environments_quarantined"] == 2


def outcome(total, accuracy, rollback=False):
    return complete({"kind": "outcome", "total_reward": total, "val_accuracy_pp": accuracy, "rollback": rollback})


def a_round(index, accuracy):
    return complete({"kind": "round", "round": index, "val_accuracy_ratio": accuracy, "return_mean": 1.5})


def test_a_round_summarises_its_episodes_and_steps():
    entries = [{"source": "rent", "slot": None, "amount": -1.0, "cause_step": 0, "why": ""}]
    board = Board().add(
        step(entries=entries), step(number=2, log_prob=0.0), outcome(1.0, 20.0), outcome(3.0, 60.0, True)
    )
    board.add(a_round(0, 0.4))
    assert (board["rounds_total"], board["round_accuracy_ratio"], board["return_mean"]) == (1, 0.4, 1.5)
    assert (board["round_accuracy_min_ratio"], board["round_accuracy_max_ratio"]) == (0.2, 0.6)
    assert [board["return", q] for q in ("0.1", "0.5", "0.9")] == pytest.approx([1.2, 2.0, 2.8])
    assert (board["episodes_total", "finished"], board["episodes_total", "rolled_back"]) == (1, 1)
    assert board["decision_density_ratio"] == 0.5
    assert board["reward_component_mean", "rent"] == -0.5
    board.add(step(), outcome(0.0, 10.0), a_round(1, 0.2))
    assert board["round_accuracy_rolling_ratio"] == pytest.approx(0.3)
    assert board["reward_component_mean", "rent"] == 0.0  # what was paid once stays on the board
    assert board["decision_density_ratio"] == 1.0


def test_rewards_by_source_add_up_to_the_return():
    amounts = [0.5, -1.25, 2.0, 0.125]
    entries = [
        {"source": s, "slot": None, "amount": a, "cause_step": 0, "why": ""}
        for s, a in zip("abab", amounts, strict=True)
    ]
    board = Board().add(step(entries=entries[:3]), step(number=2, entries=entries[3:]), a_round(0, 0.1))
    paid = sum(board["reward_component_mean", source] for source in "ab")
    assert paid == pytest.approx(sum(amounts) / 2)


@pytest.mark.parametrize(("returns", "expected"), [([1, 2, 3], 1.0), ([3, 2, 1], -1.0), ([1, 1, 1], None)])
def test_the_return_accuracy_correlation_by_hand(returns, expected):
    board = Board().add(
        *(outcome(total, accuracy) for total, accuracy in zip(returns, (10.0, 20.0, 30.0), strict=True))
    )
    assert board.values.get(("reward_accuracy_correlation_ratio",)) == (
        None if expected is None else pytest.approx(expected)
    )


@pytest.mark.parametrize(
    ("stopped", "steps", "result"), [(0.0, 16, "applied"), (1.0, 3, "early_stopped"), (1.0, 0, "nothing")]
)
def test_an_update_is_counted_by_its_result(stopped, steps, result):
    update = {"kind": "ppo_update", "stopped_by_kl": stopped, "optimizer_steps": steps, "kl": 0.02, "entropy_op": 0.7}
    board = Board().add(complete(update))
    assert board["ppo_updates_total", result] == 1
    assert board["ppo_kl_nats"] == 0.02
    assert board["head_entropy_ratio", "op"] == pytest.approx(0.7 / math.log(4))
    assert board["head_entropy_floor_ratio", "op"] == ENTROPY_FLOORS["op"]


def test_skipped_minibatches_are_summed_over_updates():
    board = Board()
    for skipped in (2, 0, 3):
        board = board.add(complete({"kind": "ppo_update", "skipped_minibatches": skipped}))
    assert board["ppo_skipped_minibatches_total"] == 5


def test_nonfinite_numbers_are_counted_and_not_exported():
    update = json_record(
        complete({"kind": "ppo_update", "explained_variance": math.nan, "kl": math.inf, "entropy_op": 0.1})
    )
    board = Board().add(update)
    assert board["nonfinite_total", "ppo_update"] == 1  # explained variance may be undefined
    assert ("ppo_explained_variance_ratio",) not in board.values
    assert ("ppo_kl_nats",) not in board.values


def test_a_malformed_record_is_counted_as_dropped_evidence():
    board = Board().add({"kind": "malformed", "problem": "p", "record": "{}"})
    assert board["telemetry_dropped_total", "evidence", "malformed"] == 1


def play(number, episode, accuracy, **more):
    return step(0, number, accuracy, episode=episode, **more)


def test_previews_set_gauges_until_the_log_has_their_episode():
    board = Board()
    board.preview(play(1, 7, 30.0, slots={"r0c0": report("BLENDING", worth=3.0)}))
    board.preview(play(2, 7, 20.0))
    assert (board["env_accuracy_ratio", "0"], board["env_best_accuracy_ratio", "0"]) == (0.2, 0.3)
    assert (board["env_steps_since_best", "0"], board["slot_alpha_ratio", "0", "r0c0"]) == (1, 0.0)
    assert not {"env_steps_total", "actions_total"} & {key[0] for key in board.values}
    board.add(complete({"kind": "episode_started", "episode": 7, "val_accuracy_pp": 10.0}))
    board.add(play(1, 7, 30.0), play(2, 7, 20.0))
    assert (board["env_steps_total"], board["env_best_accuracy_ratio", "0"]) == (2, 0.3)
    board.preview(play(1, 7, 99.0))
    assert board["env_accuracy_ratio", "0"] == 0.2
    board.preview(play(1, 8, 5.0))
    assert (board["env_accuracy_ratio", "0"], board["env_best_accuracy_ratio", "0"]) == (0.05, 0.05)


def test_samples_set_durations_and_memory_and_count_dropped_samples():
    seconds, memory = {"train": 0.5, "decide": 0.25}, {"allocated": 1e9}
    board = Board().add(complete({"kind": "profile", "env": 3, "seconds": seconds, "cuda_bytes": memory}))
    assert board["step_duration_seconds", "train"] == 0.5
    assert board["env_cuda_memory_bytes", "3", "allocated"] == 1e9
    board.add(*(complete({"kind": "samples_lost", "count": 5, "reason": "in_transit"}) for _ in range(2)))
    assert board["telemetry_dropped_total", "sample", "in_transit"] == 10


def test_controls_are_averaged_and_anomalies_are_open_until_closed():
    board = Board().add(*(complete({"kind": "control", "val_accuracy_pp": pp}) for pp in (20.0, 40.0)))
    assert board["round_accuracy_control_ratio"] == pytest.approx(0.3)
    anomaly = {"kind": "anomaly", "type": "head_collapsed"}
    board.add(*(complete(anomaly | {"subject": head, "open": True}) for head in ("op", "slot")))
    board.add(complete(anomaly | {"subject": "op", "open": False}))
    assert (board["anomalies_open", "head_collapsed"], board["anomalies_total", "head_collapsed"]) == (1, 2)


def test_reward_gaming_is_counted_by_pattern_for_nonzero_charges():
    entry = {"slot": None, "cause_step": 0, "why": ""}
    board = Board().add(step(entries=[entry | {"source": "suspicion", "amount": -0.1}]))
    board.add(
        step(entries=[entry | {"source": "suspicion", "amount": 0.0}, entry | {"source": "shock", "amount": -1.0}])
    )
    assert (board["reward_gaming_total", "claims"], board["reward_gaming_total", "shocks"]) == (1, 1)

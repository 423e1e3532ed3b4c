"""Samples of running episodes; results are equal at every telemetry level."""

import pytest
from watching_builders import event_records, samples, watched_run

from esper_actors.rollout.sampling import Sampler
from esper_ray.leyline.actions import Action, LifecycleOp
from esper_ray.leyline.config.system import TelemetryConfig
from esper_ray.leyline.policy import Decision, HeadChoice
from esper_ray.nissa.log.validation import record_problem

pytestmark = pytest.mark.integration

IDS = {"round": 1, "episode": 9, "env": 4}
OPS = (0.5, 0.25, 0.0, 0.25, 0.0, 0.0)


class SampleLog:
    """Receiver that stores sample batches and their records."""

    def __init__(self):
        self.batches, self.records = [], []

    def __call__(self, batch):
        self.batches.append(batch)
        self.records += [batch.state, *batch.samples]

    def kinds(self):
        return [record["kind"] for record in self.records]


def sampler_after(log, steps, operation=LifecycleOp.WAIT, level="normal", probabilities=OPS):
    sampler = Sampler(TelemetryConfig(level=level, wait_every=4), log, IDS, now=lambda: 77.0)
    decision = Decision(
        Action(operation, 0, *[0] * 6), -0.5, -1.0, 2.0, op_probabilities=probabilities, op_values=tuple(range(6))
    )
    for step in steps:
        state = {"kind": "env_epoch", "episode": 9, "env": 4, "step": step, "slot": None}
        sampler.step([state], decision, {"train": 0.5}, {})
    return sampler


def test_every_step_sends_its_state_and_every_fourth_wait_more():
    log = SampleLog()
    sampler_after(log, range(1, 9))
    assert log.kinds() == [
        *["env_epoch"] * 4,
        *("decision", "profile"),
        *["env_epoch"] * 4,
        *("decision", "profile"),
    ]
    assert log.records[0] == {"kind": "env_epoch", **IDS, "step": 1, "slot": None}


def test_every_operation_but_wait_is_sampled():
    log = SampleLog()
    sampler_after(log, [1, 2], LifecycleOp.GERMINATE)
    assert log.kinds() == ["env_epoch", "decision"] * 2


def test_debug_samples_every_step():
    log = SampleLog()
    sampler_after(log, [1, 2], level="debug")
    assert log.kinds() == ["env_epoch", "decision", "profile"] * 2


def test_a_policy_without_probabilities_has_no_decision_samples():
    log = SampleLog()
    sampler_after(log, [4], probabilities=())
    assert log.kinds() == ["env_epoch", "profile"]


def test_a_decision_sample_holds_probabilities_and_values_of_legal_operations():
    log = SampleLog()
    sampler_after(log, [1], LifecycleOp.GERMINATE)
    decision = log.records[1]
    assert record_problem(decision) is None
    assert (decision["operation"], decision["probability"], decision["value"]) == ("GERMINATE", 0.25, 2.0)
    assert decision["argument_probability"] == pytest.approx(0.36788, abs=1e-5)
    legal = [LifecycleOp(index).name for index in (0, 1, 3)]
    assert decision["operations"] == dict(zip(legal, (0.5, 0.25, 0.25), strict=True))
    assert decision["values"] == dict(zip(legal, (0, 1, 3), strict=True))


def test_samples_are_numbered_and_the_summary_holds_their_number():
    log = SampleLog()
    sampler = sampler_after(log, range(1, 9))
    assert [batch.before for batch in log.batches] == [0, 0, 0, 0, 2, 2, 2, 2]
    assert {batch.stream_id for batch in log.batches} == {sampler.summary().stream_id}
    assert (sampler.summary().clock, sampler.summary().count) == (IDS, 4)
    assert sampler_after(SampleLog(), []).summary().stream_id != sampler.summary().stream_id


@pytest.fixture(scope="module")
def runs(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    return {level: watched_run(tiny_config, folder, level) for level in ("off", "normal", "debug")}


@pytest.mark.parametrize("level", ["normal", "debug"])
def test_weights_rewards_and_events_are_equal_at_every_telemetry_level(runs, level):
    unsampled, digest, _ = runs["off"]
    run, watched_digest, _ = runs[level]
    assert watched_digest == digest
    assert (run.path / "rounds.csv").read_bytes() == (unsampled.path / "rounds.csv").read_bytes()
    assert event_records(run) == event_records(unsampled)


def test_the_telemetry_level_sets_the_number_of_samples(runs, tiny_config):
    steps = tiny_config.ppo.rounds * tiny_config.system.envs * tiny_config.episode_length
    assert not runs["off"][0].samples.tail.exists()
    assert "control" not in {record["kind"] for record in event_records(runs["off"][0], without=())}
    assert len(samples(runs["debug"][0], "profile")) == steps
    assert 0 < len(samples(runs["normal"][0], "decision")) < len(samples(runs["debug"][0], "decision")) == steps
    (control,) = (record for record in event_records(runs["normal"][0], without=()) if record["kind"] == "control")
    assert len(control["curve_pp"]) == tiny_config.episode_length + 1


def test_an_episode_appears_in_the_metrics_before_its_end(runs):
    events = runs["normal"][2].entries
    first = next(i for i, event in enumerate(events) if event[0] == "esper_env_accuracy_ratio")
    assert first < events.index(("episode", 0))
    assert events[first][1] == ("0",)


def test_decision_samples_equal_the_executed_decisions(runs):
    run = runs["debug"][0]
    epochs = {(e["episode"], e["step"]): e for e in run.events() if e["kind"] == "env_epoch"}
    for decision in samples(run, "decision"):
        step = epochs[decision["episode"], decision["step"]]
        assert (decision["operation"], decision["slot"]) == (step["operation"], step["slot"])
        assert decision["value"] == step["value"]
        assert sum(decision["operations"].values()) == pytest.approx(1.0, abs=1e-5)


def test_a_resumed_run_restores_its_metrics(tiny_config, tmp_path):
    run, _, first = watched_run(tiny_config, tmp_path, "normal", rounds=1)
    resumed, _, second = watched_run(tiny_config, tmp_path, "normal", resume=run)
    metrics = ("esper_round_accuracy_control_ratio", "esper_rounds_done")
    before = {change.metric: change.value for change in first.changes if change.metric in metrics}
    values = [(change.metric, change.value) for change in second.changes if change.metric in metrics]
    assert dict(values[:2]) == before
    assert values[-1] == ("esper_rounds_done", 2.0)
    rounds = [change.value for change in second.changes if change.metric == "esper_rounds_total"]
    assert rounds == [1.0]
    assert len([record for record in event_records(resumed, without=()) if record["kind"] == "control"]) == 1


def test_a_decision_holds_the_choices_of_the_heads_in_use():
    log = SampleLog()
    sampler = Sampler(TelemetryConfig(level="normal"), log, IDS, now=lambda: 77.0)
    heads = {"op": HeadChoice(1, 0.25, 1.04, 3), "slot": HeadChoice(0, 1.0, 0.0, 1)}
    decision = Decision(Action(LifecycleOp.GERMINATE, 0), op_probabilities=OPS, op_values=OPS, heads=lambda: heads)
    sampler.step([{"kind": "env_epoch", "episode": 9, "env": 4, "step": 1, "slot": "r0c0"}], decision, {}, {})
    record = log.batches[0].samples[0]
    assert record["heads"] == {
        "op": {"choice": 1, "probability": 0.25, "entropy": 1.04, "legal": 3},
        "slot": {"choice": 0, "probability": 1.0, "entropy": 0.0, "legal": 1},
    }
    assert record_problem(record) is None

"""What is told of an episode while it is played, and that a run is the same however closely it is watched."""

import pytest
from watching_builders import samples, told, watched_run

from esper_actors.rollout.sampling import Sampler
from esper_ray.leyline.actions import Action, LifecycleOp
from esper_ray.leyline.config.system import TelemetryConfig
from esper_ray.leyline.policy import Decision
from esper_ray.nissa.log.validation import record_problem

pytestmark = pytest.mark.integration

CLOCK = {"round": 1, "episode": 9, "env": 4}
OPS = (0.5, 0.25, 0.0, 0.25, 0.0, 0.0)


class Way:
    """Takes what is told."""

    def __init__(self):
        self.told, self.taken = [], []

    def __call__(self, told):
        self.told.append(told)
        self.taken += [told.state, *told.samples]

    def kinds(self):
        return [record["kind"] for record in self.taken]


def stepped(way, steps, operation=LifecycleOp.WAIT, level="normal", probabilities=OPS):
    sampler = Sampler(TelemetryConfig(level=level, wait_every=4), way, CLOCK, now=lambda: 77.0)
    decision = Decision(
        Action(operation, 0, *[0] * 6), -0.5, -1.0, 2.0, op_probabilities=probabilities, op_values=tuple(range(6))
    )
    for step in steps:
        state = {"kind": "env_epoch", "episode": 9, "env": 4, "step": step, "slot": None}
        sampler.step([state], decision, {"train": 0.5}, {})
    return sampler


def test_every_step_tells_its_state_and_now_and_then_more():
    way = Way()
    stepped(way, range(1, 9))
    assert way.kinds() == [
        *["env_epoch"] * 4,
        *("decision", "profile"),
        *["env_epoch"] * 4,
        *("decision", "profile"),
    ]
    assert way.taken[0] == {"kind": "env_epoch", **CLOCK, "step": 1, "slot": None}


def test_whatever_is_done_is_sampled():
    way = Way()
    stepped(way, [1, 2], LifecycleOp.GERMINATE)
    assert way.kinds() == ["env_epoch", "decision"] * 2


def test_debug_samples_every_step():
    way = Way()
    stepped(way, [1, 2], level="debug")
    assert way.kinds() == ["env_epoch", "decision", "profile"] * 2


def test_a_policy_that_does_not_draw_has_no_decisions_to_tell():
    way = Way()
    stepped(way, [4], probabilities=())
    assert way.kinds() == ["env_epoch", "profile"]


def test_a_decision_tells_what_else_it_might_have_been():
    way = Way()
    stepped(way, [1], LifecycleOp.GERMINATE)
    decision = way.taken[1]
    assert record_problem(decision) is None
    assert (decision["operation"], decision["probability"], decision["value"]) == ("GERMINATE", 0.25, 2.0)
    assert decision["argument_probability"] == pytest.approx(0.36788, abs=1e-5)
    legal = [LifecycleOp(index).name for index in (0, 1, 3)]
    assert decision["operations"] == dict(zip(legal, (0.5, 0.25, 0.25), strict=True))
    assert decision["values"] == dict(zip(legal, (0, 1, 3), strict=True))


def test_samples_are_numbered_and_the_receipt_says_how_many_there_were():
    way = Way()
    sampler = stepped(way, range(1, 9))
    assert [told.before for told in way.told] == [0, 0, 0, 0, 2, 2, 2, 2]
    assert {told.stream_id for told in way.told} == {sampler.summary().stream_id}
    assert (sampler.summary().clock, sampler.summary().count) == (CLOCK, 4)
    assert stepped(Way(), []).summary().stream_id != sampler.summary().stream_id


@pytest.fixture(scope="module")
def runs(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    return {level: watched_run(tiny_config, folder, level) for level in ("off", "normal", "debug")}


@pytest.mark.parametrize("level", ["normal", "debug"])
def test_weights_rewards_and_events_are_the_same_however_closely_a_run_is_watched(runs, level):
    quiet, digest, _ = runs["off"]
    run, watched_digest, _ = runs[level]
    assert watched_digest == digest
    assert (run.path / "rounds.csv").read_bytes() == (quiet.path / "rounds.csv").read_bytes()
    assert told(run) == told(quiet)


def test_how_closely_is_what_differs(runs, tiny_config):
    steps = tiny_config.ppo.rounds * tiny_config.system.envs * tiny_config.episode_length
    assert not runs["off"][0].samples.tail.exists()
    assert "control" not in {record["kind"] for record in told(runs["off"][0], without=())}
    assert len(samples(runs["debug"][0], "profile")) == steps
    assert 0 < len(samples(runs["normal"][0], "decision")) < len(samples(runs["debug"][0], "decision")) == steps
    (control,) = (record for record in told(runs["normal"][0], without=()) if record["kind"] == "control")
    assert len(control["curve_pp"]) == tiny_config.episode_length + 1


def test_an_episode_shows_before_it_is_over(runs):
    heard = runs["normal"][2].heard
    first = next(i for i, one in enumerate(heard) if one[0] == "esper_env_accuracy_ratio")
    assert first < heard.index(("episode", 0))
    assert heard[first][1] == ("0",)


def test_decisions_are_those_that_were_carried_out(runs):
    run = runs["debug"][0]
    done = {(e["episode"], e["step"]): e for e in run.events() if e["kind"] == "env_epoch"}
    for decision in samples(run, "decision"):
        step = done[decision["episode"], decision["step"]]
        assert (decision["operation"], decision["slot"]) == (step["operation"], step["slot"])
        assert decision["value"] == step["value"]
        assert sum(decision["operations"].values()) == pytest.approx(1.0, abs=1e-5)


def test_a_run_that_is_gone_on_with_shows_what_it_knew(tiny_config, tmp_path):
    run, _, first = watched_run(tiny_config, tmp_path, "normal", rounds=1)
    again, _, second = watched_run(tiny_config, tmp_path, "normal", resume=run)
    wanted = ("esper_round_accuracy_control_ratio", "esper_rounds_done")
    before = {change.metric: change.value for change in first.changes if change.metric in wanted}
    shown = [(change.metric, change.value) for change in second.changes if change.metric in wanted]
    assert dict(shown[:2]) == before
    assert shown[-1] == ("esper_rounds_done", 2.0)
    rounds = [change.value for change in second.changes if change.metric == "esper_rounds_total"]
    assert rounds == [1.0]
    assert len([record for record in told(again, without=()) if record["kind"] == "control"]) == 1

"""Trials of a sweep: resumption after an interruption, and branches of other trials."""

import shutil
from contextlib import suppress

import pytest
from watching_builders import RecordingObserver

from esper_actors.sweep.trial import Origin, TrialRun
from esper_actors.training.checkpoint import CheckpointError, checkpoints_in
from esper_actors.training.local import LocalWorkerGroup
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.sweep import expand, sweep_config
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_lock import RunLock, RunLockedError
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

pytestmark = pytest.mark.integration

SETTINGS = {"ppo.rounds": 3, "system.envs": 1, "system.envs_per_actor": 1, "episode_length": 3}
FIRST, SECOND = "0-basic-lr=0.0001-s42", "1-basic-lr=0.001-s42"


@pytest.fixture(scope="module")
def base(tiny_config):
    return build(tiny_config.model_dump(mode="json"), SETTINGS)


@pytest.fixture
def sweep(tmp_path, base):
    tree = {"reward_modes": ["basic"], "seeds": 1, "grid": {"ppo.lr": [1e-4, 1e-3]}}
    config = sweep_config(tree)
    hosts = {trial.name: 160 for trial in expand(config, base)}
    return SweepDirectory.create(tmp_path / "sweep", config, base, hosts, ["test"])


def play(sweep, name, rounds=None, config=None, origin=None):
    """Run a trial, or its next ``rounds`` rounds and then an interruption; the run directory."""
    rounds_played = []

    def on_round(run):
        rounds_played.append(run)
        if rounds is not None and len(rounds_played) == rounds:
            raise SystemExit

    config = config or sweep.trials[name].config
    trial = TrialRun(sweep, name, config, origin)
    with suppress(SystemExit):
        trial.run(LocalWorkerGroup(config), on_round)
    return sweep.run(name)


def table(run):
    return (run.path / "rounds.csv").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, base):
    config = sweep_config({"reward_modes": ["basic"], "seeds": 1, "grid": {"ppo.lr": [1e-4, 1e-3]}})
    hosts = {trial.name: 160 for trial in expand(config, base)}
    sweep = SweepDirectory.create(tmp_path_factory.mktemp("whole") / "sweep", config, base, hosts, ["test"])
    return {name: play(sweep, name) for name in (FIRST, SECOND)}


def test_a_trial_is_a_run_directory_with_its_name(sweep, uninterrupted):
    run = uninterrupted[FIRST]
    assert run.path.name == FIRST
    assert run.read_manifest()["status"] == "finished"
    assert len(run.rounds()) == 3
    assert [event["kind"] for event in run.events()][-1] == "run_finished"


def test_events_and_run_state_of_a_trial_name_its_sweep(sweep, uninterrupted):
    workers = LocalWorkerGroup(sweep.trials[FIRST].config)
    workers.exporter = observer = RecordingObserver()
    TrialRun(sweep, FIRST, sweep.trials[FIRST].config).run(workers, lambda run: None)
    run = sweep.run(FIRST)
    assert {(event["run"], event["group"]) for event in run.events()} == {("sweep", FIRST)}
    states = [change.labels[0] for change in observer.changes if change.metric == "esper_run_state" and change.value]
    assert states == ["trial", "finished"]
    assert table(run) == table(uninterrupted[FIRST])


@pytest.mark.parametrize("rounds", [1, 2])
def test_an_interrupted_trial_resumes_bit_for_bit(sweep, uninterrupted, rounds):
    interrupted = play(sweep, FIRST, rounds)
    assert interrupted.read_manifest()["status"] == "running"
    assert len(interrupted.rounds()) == rounds
    finished = play(sweep, FIRST)
    assert finished.path == interrupted.path
    assert table(finished) == table(uninterrupted[FIRST])
    assert finished.read_manifest()["policy_sha256"] == uninterrupted[FIRST].read_manifest()["policy_sha256"]


@pytest.mark.nightly
def test_a_trial_with_a_damaged_checkpoint_resumes_from_the_one_before(sweep, uninterrupted):
    interrupted = play(sweep, FIRST, rounds=2)
    (checkpoints_in(interrupted.checkpoints)[-1] / "learner.safetensors").write_bytes(b"torn")
    assert table(play(sweep, FIRST)) == table(uninterrupted[FIRST])


def test_a_trial_whose_checkpoints_are_all_damaged_is_refused_and_keeps_them(sweep):
    interrupted = play(sweep, FIRST, rounds=1)
    for path in checkpoints_in(interrupted.checkpoints):
        (path / "learner.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="is damaged"):
        play(sweep, FIRST)
    assert len(checkpoints_in(interrupted.checkpoints)) == 2


@pytest.mark.nightly
def test_a_trial_that_ended_before_its_first_checkpoint_restarts(sweep, uninterrupted):
    RunDirectory.create(sweep.trials_path, sweep.trials[FIRST].config, ["test"], FIRST)
    assert table(play(sweep, FIRST)) == table(uninterrupted[FIRST])


def test_a_trial_with_rounds_and_no_checkpoint_is_refused_and_stays(sweep):
    interrupted = play(sweep, FIRST, rounds=1)
    for path in checkpoints_in(interrupted.checkpoints):
        shutil.rmtree(path)
    before = table(interrupted)
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        play(sweep, FIRST)
    assert table(interrupted) == before


def test_a_finished_trial_is_reported_and_not_repeated(sweep, uninterrupted):
    finished = play(sweep, FIRST)
    before, reported_runs = table(finished), []
    TrialRun(sweep, FIRST, sweep.trials[FIRST].config).run(
        LocalWorkerGroup(sweep.trials[FIRST].config), reported_runs.append
    )
    assert [run.path for run in reported_runs] == [finished.path]
    assert table(finished) == before


def test_a_trial_under_another_configuration_is_refused(sweep):
    play(sweep, FIRST, rounds=1)
    config = sweep.trials[SECOND].config
    with pytest.raises(UsageError, match=r"another configuration:\nppo\.lr: 0\.0001 -> 0\.001"):
        play(sweep, FIRST, config=config)


@pytest.mark.nightly
def test_a_trial_resumes_after_an_error(sweep, uninterrupted):
    config = sweep.trials[FIRST].config

    def fail(run):
        raise ArithmeticError("a number was not finite")

    with pytest.raises(ArithmeticError):
        TrialRun(sweep, FIRST, config).run(LocalWorkerGroup(config), fail)
    assert table(play(sweep, FIRST)) == table(uninterrupted[FIRST])


class TestBranching:
    """A trial that a population scheduler continues from the checkpoint of another one."""

    def test_a_branch_continues_the_history_of_its_origin_with_other_settings(self, sweep, base, uninterrupted):
        play(sweep, SECOND, rounds=1)
        donor = play(sweep, FIRST, rounds=2)
        config = build(base.model_dump(mode="json"), {"ppo.lr": 5e-4})
        branch = play(sweep, SECOND, config=config, origin=Origin(FIRST, 2))
        assert branch.path.name == f"{SECOND}.g01"
        assert table(branch).startswith(table(donor))
        assert len(branch.rounds()) == 3
        assert branch.config().ppo.lr == 5e-4
        lineage = branch.read_manifest()["lineage"]
        assert (lineage["run"], lineage["round"], lineage["taken_after_round"]) == (FIRST, 2, 2)
        assert lineage["changes"] == ["ppo.lr: 0.0001 -> 0.0005"]
        assert [event["seq"] for event in branch.events()] == list(range(len(list(branch.events()))))
        groups = [event["group"] for event in branch.events(evidence=True)]
        end = len(list(donor.events()))
        assert groups == [FIRST] * end + [SECOND] * (len(groups) - end)
        assert branch.read_manifest()["inherited"] == [{"run": "sweep", "group": FIRST, "end": end}]
        assert len(RunDirectory.open(sweep.trials_path / SECOND).rounds()) == 1  # the earlier run is kept
        assert sweep.result(SECOND).generation == 1
        assert sweep.settings(SECOND) == {"reward.mode": "basic", "seed": 42, "ppo.lr": 5e-4}

    def test_a_branch_with_the_settings_of_its_origin_equals_it(self, sweep, uninterrupted):
        play(sweep, FIRST, rounds=2)
        config = sweep.trials[FIRST].config
        branch = play(sweep, SECOND, config=config, origin=Origin(FIRST, 2))
        assert table(branch) == table(uninterrupted[FIRST])

    @pytest.mark.nightly
    def test_an_interrupted_branch_resumes_and_is_not_branched_again(self, sweep, uninterrupted):
        play(sweep, FIRST, rounds=1)
        config = sweep.trials[FIRST].config
        play(sweep, SECOND, rounds=1, config=config, origin=Origin(FIRST, 1))
        branch = play(sweep, SECOND, config=config, origin=Origin(FIRST, 1))
        assert branch.path.name == f"{SECOND}.g01"
        assert table(branch) == table(uninterrupted[FIRST])

    def test_a_trial_with_itself_as_origin_resumes_without_a_branch(self, sweep, uninterrupted):
        play(sweep, FIRST, rounds=1)
        run = play(sweep, FIRST, origin=Origin(FIRST, 1))
        assert run.path.name == FIRST
        assert table(run) == table(uninterrupted[FIRST])

    @pytest.mark.nightly
    def test_a_branch_uses_a_later_checkpoint_if_the_requested_one_is_missing(self, sweep):
        donor = play(sweep, FIRST, rounds=2)
        shutil.rmtree(checkpoints_in(donor.checkpoints)[1])
        branch = play(sweep, SECOND, config=sweep.trials[FIRST].config, origin=Origin(FIRST, 1))
        assert branch.read_manifest()["lineage"]["taken_after_round"] == 2
        with pytest.raises(CheckpointError, match="no complete checkpoint after round 9"):
            play(sweep, SECOND, config=sweep.trials[FIRST].config, origin=Origin(FIRST, 9))


def test_two_processes_cannot_run_one_trial(sweep, monkeypatch):
    monkeypatch.setattr("esper_actors.sweep.trial.LOCK_SECONDS", 0.3)
    path = sweep.trials_path / FIRST
    with (
        RunLock(path, path.with_name(f".{FIRST}.lock")),
        pytest.raises(RunLockedError, match=f"{FIRST} is being run by"),
    ):
        play(sweep, FIRST)
    assert play(sweep, FIRST, rounds=1).read_manifest()["status"] == "running"

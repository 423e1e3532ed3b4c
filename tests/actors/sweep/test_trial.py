"""A trial of a sweep goes on from whatever is left of it, and branches off another one with its whole history."""

import shutil
from contextlib import suppress

import pytest
from watching_builders import Telling

from esper_actors.sweep.trial import Origin, TrialRun
from esper_actors.training.checkpoint import CheckpointError, checkpoints_in
from esper_actors.training.local import LocalWorkerGroup
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.sweep import expand, sweep_config
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

pytestmark = pytest.mark.integration

MORE = {"ppo.rounds": 3, "system.envs": 1, "system.envs_per_actor": 1, "episode_length": 3}
FIRST, SECOND = "0-basic-lr=0.0001-s42", "1-basic-lr=0.001-s42"


@pytest.fixture(scope="module")
def base(tiny_config):
    return build(tiny_config.model_dump(mode="json"), MORE)


@pytest.fixture
def sweep(tmp_path, base):
    tree = {"reward_modes": ["basic"], "seeds": 1, "grid": {"ppo.lr": [1e-4, 1e-3]}}
    config = sweep_config(tree)
    hosts = {trial.name: 160 for trial in expand(config, base)}
    return SweepDirectory.create(tmp_path / "sweep", config, base, hosts, ["test"])


def play(sweep, name, rounds=None, config=None, origin=None):
    """Run a trial, and die after so many rounds of this process; the run directory."""
    seen = []

    def on_round(run):
        seen.append(run)
        if rounds is not None and len(seen) == rounds:
            raise SystemExit

    config = config or sweep.trials[name].config
    trial = TrialRun(sweep, name, config, origin)
    with suppress(SystemExit):
        trial.run(LocalWorkerGroup(config), on_round)
    return sweep.run(name)


def table(run):
    return (run.path / "rounds.csv").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base):
    config = sweep_config({"reward_modes": ["basic"], "seeds": 1, "grid": {"ppo.lr": [1e-4, 1e-3]}})
    hosts = {trial.name: 160 for trial in expand(config, base)}
    sweep = SweepDirectory.create(tmp_path_factory.mktemp("whole") / "sweep", config, base, hosts, ["test"])
    return {name: play(sweep, name) for name in (FIRST, SECOND)}


def test_a_trial_is_a_run_directory_of_its_own_name(sweep, undisturbed):
    run = undisturbed[FIRST]
    assert run.path.name == FIRST
    assert run.read_manifest()["status"] == "finished"
    assert len(run.rounds()) == 3
    assert [event["kind"] for event in run.events()][-1] == "run_finished"


def test_a_trial_belongs_to_its_sweep_and_shows_that_it_is_one(sweep, undisturbed):
    workers = LocalWorkerGroup(sweep.trials[FIRST].config)
    workers.exporter = telling = Telling()
    TrialRun(sweep, FIRST, sweep.trials[FIRST].config).run(workers, lambda run: None)
    run = sweep.run(FIRST)
    assert {(event["run"], event["group"]) for event in run.events()} == {("sweep", FIRST)}
    states = [change.labels[0] for change in telling.changes if change.metric == "esper_run_state" and change.value]
    assert states == ["trial", "finished"]
    assert table(run) == table(undisturbed[FIRST])


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_trial_that_died_goes_on_to_the_same_bits(sweep, undisturbed, rounds):
    died = play(sweep, FIRST, rounds)
    assert died.read_manifest()["status"] == "running"
    assert len(died.rounds()) == rounds
    ended = play(sweep, FIRST)
    assert ended.path == died.path
    assert table(ended) == table(undisturbed[FIRST])
    assert ended.read_manifest()["policy_sha256"] == undisturbed[FIRST].read_manifest()["policy_sha256"]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(sweep, undisturbed):
    died = play(sweep, FIRST, rounds=2)
    (checkpoints_in(died.checkpoints)[-1] / "learner.safetensors").write_bytes(b"torn")
    assert table(play(sweep, FIRST)) == table(undisturbed[FIRST])


def test_checkpoints_that_are_all_damaged_are_an_error_and_are_kept(sweep):
    died = play(sweep, FIRST, rounds=1)
    for path in checkpoints_in(died.checkpoints):
        (path / "learner.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="is damaged"):
        play(sweep, FIRST)
    assert len(checkpoints_in(died.checkpoints)) == 2


@pytest.mark.parametrize("what", ["manifest.json", "checkpoints"])
def test_what_died_before_its_first_checkpoint_is_begun_again(sweep, undisturbed, what):
    died = play(sweep, FIRST, rounds=1)
    if what == "checkpoints":
        for path in checkpoints_in(died.checkpoints):
            shutil.rmtree(path)
    else:
        (died.path / what).unlink()
    assert table(play(sweep, FIRST)) == table(undisturbed[FIRST])


def test_a_finished_trial_only_says_so_again(sweep, undisturbed):
    ended = play(sweep, FIRST)
    before, told = table(ended), []
    TrialRun(sweep, FIRST, sweep.trials[FIRST].config).run(LocalWorkerGroup(sweep.trials[FIRST].config), told.append)
    assert [run.path for run in told] == [ended.path]
    assert table(ended) == before


def test_a_trial_under_another_configuration_is_refused(sweep):
    play(sweep, FIRST, rounds=1)
    other = sweep.trials[SECOND].config
    with pytest.raises(CheckpointError, match=r"another configuration:\nppo\.lr: 0\.0001 -> 0\.001"):
        play(sweep, FIRST, config=other)


def test_a_trial_can_be_taken_up_again_after_an_error(sweep, undisturbed):
    config = sweep.trials[FIRST].config

    def fail(run):
        raise ArithmeticError("a number was not finite")

    with pytest.raises(ArithmeticError):
        TrialRun(sweep, FIRST, config).run(LocalWorkerGroup(config), fail)
    assert table(play(sweep, FIRST)) == table(undisturbed[FIRST])


class TestBranching:
    """A population scheduler lets a trial go on from another, with settings of its own."""

    def test_it_takes_the_history_and_goes_on_with_other_settings(self, sweep, base, undisturbed):
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
        assert len(RunDirectory.open(sweep.trials_path / SECOND).rounds()) == 1  # what it was before is kept
        assert sweep.standing(SECOND).generation == 1
        assert sweep.settings(SECOND) == {"reward.mode": "basic", "seed": 42, "ppo.lr": 5e-4}

    def test_with_the_settings_of_the_other_it_becomes_the_other(self, sweep, undisturbed):
        play(sweep, FIRST, rounds=2)
        config = sweep.trials[FIRST].config
        branch = play(sweep, SECOND, config=config, origin=Origin(FIRST, 2))
        assert table(branch) == table(undisturbed[FIRST])

    def test_a_branch_that_died_goes_on_and_is_not_branched_again(self, sweep, undisturbed):
        play(sweep, FIRST, rounds=1)
        config = sweep.trials[FIRST].config
        play(sweep, SECOND, rounds=1, config=config, origin=Origin(FIRST, 1))
        branch = play(sweep, SECOND, config=config, origin=Origin(FIRST, 1))
        assert branch.path.name == f"{SECOND}.g01"
        assert table(branch) == table(undisturbed[FIRST])

    def test_its_own_state_is_no_reason_to_branch(self, sweep, undisturbed):
        play(sweep, FIRST, rounds=1)
        run = play(sweep, FIRST, origin=Origin(FIRST, 1))
        assert run.path.name == FIRST
        assert table(run) == table(undisturbed[FIRST])

    def test_where_the_checkpoint_is_gone_a_later_one_will_do(self, sweep):
        donor = play(sweep, FIRST, rounds=2)
        shutil.rmtree(checkpoints_in(donor.checkpoints)[1])
        branch = play(sweep, SECOND, config=sweep.trials[FIRST].config, origin=Origin(FIRST, 1))
        assert branch.read_manifest()["lineage"]["taken_after_round"] == 2
        with pytest.raises(CheckpointError, match="no complete checkpoint after round 9"):
            play(sweep, SECOND, config=sweep.trials[FIRST].config, origin=Origin(FIRST, 9))


def test_two_processes_cannot_run_one_trial(sweep, monkeypatch):
    from fcntl import LOCK_EX, flock

    monkeypatch.setattr("esper_actors.sweep.trial.LOCK_SECONDS", 0.3)
    with (sweep.trials_path / f".{FIRST}.lock").open("w") as held:
        flock(held, LOCK_EX)
        with pytest.raises(TimeoutError, match=r"another process has held .*\.lock for 0 s"):
            play(sweep, FIRST)
    assert play(sweep, FIRST, rounds=1).read_manifest()["status"] == "running"

"""Named runs, and copies in a storage from which they are resumed."""

import shutil

import pytest
from cli_builders import SMALL, call

from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.storage import Storage

pytestmark = pytest.mark.integration


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*more):
    return call("train", "ppo", "--serial", *SMALL, "--rounds", 2, *more)


def stop_after(rounds, monkeypatch):
    """Let a run end after so many rounds, as a signal would."""
    from esper_actors.training.controller import Controller

    original = Controller.run

    def limited(self):
        done = self.should_stop
        self.should_stop = lambda: self.progress.round_index >= rounds or done()
        return original(self)

    monkeypatch.setattr(Controller, "run", limited)


def outcome(folder):
    run = RunDirectory.open(folder)
    return run.read_manifest()["policy_sha256"], (folder / "rounds.csv").read_bytes()


def test_a_run_is_resumed_from_its_copy_alone(work, monkeypatch):
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r", "--storage", "bucket")
    shutil.rmtree(work / "runs" / "r")
    answer = call("train", "ppo", "--serial", "--resume", f"file://{work}/bucket/r")
    assert answer.code == 0, answer.err
    assert "resumed after round 1" in answer.out
    assert outcome(work / "runs" / "r") == outcome(work / "runs" / "straight")
    copy = {path.name for path in (work / "bucket" / "r" / "checkpoints").iterdir()}
    assert copy == {path.name for path in (work / "runs" / "r" / "checkpoints").iterdir()}
    assert not list((work / "bucket" / "r" / "snapshots").glob("*/*"))


def test_a_run_is_resumed_from_a_bucket(work, monkeypatch, s3_bucket):
    """With options in the URI, and the storage of the resumed run taken from its manifest."""
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r", "--storage", s3_bucket("runs"))
    shutil.rmtree(work / "runs" / "r")
    answer = call("train", "ppo", "--serial", "--resume", s3_bucket("runs/r"))
    assert answer.code == 0, answer.err
    assert "resumed after round 1" in answer.out
    assert outcome(work / "runs" / "r") == outcome(work / "runs" / "straight")
    copy = Storage(s3_bucket("runs/r"))
    assert copy.names("checkpoints") == sorted(path.name for path in (work / "runs" / "r" / "checkpoints").iterdir())
    assert [copy.names(f"snapshots/{name}") for name in copy.names("snapshots")] == []


def test_the_same_command_starts_or_resumes_a_run(work, monkeypatch):
    assert train("--run-id", "straight").code == 0
    command = ("--run-id", "r", "--storage", f"file://{work}/bucket")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train(*command)
    shutil.rmtree(work / "runs" / "r")  # another machine
    answer = train(*command)
    assert (answer.code, "resumed after round 1" in answer.out) == (0, True)
    assert outcome(work / "runs" / "r") == outcome(work / "runs" / "straight")
    again = train(*command)
    assert (again.code, "is finished" in again.out) == (0, True)


def test_a_run_that_died_before_its_first_checkpoint_is_restarted(work):
    from esper_ray.leyline.config.run import RunConfig

    RunDirectory.create(work / "runs", RunConfig(), ["test"], "r")
    assert train("--run-id", "r").code == 0


def test_a_resumed_run_may_be_placed_differently(work, monkeypatch):
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r")
    answer = call(
        "train", "ppo", "--serial", "--resume", "runs/r", "--set", "system.snapshot_every=1", "--envs-per-actor", 1
    )
    assert answer.code == 0, answer.err
    assert outcome(work / "runs" / "r") == outcome(work / "runs" / "straight")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--storage", "nowhere://bucket"), "nowhere://bucket cannot be used"),
        (("--storage", "file/in/the/way"), "cannot be written"),
        (("--run-id", "a/b"), "--run-id 'a/b' cannot be the name of a folder"),
        (("--run-id", ".."), "cannot be the name of a folder"),
        (("--run-id", "a", "--resume", "runs/a"), "exclude each other"),
        (("--resume", "file:///does/not/exist"), "holds no run"),
        (("--gpus-per-actor", "1.5"), "system.gpus_per_actor"),
        (("--set", "system.placement=scatter"), "system.placement"),
    ],
)
def test_bad_input_is_refused_before_the_run_starts(work, arguments, message):
    (work / "file").write_text("")
    answer = train(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert not (work / "runs").exists()

"""Named runs, and copies in a storage from which they are resumed."""

import shutil

import pytest
from cli_builders import SMALL, call

from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.storage import Storage

pytestmark = pytest.mark.integration


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*more):
    return call("train", "ppo", "--serial", *SMALL, "--rounds", 2, *more)


def stop_after(rounds, monkeypatch):
    """Let a run end after ``rounds`` rounds, as after a signal."""
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


def test_a_run_is_resumed_from_its_copy_in_a_storage(working_folder, monkeypatch):
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r", "--storage", "bucket")
    shutil.rmtree(working_folder / "runs" / "r")
    answer = call("train", "ppo", "--serial", "--resume", f"file://{working_folder}/bucket/r")
    assert answer.code == 0, answer.err
    assert "resumed after round 1" in answer.out
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")
    copy = {path.name for path in (working_folder / "bucket" / "r" / "checkpoints").iterdir()}
    assert copy == {path.name for path in (working_folder / "runs" / "r" / "checkpoints").iterdir()}
    assert not list((working_folder / "bucket" / "r" / "snapshots").glob("*/*"))


def test_a_run_is_resumed_from_a_bucket(working_folder, monkeypatch, s3_bucket):
    """With options in the URI, and the storage of the resumed run taken from its manifest."""
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r", "--storage", s3_bucket("runs"))
    shutil.rmtree(working_folder / "runs" / "r")
    answer = call("train", "ppo", "--serial", "--resume", s3_bucket("runs/r"))
    assert answer.code == 0, answer.err
    assert "resumed after round 1" in answer.out
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")
    copy = Storage(s3_bucket("runs/r"))
    assert copy.names("checkpoints") == sorted(
        path.name for path in (working_folder / "runs" / "r" / "checkpoints").iterdir()
    )
    assert [copy.names(f"snapshots/{name}") for name in copy.names("snapshots")] == []


def test_the_same_command_starts_or_resumes_a_run(working_folder, monkeypatch):
    assert train("--run-id", "straight").code == 0
    command = ("--run-id", "r", "--storage", f"file://{working_folder}/bucket")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train(*command)
    shutil.rmtree(working_folder / "runs" / "r")  # another machine
    answer = train(*command)
    assert (answer.code, "resumed after round 1" in answer.out) == (0, True)
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")
    third_answer = train(*command)
    assert (third_answer.code, "is finished" in third_answer.out) == (0, True)


def test_a_run_without_a_checkpoint_is_restarted(working_folder):
    from esper_ray.leyline.config.run import RunConfig

    RunDirectory.create(working_folder / "runs", RunConfig(), ["test"], "r")
    assert train("--run-id", "r").code == 0


def test_a_run_resumed_with_another_placement_gives_the_same_result(working_folder, monkeypatch):
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r")
    answer = call(
        "train", "ppo", "--serial", "--resume", "runs/r", "--set", "system.snapshot_every=1", "--envs-per-actor", 1
    )
    assert answer.code == 0, answer.err
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")


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
def test_invalid_input_is_refused_before_the_run_starts(working_folder, arguments, message):
    (working_folder / "file").write_text("")
    answer = train(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert not (working_folder / "runs").exists()

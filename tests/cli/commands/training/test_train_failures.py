"""A run that fails in the middle: one message with the path, what is safe, and the command that resumes it."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from cli_builders import call, only_run, train_below
from disk_faults import VIEWER_FILES, Occasions, full_disk, is_for_viewers, read_only

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.training.checkpoint import checkpoints_in
from esper_actors.training.learner.ppo import PPOLearner
from esper_ray.karn.console.progress import PlainProgress
from esper_ray.leyline.files import durable
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROUNDS = 3


def counted(call, counts, name, for_viewers):
    def counting(*arguments):
        counts[name] += not for_viewers(*arguments)
        return call(*arguments)

    return counting


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run without a failure, and its number of writes and of changes of the file system."""
    counts = {"write_all": 0, "changing": 0}
    for_viewers = {
        "write_all": lambda _descriptor, data: is_for_viewers(data),
        "changing": lambda path: path.name in VIEWER_FILES,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in counts:
            patch.setattr(durable, name, counted(getattr(durable, name), counts, name, for_viewers[name]))
        folder = tmp_path_factory.mktemp("straight")
        assert train_below(folder, "--rounds", ROUNDS, "--run-id", "run").code == 0
    return only_run(folder), counts


def refuse_writes(patch, allowed):
    """The disk is full after ``allowed`` writes."""
    patch.setattr(durable, "write_all", full_disk(Occasions(allowed)))


def refuse_changes(patch, allowed):
    """The file system is read-only after ``allowed`` changes."""
    patch.setattr(durable, "changing", read_only(Occasions(allowed)))


def check_answer(answer, run):
    """One message without a traceback, which names the newest checkpoint and the command that resumes."""
    newest = checkpoints_in(run.checkpoints)[-1]
    assert answer.code == 1
    assert "Traceback" not in answer.err
    done = int(newest.name.removeprefix("round-"))
    assert f"esper: safe: {newest}, after {done} of {ROUNDS} rounds\n" in answer.err
    assert f"esper: resume with: esper train ppo --resume {run.path}\n" in answer.err


def check_resumed(answer, straight):
    """The printed command gives the results of a run without a failure."""
    command = re.search(r"resume with: (.*)", answer.err)[1]
    assert call(*shlex.split(command)[1:]).code == 0
    run = RunDirectory.open(Path(shlex.split(command)[-1]))
    assert run.read_manifest()["policy_sha256"] == straight.read_manifest()["policy_sha256"]
    assert (run.path / "rounds.csv").read_bytes() == (straight.path / "rounds.csv").read_bytes()
    assert list(run.events(evidence=True)) == list(straight.events(evidence=True))


@pytest.mark.parametrize(
    "share", [0.6, *(pytest.param(share, marks=pytest.mark.nightly) for share in (0.3, 0.8, 0.97))]
)
def test_a_full_disk_ends_a_run_that_resumes_without_a_difference(share, train, runs, straight, monkeypatch):
    with monkeypatch.context() as patch:
        refuse_writes(patch, int(straight[1]["write_all"] * share))
        answer = train("--rounds", ROUNDS, "--run-id", "run")
    run = only_run(runs)
    assert run.read_manifest()["status"] == "failed"  # written in place
    assert re.search(rf"esper: error: {run.path}/\S+ cannot be written: No space left on device\n", answer.err)
    check_answer(answer, run)
    check_resumed(answer, straight[0])


@pytest.mark.nightly
def test_a_full_disk_at_any_write_loses_nothing(runs, straight, monkeypatch):
    """Every write in turn; before the first checkpoint the new run is removed or starts again."""
    for allowed in range(straight[1]["write_all"]):
        with monkeypatch.context() as patch:
            refuse_writes(patch, allowed)
            answer = train_below(runs / str(allowed), "--rounds", ROUNDS, "--run-id", "run")
        assert answer.code in (1, 2), allowed
        assert "No space left on device" in answer.err
        assert "Traceback" not in answer.err
        again = train_below(runs / str(allowed), "--rounds", ROUNDS, "--run-id", "run")
        assert again.code == 0, (allowed, again.err)
        run = only_run(runs / str(allowed))
        assert run.read_manifest()["policy_sha256"] == straight[0].read_manifest()["policy_sha256"], allowed
        assert list(run.events(evidence=True)) == list(straight[0].events(evidence=True)), allowed


@pytest.mark.nightly
def test_a_read_only_folder_ends_a_run_that_says_so_about_its_status(train, runs, straight, monkeypatch):
    with monkeypatch.context() as patch:
        refuse_changes(patch, straight[1]["changing"] // 2)
        answer = train("--rounds", ROUNDS, "--run-id", "run")
    run = only_run(runs)
    assert "cannot be written: Read-only file system" in answer.err
    assert "esper: the status of the run could not be changed to failed: " in answer.err
    check_answer(answer, run)
    assert run.read_manifest()["status"] == "running"
    check_resumed(answer, straight[0])


def test_a_folder_that_cannot_be_written_from_the_start_holds_nothing(train, runs, monkeypatch):
    refuse_changes(monkeypatch, 0)
    answer = train("--rounds", ROUNDS)
    assert answer.code == 2
    assert "Read-only file system" in answer.err
    assert "Traceback" not in answer.err
    assert not runs.exists() or list(runs.iterdir()) == []


def at_episode(monkeypatch, index, act):
    """Act at the end of an episode; every round has two."""

    def episode_finished(self, episode):
        if episode.index == index:
            act()

    monkeypatch.setattr(PlainProgress, "episode_finished", episode_finished)


@pytest.mark.parametrize("name", ["rounds.csv", "events.jsonl", pytest.param("timings.csv", marks=pytest.mark.nightly)])
def test_a_deleted_file_is_restored_and_the_run_ends(name, train, runs, straight, monkeypatch):
    with monkeypatch.context() as patch:
        at_episode(patch, 4, lambda: os.remove(runs / "run" / name))
        answer = train("--rounds", ROUNDS, "--run-id", "run")
    run = only_run(runs)
    assert re.search(rf"{run.path}/{name} was deleted .*; its \d+ bytes have been restored", answer.err)
    check_answer(answer, run)
    assert run.read_manifest()["status"] == "failed"
    check_resumed(answer, straight[0])


@pytest.mark.parametrize("name", ["rounds.csv", "events.jsonl"])
def test_a_truncated_file_is_noticed_before_the_next_line(name, train, runs, monkeypatch):
    at_episode(monkeypatch, 4, lambda: os.truncate(only_run(runs).path / name, 100))
    answer = train("--rounds", ROUNDS, "--run-id", "run")
    run = only_run(runs)
    assert f"{run.path}/{name} was cut by another process: it has 100 bytes" in answer.err
    check_answer(answer, run)
    assert (run.path / name).stat().st_size == 100


@pytest.mark.nightly
def test_a_removed_directory_is_not_made_again(train, runs, monkeypatch):
    at_episode(monkeypatch, 4, lambda: shutil.rmtree(runs / "run"))
    answer = train("--rounds", ROUNDS, "--run-id", "run")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert f"{runs / 'run'} was removed or moved while the run wrote to it" in answer.err
    assert f"esper: {runs / 'run'} has no complete checkpoint" in answer.err
    assert list(runs.iterdir()) == []


@pytest.mark.nightly
def test_the_copy_of_a_removed_directory_is_named(train, runs, tmp_path, straight, monkeypatch):
    with monkeypatch.context() as patch:
        at_episode(patch, 4, lambda: shutil.rmtree(runs / "run"))
        answer = train("--rounds", ROUNDS, "--run-id", "run", "--storage", tmp_path / "storage")
    assert f"esper: safe: the copy {tmp_path}/storage/run" in answer.err
    command = re.search(r"esper: resume with: (.*)", answer.err)[1]
    assert command == f"esper train ppo --resume file://{tmp_path}/storage/run"
    assert call(*shlex.split(command)[1:], "--telemetry-dir", runs).code == 0
    assert (runs / "run" / "rounds.csv").read_bytes() == (straight[0].path / "rounds.csv").read_bytes()


def fail_in_episode(monkeypatch, index, error, times):
    """Episode ``index`` raises ``error`` so many times."""
    play, left = EnvironmentPool.play, [times]

    def failing(self, assignment, *rest):
        if assignment.index == index and left[0]:
            left[0] -= 1
            raise error
        return play(self, assignment, *rest)

    monkeypatch.setattr(EnvironmentPool, "play", failing)


@pytest.mark.nightly
def test_an_episode_without_memory_is_played_again(train, runs, straight, monkeypatch):
    fail_in_episode(monkeypatch, 3, MemoryError(), times=1)
    answer = train("--rounds", ROUNDS, "--run-id", "run")
    assert answer.code == 0
    run = only_run(runs)
    assert (run.path / "rounds.csv").read_bytes() == (straight[0].path / "rounds.csv").read_bytes()
    (fault,) = run.faults()
    assert (fault.kind, fault.detail.partition(";")[0]) == ("episode_failed", "MemoryError")
    assert "use fewer environments per actor (system.envs_per_actor)" in fault.detail


def test_a_learner_without_memory_ends_the_run_with_the_way_out(train, runs, straight, monkeypatch):
    update = PPOLearner.update

    def failing(self, episodes, round_index):
        if round_index == 2:
            raise MemoryError("cannot allocate 9 GiB")
        return update(self, episodes, round_index)

    with monkeypatch.context() as patch:
        patch.setattr(PPOLearner, "update", failing)
        answer = train("--rounds", ROUNDS, "--run-id", "run")
    assert "esper: error: MemoryError: cannot allocate 9 GiB; use fewer environments per actor" in answer.err
    check_answer(answer, only_run(runs))
    check_resumed(answer, straight[0])


def test_a_full_disk_ends_a_heuristic_run_with_what_is_saved(esper, runs, monkeypatch):
    left = [1]

    def log(self, records, append=durable.GrowingFile.append):
        left[0] -= 1
        if left[0] < 0:
            raise durable.WriteError(f"{self.path} cannot be written: No space left on device")
        append(self, records)

    monkeypatch.setattr(durable.GrowingFile, "append", log)
    answer = esper("train", "heuristic", "--episodes", "2", "--episode-length", "2", "--telemetry-dir", runs)
    run = only_run(runs)
    assert answer.code == 1
    assert f"esper: error: {run.path}/events.jsonl cannot be written: No space left on device" in answer.err
    assert f"esper: 1 of 2 episodes are saved in {run.path}\n" in answer.err
    assert run.read_manifest()["status"] == "failed"

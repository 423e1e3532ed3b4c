"""Lock of a run directory: one holder at a time, whoever it is and however it ends."""

import os
import re
import subprocess
import sys

import pytest

from esper_ray.nissa.runs.run_lock import LOCK, Holder, RunLock, RunLockedError

HOLDING = """
import sys, time
from pathlib import Path
from esper_ray.nissa.runs.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def other_process(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDING, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_holder_is_refused_with_process_host_and_time(tmp_path, other_process):
    pattern = rf"^{re.escape(str(tmp_path))} is being run by process {other_process.pid} on \S+ since 20\S+$"
    with pytest.raises(RunLockedError, match=pattern):
        RunLock(tmp_path).acquire()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    with RunLock(tmp_path):
        assert f'"process": {os.getpid()}' in (tmp_path / LOCK).read_text()


def test_a_second_holder_in_the_same_process_is_refused(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunLockedError, match=f"process {os.getpid()} "):
        RunLock(tmp_path).acquire()


def test_a_released_lock_leaves_no_file_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path):
            assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        assert list(tmp_path.iterdir()) == []


def test_a_lock_belongs_to_the_directory_that_is_at_the_path_now(tmp_path):
    """A directory that was renamed keeps its lock; a new one in its place is free."""
    (tmp_path / "run").mkdir()
    with RunLock(tmp_path / "run"):
        os.rename(tmp_path / "run", tmp_path / "aside")
        (tmp_path / "run").mkdir()
        with RunLock(tmp_path / "run"), pytest.raises(RunLockedError, match="aside is being run"):
            RunLock(tmp_path / "aside").acquire()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"process": "1", "host": "h", "since": "t"}'])
def test_a_holder_that_cannot_be_read_is_another_process(tmp_path, content):
    with RunLock(tmp_path):
        (tmp_path / LOCK).write_text(content)
        with pytest.raises(RunLockedError, match="is being run by another process"):
            RunLock(tmp_path).acquire()


def test_a_folder_that_does_not_exist_cannot_be_locked(tmp_path):
    with pytest.raises(RunLockedError, match=r"nowhere cannot be locked: .*run\.lock: No such file or directory"):
        RunLock(tmp_path / "nowhere").acquire()


@pytest.mark.parametrize(
    ("kind", "reason"), [("a folder", "Is a directory"), ("a pipe", "it is not a file"), ("a link", "it is a link")]
)
def test_what_is_no_file_is_neither_locked_nor_changed(kind, reason, tmp_path):
    path, behind = tmp_path / LOCK, tmp_path / "behind"
    behind.write_text("content")
    makers = {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path), "a link": lambda: path.symlink_to(behind)}
    makers[kind]()
    with pytest.raises(RunLockedError, match=rf"cannot be locked: .*run\.lock: {reason}"):
        RunLock(tmp_path).acquire()
    assert behind.read_text() == "content"
    assert sorted(os.listdir(tmp_path)) == ["behind", LOCK]


def test_a_holder_is_described_by_process_host_and_time():
    assert Holder(7, "node-3", "2026-11-29T10:00:00+00:00").describe() == (
        "process 7 on node-3 since 2026-11-29T10:00:00+00:00"
    )

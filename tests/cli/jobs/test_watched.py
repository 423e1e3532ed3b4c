"""A command in a process of its own: announcement, output, signals and exit code."""

import os
import signal
import sys

import pytest

from esper_ray.cli.jobs.announcement import CHANNEL, announce
from esper_ray.cli.jobs.watched import WatchedCommand, command_line
from esper_ray.leyline.names import CONSOLE_LOG

pytestmark = pytest.mark.integration

PROGRAMS = ("/nowhere/esper", "main.py")
ANNOUNCE = "from pathlib import Path; from esper_ray.cli.jobs.announcement import announce; announce(Path({!r}))\n"
WAIT = 30.0


@pytest.fixture
def started():
    """``started(program)`` is a command, which is ended after the test."""
    commands = []

    def start(program):
        commands.append(WatchedCommand([sys.executable, "-c", program]))
        return commands[-1]

    yield start
    for command in commands:
        with command:
            if command.state().runs:
                os.kill(command.state().pid, signal.SIGKILL)
            command.wait()


@pytest.fixture
def announced(started):
    """``announced(folder, rest)`` is a command that has announced ``folder`` and runs ``rest``."""

    def start(folder, rest=""):
        command = started("print('before', flush=True)\n" + ANNOUNCE.format(str(folder)) + rest)
        assert command.wait_for_folder(WAIT)
        return command

    return start


def test_the_folder_is_announced_and_holds_the_output_of_before_and_after(announced, tmp_path):
    (tmp_path / CONSOLE_LOG).write_text("an earlier command\n")
    rest = "import sys; print('after', flush=True); print('an error', file=sys.stderr)"
    command = announced(tmp_path, rest)
    assert command.folder is not None
    assert command.folder.resolve() == tmp_path
    assert command.wait() == 0
    assert (tmp_path / CONSOLE_LOG).read_text() == "an earlier command\nbefore\nafter\nan error\n"
    assert command.last_output() == "an earlier command\nbefore\nafter\nan error"


def test_the_output_of_a_removed_run_is_still_known(announced, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    program = f"sys.stdin.read(0); import shutil; shutil.rmtree({str(folder)!r}); print('it failed'); sys.exit(1)"
    command = announced(folder, "import sys\n" + program)
    assert command.wait() == 1
    assert not folder.exists()
    assert command.last_output() in ("before\nit failed", "before")  # removed before this process could open it


def test_a_refusal_has_its_output_and_exit_code_and_no_folder(started):
    command = started("import sys; print('esper: error: no', file=sys.stderr); sys.exit(2)")
    while not command.wait_for_folder(0.05):
        pass
    assert (command.wait(), command.folder, command.new_output()) == (2, None, b"esper: error: no\n")
    assert command.new_output() == b""


def test_a_stop_is_the_signal_of_ctrl_c_and_is_counted(announced, tmp_path):
    rest = (
        "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    command = announced(tmp_path, rest)
    while "ready" not in command.last_output():
        assert command.state().runs
    command.stop()
    assert command.wait() == 130
    assert (command.state().stops, command.state().exit_code) == (1, 130)
    command.stop()
    assert command.state().stops == 1


def test_a_killed_command_has_the_exit_code_of_its_signal(announced, tmp_path):
    command = announced(tmp_path, "import time; time.sleep(60)")
    os.kill(command.state().pid, signal.SIGKILL)
    assert command.wait() == 137


def test_the_command_has_a_session_of_its_own(announced, tmp_path):
    command = announced(tmp_path, "import time; time.sleep(60)")
    pid = command.state().pid
    assert os.getsid(pid) == pid != os.getsid(0)


def test_without_a_process_that_waits_nothing_is_announced(tmp_path):
    announce(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_announcement_that_nobody_reads_is_no_error(tmp_path, monkeypatch, capfd):
    read, write = os.pipe()
    os.close(read)
    before = [os.dup(number) for number in (1, 2)]
    monkeypatch.setenv(CHANNEL, str(write))
    try:
        announce(tmp_path)
    finally:
        for copy, number in zip(before, (1, 2), strict=True):
            os.dup2(copy, number)
            os.close(copy)
    assert (tmp_path / CONSOLE_LOG).exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)


@pytest.mark.parametrize(
    ("program", "words"), [("/nowhere/esper", ["-m", "esper_ray"]), ("main.py", ["-m", "esper_ray"])]
)
def test_the_command_runs_the_same_program(monkeypatch, program, words):
    monkeypatch.setattr(sys, "argv", [program, "train"])
    assert command_line(["train", "ppo"]) == [sys.executable, *words, "train", "ppo"]


def test_an_installed_program_is_run_by_its_path(monkeypatch, tmp_path):
    program = tmp_path / "esper"
    program.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "train"])
    assert command_line(["train"]) == [sys.executable, str(program), "train"]

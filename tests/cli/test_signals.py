"""Signals before a job starts: exit codes, and the line of an interrupted import."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

SENDER = "import os, signal\ndef interrupt(): os.kill(os.getpid(), signal.{})\n"
START = "import sys\nsys.path.insert(0, {!r})\nfrom esper_ray.cli.signals import exit_on_signals\nexit_on_signals()\n"
LINE = "esper: interrupted before anything was started\n"


def ended(folder, program, number=signal.SIGINT):
    """Exit code and standard error of ``program``, which may import the modules in ``folder``."""
    (folder / "sender.py").write_text(SENDER.format(number.name))
    (folder / "slow.py").write_text("import sender\nsender.interrupt()\n")
    command = [sys.executable, "-c", START.format(str(folder)) + program]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return answer.returncode, answer.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_an_import_prints_that_nothing_was_started(tmp_path, number, code):
    assert ended(tmp_path, "import slow", number) == (code, LINE)


def test_a_signal_outside_of_imports_prints_nothing(tmp_path):
    assert ended(tmp_path, "import sender\nsender.interrupt()") == (130, "")


def test_a_signal_during_an_import_of_a_running_job_prints_nothing(tmp_path):
    program = "def run():\n    import slow\n__name__ = 'esper_ray.cli.jobs.example'\nrun()"
    assert ended(tmp_path, program) == (130, "")

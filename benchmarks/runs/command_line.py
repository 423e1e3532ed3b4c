"""CPU seconds of the command line before heavy imports."""

import os
import statistics
import subprocess
import sys

from benchmarks.report import Bar, Measurements

REPEATS = 5
CASES = {"help": ["--help"], "refused preset": ["train", "ppo", "--preset", "digts"]}


def cpu_seconds(words: list[str]) -> float:
    """User and system time of ``esper <words>``, in seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "esper_ray", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def measure() -> Measurements:
    """Medians over repeated calls."""
    figures = {}
    for name, words in CASES.items():
        figures[f"{name}, CPU s"] = statistics.median(cpu_seconds(words) for _ in range(REPEATS))
    return Measurements("command_line", figures, {"help, CPU s": Bar(0.5), "refused preset, CPU s": Bar(1.5)})

"""Lines of progress that never stay silent for long."""

import io
import threading
import time
from types import SimpleNamespace

from rich.console import Console

from esper_ray.karn.console.lines import ProgressLines
from esper_ray.karn.console.progress import StepCounter
from esper_ray.karn.console.sweep_progress import PlainSweepProgress
from esper_ray.leyline.config.loading import build, read_preset


def wait_for_lines(out, count, seconds=10.0):
    deadline = time.monotonic() + seconds
    while out.getvalue().count("\n") < count and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return out.getvalue().splitlines()


def test_a_status_line_comes_after_every_silent_interval():
    out = io.StringIO()
    with ProgressLines(Console(file=out), lambda: "3 of 8 [played]", every_s=0.05, prefix="A  "):
        lines = wait_for_lines(out, 3)
    assert set(lines) == {"A  3 of 8 [played]"}  # brackets are not markup


def test_other_lines_delay_the_status_and_its_end_ends_it():
    out = io.StringIO()
    with ProgressLines(Console(file=out), lambda: "status", every_s=0.2) as lines:
        for _ in range(5):
            lines.print("line")
            threading.Event().wait(0.02)
    threading.Event().wait(0.3)
    assert out.getvalue().splitlines() == ["line"] * 5


def test_a_round_without_samples_names_the_time_instead_of_zero_steps():
    config = build(read_preset("digits"), {"telemetry.level": "off"})
    counter = StepCounter(config, 0)
    counter.begin()
    assert counter.describe() == "round 1: no episode has ended after 0:00"


def test_a_sweep_prints_the_counts_of_its_trials():
    out = io.StringIO()
    progress = PlainSweepProgress(SimpleNamespace(trials={}), Console(file=out), every_s=0.05)
    progress._statuses = {"a": "running", "b": "waiting"}
    with progress:
        lines = wait_for_lines(out, 1)
    assert lines[0] == "1 running, 1 waiting"

"""The pulse of a run: it beats, says what happens, and never disturbs."""

import json
import os
import time

import pytest

from esper_ray.nissa.runs.pulse import PULSE, Pulse, PulseWriter


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def writer(tmp_path, clock):
    pulse = Pulse("starting", 100.0, 100.0, 2, 8, 0, 4, "normal")
    return PulseWriter(tmp_path, pulse, now=lambda: clock[0])


def read(folder):
    return json.loads((folder / PULSE).read_text())


def test_the_first_beat_names_the_process(writer, tmp_path):
    writer.start()
    pulse = read(tmp_path)
    writer.stop("interrupted")
    assert (pulse["pid"], pulse["phase"], pulse["round"], pulse["rounds"]) == (os.getpid(), "starting", 2, 8)
    assert pulse["beat"] == 1


def test_a_new_phase_has_its_begin_and_a_repeated_one_keeps_it(writer, tmp_path, clock):
    for moment, phase in ((110.0, "playing"), (112.0, "playing"), (113.0, None)):
        clock[0] = moment
        writer.report(phase)
    writer._beat()
    pulse = read(tmp_path)
    assert (pulse["since"], pulse["moved"], pulse["time"]) == (110.0, 113.0, 113.0)


def test_it_beats_while_the_main_thread_reports_nothing(writer, tmp_path, monkeypatch):
    monkeypatch.setattr("esper_ray.nissa.runs.pulse.BEAT_SECONDS", 0.01)
    writer.start()
    deadline = time.monotonic() + 10
    while read(tmp_path)["beat"] < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.stop("finished")
    pulse = read(tmp_path)
    assert pulse["moved"] == 100.0
    assert (pulse["phase"], pulse["status"]) == ("ended", "finished")
    last = pulse["beat"]
    time.sleep(0.05)
    assert read(tmp_path)["beat"] == last


def test_a_pulse_that_cannot_be_written_is_a_problem_until_it_can(tmp_path):
    folder = tmp_path / "run"
    writer = PulseWriter(folder, Pulse("starting", 0.0, 0.0, 0, 1, 0, 1, "off"))
    writer._beat()
    assert "pulse.json" in writer.problem
    folder.mkdir()
    writer._beat()
    assert writer.problem is None

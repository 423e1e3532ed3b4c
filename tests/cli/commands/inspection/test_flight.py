"""The command ``esper flight``: recordings, and what a killed driver left."""

import json
from itertools import count

import pytest
from cli_builders import call
from nissa_builders import complete
from report_builders import run_of

from esper_ray.leyline.errors import Fault
from esper_ray.nissa.runs import flight_recorder
from esper_ray.nissa.runs.flight_recorder import FLIGHT, FlightRecorder
from esper_ray.nissa.runs.live_steps import LiveSteps

PULSE = {"phase": "playing", "since": 1000.0, "moved": 1030.0, "round": 7, "rounds": 11, "episodes": 3, "of": 16} | {
    "telemetry": "normal",
    "status": "running",
    "links": {},
    "beat": 77,
    "time": 1034.5,
    "pid": 42,
    "host": "box",
}


def step(number, **more):
    record = {"kind": "env_epoch", "round": 7, "env": 2, "step": number, "operation": "GERMINATE", "slot": "r0c1"}
    return complete(record | {"success": True, "val_accuracy_pp": 48.25, "reward": 0.125} | more)


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path, [], status="running")


@pytest.fixture
def recorded(run, monkeypatch):
    """A run with two recordings, and one item in every ten seconds."""
    ticks = count(100, 10)
    monkeypatch.setattr(flight_recorder.time, "time", lambda: float(next(ticks)))
    recorder = FlightRecorder(run.path)
    for number in range(10):
        recorder.add(step(number))
    recorder.add(Fault("worker_died", "worker 3", "killed", 2.5))
    recorder.write("anomaly", "update too large: 0.5, threshold 0.1")
    recorder.add(ValueError("seven\x1b[2J"))
    recorder.write("failed", "the run failed: ValueError: seven")
    (run.path / "pulse.json").write_text(json.dumps(PULSE | {"phase": "ended", "status": "failed"}))
    return run


def test_recordings_are_listed_and_the_newest_is_printed(recorded):
    answer = call("flight", recorded.path)
    lines = answer.out.splitlines()
    assert answer.code == 0
    assert lines[0] == "   1  1970-01-01 00:03:30 UTC  anomaly: update too large: 0.5, threshold 0.1"
    assert lines[1] == "   2  1970-01-01 00:03:50 UTC  failed: the run failed: ValueError: seven"
    assert lines[3] == "recording 2 of 1970-01-01 00:03:50 UTC: failed, the run failed: ValueError: seven"
    assert lines[-1] == "  -10.0 s  ERROR ValueError: seven [2J"


def test_the_last_minute_before_a_recording_has_ages(recorded):
    lines = call("flight", recorded.path, 1).out.splitlines()
    assert lines[1] == "the last 60 s before it: 6 items, 5 earlier"
    assert lines[2] == "  -60.0 s  r8 e2 s5  GERMINATE r0c1: accuracy 48.2 %, reward +0.125"
    assert lines[-1] == "  -10.0 s  FAULT worker died after 2.5 s: worker 3: killed"


def test_the_time_before_it_can_be_chosen(recorded):
    assert call("flight", recorded.path, 1, "--seconds", 25).out.splitlines()[1] == (
        "the last 25 s before it: 2 items, 9 earlier"
    )


def test_a_killed_run_is_told_from_pulse_faults_and_steps_in_play(run):
    (run.path / "pulse.json").write_text(json.dumps(PULSE))
    live = LiveSteps(run.path)
    live.start()
    live.add([step(number) for number in range(50)])
    answer = call("flight", run.path)
    lines = answer.out.splitlines()
    assert answer.code == 0
    assert lines[:4] == [
        "run-1: the manifest says running; this is what it left behind",
        "last beat 77 at 1970-01-01 00:17:14 UTC, process 42 on box",
        "  -34.5 s  playing began; 7 of 11 rounds done, 3 of 16 episodes of the next",
        "   -4.5 s  the main thread last reported",
    ]
    assert lines[4] == "the newest 40 of 50 steps in play, which have no times:"
    assert lines[-1].strip() == "r8 e2 s49  GERMINATE r0c1: accuracy 48.2 %, reward +0.125"


def test_after_a_kill_the_end_is_told_though_there_are_recordings(recorded):
    (recorded.path / "pulse.json").write_text(json.dumps(PULSE))
    out = call("flight", recorded.path).out
    assert "   1  1970" in out
    assert "last beat 77" in out


@pytest.mark.parametrize("pulse", [None, "no json", "{}", '{"beat": 1, "time": "x"}'])
def test_a_missing_or_damaged_pulse_is_said(run, pulse):
    if pulse is not None:
        (run.path / "pulse.json").write_text(pulse)
    answer = call("flight", run.path)
    assert answer.code == 0
    assert "its pulse is missing or damaged" in answer.out
    assert "steps in play were not recorded" in answer.out


def test_a_request_is_left_for_the_driver(run):
    assert call("flight", run.path, "--write").code == 0
    assert (run.path / FLIGHT / "request").is_file()


def test_an_unknown_number_is_refused_with_those_that_exist(recorded):
    answer = call("flight", recorded.path, 7)
    assert answer.code == 2
    assert answer.err.endswith("has no recording 7; recordings: 1, 2\n")


def test_a_damaged_recording_is_named_and_the_others_listed(recorded):
    (recorded.path / FLIGHT / "001-anomaly.jsonl").write_text("no json\n")
    assert "is not a recording" in call("flight", recorded.path).out.splitlines()[0]
    answer = call("flight", recorded.path, 1)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1


def test_no_run_is_refused(tmp_path):
    assert call("flight", tmp_path / "nowhere").code == 2

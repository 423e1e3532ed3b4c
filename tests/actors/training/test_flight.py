"""The flight recorder of a run: when it writes, and that it never disturbs the run."""

import errno
import json
import logging
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from learner_builders import small_config
from nissa_builders import complete
from run_builders import placed
from serial_runs import SETTINGS
from watching_builders import event_records

from esper_actors.session import train
from esper_actors.training.flight import LOGGERS, FlightObserver
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files import durable
from esper_ray.leyline.files.durable import WriteError
from esper_ray.nissa.runs.flight_recorder import FLIGHT, recordings, request_recording
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory

CONFIG = placed(small_config(**SETTINGS), "local")


class Breaking(RunObserver):
    """Observer that ends the run with an error of the program in a round, and may fail at the end again."""

    def __init__(self, error, at_the_end=None):
        self.error, self.at_the_end = error, at_the_end

    def run_opened(self, context):
        self.report = context.report_fault

    def update_started(self):
        raise self.error

    def run_ended(self, status):
        if self.at_the_end is not None:
            raise self.at_the_end


def opened(folder):
    """A flight observer of a run that does not play, and the faults that it reports."""
    faults = []
    context = SimpleNamespace(config=CONFIG, run=SimpleNamespace(path=folder), report_fault=faults.append)
    observer = FlightObserver()
    observer.run_opened(context)
    return observer, faults


@pytest.fixture
def flight(tmp_path):
    observer, _ = opened(tmp_path)
    yield observer
    observer.run_ended("finished")


def anomaly(name, **more):
    return complete({"kind": "anomaly", "type": name, "open": True} | more)


def episode(rollback):
    return SimpleNamespace(rollback=rollback, log=())


def reasons(folder):
    """What happened and why, of every recording."""
    headers = [recording.records()[0][0] for recording in recordings(folder)]
    return [(header["what"], header["reason"]) for header in headers]


def wait_until(condition):
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_anomaly_that_begins_is_recorded_with_its_numbers(flight, tmp_path):
    kl = anomaly("update_too_large", value=0.5, threshold=0.1)
    flight.round_logged([kl, anomaly("head_collapsed", subject="slot"), anomaly("nonfinite", open=False)])
    flight.round_logged([anomaly("nonfinite", open=False)])
    assert reasons(tmp_path) == [("anomaly", "update too large: 0.5, threshold 0.1; head collapsed (slot)")]


def test_a_quarantined_environment_is_recorded_once(flight, tmp_path):
    flight.fault_occurred(Fault("worker_died", "worker 1", ""))
    flight.fault_occurred(Fault("environment_quarantined", "environment 1", "failed 3 times"))
    flight.round_logged([anomaly("environment_quarantined", subject="1")])
    assert reasons(tmp_path) == [("quarantine", "environment quarantined: environment 1: failed 3 times")]


def test_rollbacks_that_pile_up_are_recorded_once_until_they_become_rare(flight, tmp_path):
    for rollback in [True, True, True, False, False, False, False]:
        flight.episode_finished(episode(rollback))
    assert reasons(tmp_path) == []  # seven episodes are too few
    flight.episode_finished(episode(False))
    flight.episode_finished(episode(True))
    expected = ("rollbacks", "3 of the 8 newest episodes were rolled back")
    assert reasons(tmp_path) == [expected]
    for rollback in [False] * 8 + [True] * 3:
        flight.episode_finished(episode(rollback))
    assert reasons(tmp_path) == [expected, expected]


@pytest.fixture
def without_handler():
    """No handler of SIGUSR1; a library that another test imported may have one."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR1, signal.SIG_DFL if before is None else before)


@pytest.mark.usefixtures("without_handler")
def test_sigusr1_writes_a_recording_and_the_handler_goes_with_the_run(tmp_path):
    observer, _ = opened(tmp_path)
    try:
        assert signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: recordings(tmp_path))
    finally:
        observer.run_ended("finished")
    assert reasons(tmp_path) == [("signal", "the process received SIGUSR1")]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_handler_of_the_user_for_sigusr1_stays(tmp_path):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        observer, _ = opened(tmp_path)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        observer.run_ended("finished")
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


@pytest.mark.usefixtures("without_handler")
def test_in_another_thread_no_signal_handler_is_installed(tmp_path):
    handlers = []

    def follow():
        observer, _ = opened(tmp_path)
        handlers.append(signal.getsignal(signal.SIGUSR1))
        observer.run_ended("finished")

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL]


def test_a_request_of_a_viewer_writes_a_recording(flight, tmp_path):
    request_recording(tmp_path)
    wait_until(lambda: recordings(tmp_path))
    assert reasons(tmp_path) == [("request", "a viewer asked for it")]


def test_a_place_that_cannot_be_written_is_one_fault(tmp_path):
    (tmp_path / FLIGHT).write_text("")
    observer, faults = opened(tmp_path)
    for _ in range(3):
        observer.round_logged([anomaly("nonfinite")])
    observer.run_ended("finished")
    assert [(fault.kind, fault.who) for fault in faults] == [("viewer_file_failed", "flight recorder")]


def test_messages_of_the_program_are_in_the_recording(flight, tmp_path, caplog):
    logging.getLogger("esper_ray.somewhere").warning("low on memory")
    flight.round_logged([anomaly("nonfinite")])
    (recording,) = recordings(tmp_path)
    assert [r["text"] for r in recording.records()[0] if r["kind"] == "log"] == ["low on memory"]


@pytest.mark.integration
def test_a_run_that_fails_leaves_a_recording_with_its_last_steps_and_the_error(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, CONFIG, ["test"], "run")
    with pytest.raises(RuntimeError, match="seven"):
        train(CONFIG, run=run, observers=[Breaking(RuntimeError("seven"))])
    ((what, reason),) = reasons(run.path)
    assert (what, reason) == ("failed", "the run failed: RuntimeError: seven")
    (recording,) = recordings(run.path)
    records, damaged = recording.records()
    kinds = [record["kind"] for record in records]
    steps = CONFIG.system.envs * CONFIG.episode_length
    assert damaged == 0
    assert kinds.count("env_epoch") == steps  # once, though samples and the logs of episodes have them
    assert kinds.count("outcome") == CONFIG.system.envs
    assert (kinds[0], kinds[-1]) == ("recording", "error")
    assert "RuntimeError: seven" in records[-1]["text"]


@pytest.mark.integration
def test_an_undisturbed_run_leaves_no_recording_and_no_handler(tmp_path):
    run = RunDirectory.create(tmp_path, CONFIG, ["test"], "run")
    before = [logging.getLogger(name).handlers[:] for name in LOGGERS]
    train(CONFIG, run=run)
    assert not (run.path / FLIGHT).exists()
    assert [logging.getLogger(name).handlers for name in LOGGERS] == before
    assert not [thread for thread in threading.enumerate() if thread.name == "flight-recorder"]


@pytest.mark.integration
@pytest.mark.parametrize("error", [RuntimeError("again"), WriteError("no space")])
def test_a_run_whose_observer_fails_at_the_end_leaves_no_handler(tmp_path, error):
    run = RunDirectory.create(tmp_path, CONFIG, ["test"], "run")
    before = [logging.getLogger(name).handlers[:] for name in LOGGERS]
    with pytest.raises(RuntimeError):
        train(CONFIG, run=run, observers=[Breaking(RuntimeError("seven"), error)])
    assert [logging.getLogger(name).handlers for name in LOGGERS] == before
    assert not [thread for thread in threading.enumerate() if thread.name in ("flight-recorder", "pulse")]


@pytest.mark.integration
def test_events_and_rounds_do_not_depend_on_the_recorder(tmp_path, monkeypatch):
    reference = RunDirectory.create(tmp_path / "a", CONFIG, ["test"], "run")
    train(CONFIG, run=reference)
    write_all = durable.write_all

    def failing(descriptor, data):
        if b'"left_out"' in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(descriptor, data)

    monkeypatch.setattr(durable, "write_all", failing)
    monkeypatch.setattr(FlightObserver, "round_finished", lambda self, row, timing: self._write("test", ""))
    run = RunDirectory.create(tmp_path / "b", CONFIG, ["test"], "run")
    train(CONFIG, run=run)
    assert event_records(run) == event_records(reference)
    assert (run.path / "rounds.csv").read_bytes() == (reference.path / "rounds.csv").read_bytes()
    assert [(fault.kind, fault.who) for fault in run.faults()] == [("viewer_file_failed", "flight recorder")]
    assert json.loads((run.path / "manifest.json").read_text())["status"] == "finished"

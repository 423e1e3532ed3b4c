"""Files for viewers of a live run: they follow it, and never disturb it."""

import errno
import json
import os

import pytest
from disk_faults import is_for_viewers
from learner_builders import small_config
from run_builders import placed
from serial_runs import SETTINGS
from watching_builders import RecordingObserver, event_records

from esper_actors.session import train
from esper_ray.leyline.files import durable
from esper_ray.nissa.runs.live_steps import LIVE
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.pulse import PULSE
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.integration


class Spy(RunObserver):
    """Observer that reads the files of viewers at every call."""

    def __init__(self):
        self.pulses, self.lines, self.phases = [], [], []

    def run_opened(self, context):
        self.folder = context.run.path

    def look(self):
        live = self.folder / LIVE
        self.lines.append(len(live.read_text().splitlines()) if live.exists() else None)

    def samples_received(self, records):
        self.look()

    def round_finished(self, row, timing):
        self.look()


def config_of(level="normal"):
    config = placed(small_config(**(SETTINGS | {"ppo__rounds": 2})), "local")
    return config.model_copy(update={"telemetry": config.telemetry.model_copy(update={"level": level})})


def played(folder, *observers, level="normal", stop=lambda: False):
    config = config_of(level)
    run = RunDirectory.create(folder, config, ["test"], "run")
    train(config, run=run, observers=observers, should_stop=stop)
    return run


def pulse_of(run):
    return json.loads((run.path / PULSE).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run directory of a whole run, and what a spy saw of its files."""
    spy = Spy()
    return played(tmp_path_factory.mktemp("finished"), spy), spy


def test_a_finished_run_leaves_its_last_pulse_and_no_steps_in_play(finished):
    run, spy = finished
    config = run.config()
    pulse = pulse_of(run)
    assert (pulse["phase"], pulse["status"], pulse["telemetry"]) == ("ended", "finished", "normal")
    assert (pulse["round"], pulse["rounds"], pulse["of"]) == (2, 2, config.system.envs)
    assert (run.path / LIVE).read_text() == ""
    assert max(spy.lines) >= config.system.envs * config.episode_length - 1  # the spy is called before the writer


def test_an_interrupted_run_says_so(tmp_path):
    watcher = RecordingObserver()
    run = played(tmp_path, watcher, stop=lambda: ("round", 0) in watcher.entries)
    assert pulse_of(run)["status"] == "interrupted"
    assert pulse_of(run)["round"] == 1


def test_without_telemetry_there_is_a_pulse_and_no_steps(tmp_path):
    spy = Spy()
    run = played(tmp_path, spy, level="off")
    assert pulse_of(run)["telemetry"] == "off"
    assert not (run.path / LIVE).exists()


def test_events_and_rounds_do_not_depend_on_files_that_cannot_be_written(finished, tmp_path, monkeypatch):
    reference, _ = finished
    write_all = durable.write_all

    def failing(descriptor, data):
        if is_for_viewers(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(descriptor, data)

    monkeypatch.setattr(durable, "write_all", failing)
    run = played(tmp_path)
    assert event_records(run) == event_records(reference)
    assert (run.path / "rounds.csv").read_bytes() == (reference.path / "rounds.csv").read_bytes()
    faults = [(fault.kind, fault.who) for fault in run.faults()]
    assert faults.count(("viewer_file_failed", "live steps")) >= 1
    assert ("viewer_file_failed", "pulse") in faults
    assert len(faults) <= 2 + 2  # once, and again after a round that could be cut


def test_the_host_is_described_once_after_the_start(finished):
    run, _ = finished
    kinds = [record["kind"] for record in run.events()]
    assert kinds[:2] == ["run_started", "host"]
    assert kinds.count("host") == 1
    (host,) = (record for record in run.events() if record["kind"] == "host")
    assert [layer["slot"] for layer in host["layers"] if layer["slot"]] == list(run.config().growth.slots)
    assert sum(layer["parameters"] for layer in host["layers"]) == host["parameters"]

"""The state that a driver folds while it trains is that of the log that it leaves."""

from dataclasses import fields

import pytest
from learner_builders import small_config
from run_builders import placed
from serial_runs import SETTINGS
from state_builders import close
from watching_builders import RecordingObserver

from esper_actors.session import train
from esper_actors.training.listeners import MetricsObserver
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.state.run_state import RunState

pytestmark = pytest.mark.integration
LOG_ALONE = ("run_started", "host", "run_finished")
"""Kinds of events that are logged without an observer."""
APART = {"count", "changed", "changed_environments", "status", "config_sha256", "policy_sha256", "host", "timings"}
APART |= {"decisions", "profiles", "previews", "faults", "totals"}
"""Fields that are not of events, or of kinds that observers do not receive."""
REPLAYED = ("rounds", "control_accuracies_pp", "anomalies", "closed_anomalies", "quarantined", "best_round")
"""What a resumed driver knows of the time before."""


class Keeping(MetricsObserver):
    """Observer that keeps the state of its driver, and counts its rounds."""

    def __init__(self):
        super().__init__(exporters=[RecordingObserver()])
        self.rounds, self.state = 0, RunState()

    def round_finished(self, row, timing):
        super().round_finished(row, timing)
        self.rounds += 1

    def run_ended(self, status):
        self.state = self._publisher.folded
        super().run_ended(status)


def driven(folder, workers, rounds=None, run=None):
    """A run directory and the state that its driver had at the end."""
    config = placed(small_config(**SETTINGS), workers)
    run = run or RunDirectory.create(folder, config, ["test"], "run")
    observer = Keeping()
    train(config, run=run, observers=[observer], should_stop=lambda: observer.rounds == rounds)
    return run, observer.state


@pytest.mark.parametrize("workers", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_folding_the_log_gives_the_state_of_the_driver(tmp_path, workers):
    run, driver = driven(tmp_path, workers)
    logged = RunState.of(run.events(evidence=True))
    names = {field.name for field in fields(RunState)} - APART
    assert [name for name in names if not close(getattr(driver, name), getattr(logged, name))] == []
    assert driver.totals.steps == logged.totals.steps > 0
    differing = {
        field.name
        for field in fields(logged.totals)
        if not close(getattr(driver.totals, field.name), getattr(logged.totals, field.name))
    }
    assert differing <= {"events", "samples"}
    events = {kind: count for kind, count in logged.totals.events.items() if kind not in LOG_ALONE}
    assert {kind: driver.totals.events.get(kind) for kind in events} == events


def test_a_resumed_driver_has_rounds_controls_and_anomalies_of_the_whole_log(tmp_path):
    run, before = driven(tmp_path, "local", rounds=1)
    assert len(before.rounds) == 1
    run, driver = driven(tmp_path, "local", run=run)
    logged = RunState.of(run.events(evidence=True))
    assert len(logged.rounds) == 3
    assert [name for name in REPLAYED if not close(getattr(driver, name), getattr(logged, name))] == []
    assert driver.episodes.keys() == logged.episodes.keys()
    assert close(driver.episodes, logged.episodes)

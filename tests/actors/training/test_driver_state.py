"""The state that a driver folds while it trains is that of the log that it leaves."""

from dataclasses import fields

import pytest
from learner_builders import small_config
from metric_numbers import metric_values, slots, state_numbers
from run_builders import placed
from serial_runs import SETTINGS
from state_builders import close
from watching_builders import RecordingObserver

from esper_actors.session import train
from esper_actors.training.listeners import MetricsObserver
from esper_ray.nissa.metrics.publisher import head_choices
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.state.run_state import RunState
from esper_ray.nissa.state.totals import Totals

pytestmark = pytest.mark.integration
LOG_ALONE = ("run_started", "host", "run_finished")
"""Kinds of events that are logged without an observer."""
APART = {"count", "changed", "changed_environments", "status", "config_sha256", "policy_sha256", "host", "timings"}
APART |= {"decisions", "profiles", "previews", "faults", "totals"}
"""Fields that are not of events, or of kinds that observers do not receive."""
IN_ORDER = {"last_tally", "recent_outcomes"}
"""Fields of the newest episodes: those of several actors reach the driver in any order, and the log by its sources."""
REPLAYED = ("rounds", "control_accuracies_pp", "anomalies", "closed_anomalies", "quarantined", "best_round")
"""What a resumed driver knows of the time before."""


ADDED = ("run", "group", "source", "source_seq", "seq")
"""What the log adds to a record."""


def differing(first, second, names):
    """Names of the fields in which two states differ, without what the log adds to records."""
    pairs = {name: (content(getattr(first, name)), content(getattr(second, name))) for name in names}
    return [name for name, (one, other) in pairs.items() if not close(one, other)]


def content(value):
    if isinstance(value, dict):
        return {name: content(inner) for name, inner in value.items() if name not in ADDED}
    return tuple(map(content, value)) if isinstance(value, tuple) else value


class Keeping(MetricsObserver):
    """Observer that keeps the state of its driver, and counts its rounds."""

    def __init__(self):
        self.exported = RecordingObserver()
        super().__init__(exporters=[self.exported])
        self.rounds, self.state = 0, RunState()

    def round_finished(self, row, timing):
        super().round_finished(row, timing)
        self.rounds += 1

    def run_ended(self, status):
        self.state = self._publisher.folded
        super().run_ended(status)


def driven(folder, workers, rounds=None, run=None):
    """A run directory, the state that its driver had at the end, and the values of its metrics."""
    config = placed(small_config(**SETTINGS), workers)
    run = run or RunDirectory.create(folder, config, ["test"], "run")
    observer = Keeping()
    train(config, run=run, observers=[observer], should_stop=lambda: observer.rounds == rounds)
    return run, observer.state, metric_values(observer.exported.changes)


@pytest.mark.parametrize(
    "workers", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly])]
)
def test_folding_the_log_gives_the_state_of_the_driver(tmp_path, workers):
    run, driver, values = driven(tmp_path, workers)
    logged = RunState.of(run.events(evidence=True))
    names = {field.name for field in fields(RunState)} - APART - (IN_ORDER if workers == "ray" else set())
    assert differing(driver, logged, names) == []
    assert driver.totals.steps == logged.totals.steps > 0
    assert differing(driver.totals, logged.totals, {field.name for field in fields(Totals)} - {"events"}) == []
    assert logged.totals.nonfinite == {}  # an untrained critic predicts one number: its correlation is undefined
    events = {kind: count for kind, count in logged.totals.events.items() if kind not in LOG_ALONE}
    assert {kind: driver.totals.events.get(kind) for kind in events} == events
    numbers = state_numbers(logged, head_choices(run.config())) | slots(logged)
    del numbers["telemetry_events_total", "evidence"]  # with those that are logged without an observer
    assert len(numbers) > 40
    assert {key: values.get(key) for key in numbers} == pytest.approx(numbers, rel=1e-9)


def test_a_resumed_driver_has_rounds_controls_and_anomalies_of_the_whole_log(tmp_path):
    run, before, _ = driven(tmp_path, "local", rounds=1)
    assert len(before.rounds) == 1
    run, driver, _ = driven(tmp_path, "local", run=run)
    logged = RunState.of(run.events(evidence=True))
    assert len(logged.rounds) == 3
    assert differing(driver, logged, REPLAYED) == []
    assert close(driver.episodes, logged.episodes)

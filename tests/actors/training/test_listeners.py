"""The group of observers: who is notified when one of them fails."""

import pytest

from esper_actors.training.listeners import ObserverGroup
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.durable import WriteError
from esper_ray.nissa.runs.observer import RunContext, RunObserver


class Noting(RunObserver):
    """Observer that notes its calls, and raises at one of them."""

    def __init__(self, raises_at=None, error=None):
        self.calls, self.raises_at, self.error = [], raises_at, error

    def _noted(self, call):
        self.calls.append(call)
        if call == self.raises_at:
            raise self.error

    def update_started(self):
        self._noted("update")

    def update_finished(self):
        self._noted("updated")

    def run_ended(self, status):
        self._noted(status)


def opened(*observers):
    """A group of observers of a run that does not play, and the faults that it reports."""
    faults = []
    group = ObserverGroup(observers)
    group.run_opened(RunContext(None, None, 0, False, "", faults.append))
    return group, faults


@pytest.mark.parametrize("error", [WriteError("no space"), KeyboardInterrupt(), ValueError("strict")])
def test_every_observer_is_notified_of_the_end_if_one_raises_there(error):
    observers = Noting(), Noting("failed", error), Noting()
    group, _ = opened(*observers)
    with pytest.raises(type(error)):
        group.run_ended("failed")
    group.run_ended("failed")
    assert [observer.calls for observer in observers] == [["failed"]] * 3


def test_a_dropped_observer_receives_nothing_but_the_end(monkeypatch):
    monkeypatch.delenv("ESPER_STRICT_TELEMETRY")
    dropped, sound = Noting("update", ValueError("no room")), Noting()
    group, faults = opened(dropped, sound)
    group.update_started()
    group.update_finished()
    group.run_ended("finished")
    assert dropped.calls == ["update", "finished"]
    assert sound.calls == ["update", "updated", "finished"]
    assert faults == [Fault("observer_failed", "Noting", "ValueError: no room")]


@pytest.mark.parametrize(
    ("error", "traced"), [(OSError(28, "No space left on device"), False), (ValueError("x"), True)]
)
def test_an_observer_that_cannot_write_is_one_line_and_a_wrong_one_has_a_traceback(monkeypatch, caplog, error, traced):
    monkeypatch.delenv("ESPER_STRICT_TELEMETRY")
    group, _ = opened(Noting("update", error))
    group.update_started()
    (record,) = caplog.records
    assert (
        record.getMessage() == f"an observer of the run failed and is dropped: Noting: {type(error).__name__}: {error}"
    )
    assert bool(record.exc_info) is traced


def test_an_observer_that_fails_again_at_the_end_is_one_fault(monkeypatch):
    monkeypatch.delenv("ESPER_STRICT_TELEMETRY")

    class Broken(Noting):
        def run_ended(self, status):
            raise ValueError("again")

    group, faults = opened(Broken("update", ValueError("no room")))
    group.update_started()
    group.run_ended("finished")
    assert [fault.detail for fault in faults] == ["ValueError: no room"]

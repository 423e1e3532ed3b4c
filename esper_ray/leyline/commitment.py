"""Committed part of a network: slots, parameters and accuracy, from the records of one step."""

from collections.abc import Collection, Iterable

from esper_ray.leyline.records import Measurement, Reports
from esper_ray.leyline.stages import COMMITTED, Stage


def committed_among(stages: Iterable[tuple[str, Stage]]) -> frozenset[str]:
    """Slots whose seed is committed, from pairs of slot and stage."""
    return frozenset(slot for slot, stage in stages if stage in COMMITTED)


def committed_slots(reports: Reports) -> frozenset[str]:
    """Slots whose reported seed is committed."""
    return committed_among((report.slot_id, report.stage) for report in reports if report is not None)


def committed_parameters(reports: Reports) -> int:
    """Parameters of the committed seeds."""
    return sum(report.parameters for report in reports if report is not None and report.stage in COMMITTED)


def committed_players(committed: Collection[str], measured: Measurement) -> frozenset[str]:
    """The slots of ``committed`` that were players of ``measured``."""
    return frozenset(measured.players).intersection(committed)


def committed_accuracy_pp(committed: Collection[str], measured: Measurement) -> float:
    """Validation accuracy in percentage points with the seeds of ``committed`` on and all others off.

    Raises:
        KeyError: if that coalition was not measured.
    """
    return measured.coalition_accuracy_pp(committed_players(committed, measured))

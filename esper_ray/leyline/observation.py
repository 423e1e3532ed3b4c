"""Obs V3, the observation vector: 23 numbers about the host and 31 about each slot.

An empty slot is all zeros. Unknown values are -1 where the layout has a sentinel (histories,
previous gradient health, freshness of the contribution) and 0 elsewhere. A slot that is cooling
down has its stage and clock, and no measurement of the removed seed.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.context import SLOT_CONTEXT
from esper_ray.leyline.records import HostSignals, Reports, SlotReport
from esper_ray.leyline.stages import COOLDOWN, STAGES, Stage

SCHEMA_VERSION = 2
HISTORY = 5
"""Epochs of loss and accuracy in the observation."""
UNKNOWN = -1.0
NO_BLUEPRINT = -1
"""Blueprint index of an empty slot."""
BOUND = 10.0
"""Largest magnitude of a number in the observation."""
FRESHNESS_DECAY = 0.995
LONGEST_TEMPO = 12.0

_BASE: tuple[tuple[str, bool], ...] = (
    ("epoch", False),
    ("val_loss", True),
    ("val_accuracy", True),
    *((f"loss_history_{i}", False) for i in range(HISTORY)),
    *((f"accuracy_history_{i}", False) for i in range(HISTORY)),
    ("training_share", False),
    ("blending_share", False),
    ("holding_share", False),
    ("last_success", False),
    *((f"last_op_{op.name.lower()}", False) for op in LifecycleOp),
)
_SLOT: tuple[tuple[str, bool], ...] = (
    ("is_active", False),
    *((f"stage_{stage.name.lower()}", False) for stage in STAGES),
    ("alpha", False),
    ("contribution", True),
    ("contribution_velocity", True),
    ("tempo", False),
    ("alpha_target", False),
    ("alpha_mode", False),
    ("ramp_total", True),
    ("ramp_done", True),
    ("ramp_left", True),
    ("alpha_velocity", True),
    ("operator", False),
    ("interaction", True),
    ("gradient_norm", True),
    ("gradient_health", False),
    ("vanishing", False),
    ("exploding", False),
    ("previous_gradient_health", False),
    ("ticks_in_stage", True),
    ("freshness", False),
    ("age", True),
)
BASE_SIZE = len(_BASE)
SLOT_SIZE = len(_SLOT)
BASE_CONTINUOUS: tuple[bool, ...] = tuple(continuous for _, continuous in _BASE)
SLOT_CONTINUOUS: tuple[bool, ...] = tuple(continuous for _, continuous in _SLOT)
"""Whether a running normalizer may rescale each number: not codes, flags, shares or values with a sentinel."""


def observation_size(slots: int) -> int:
    """Length of the vector for ``slots`` slots."""
    return BASE_SIZE + SLOT_SIZE * slots


def observation_names(slot_ids: Sequence[str]) -> tuple[str, ...]:
    """Names of all numbers, slots in the given order."""
    return (*(name for name, _ in _BASE), *(f"{slot}.{name}" for slot in slot_ids for name, _ in _SLOT))


def schema_hash() -> str:
    """Digest of the layout of observation and context. A policy can only be used with the layout of its training."""
    text = f"obs-v3/{SCHEMA_VERSION}/" + ",".join((*(name for name, _ in (*_BASE, *_SLOT)), *SLOT_CONTEXT))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def observe(signals: HostSignals, reports: Reports) -> NDArray[np.float32]:
    """The observation vector, float32, every value finite and within ``[-BOUND, BOUND]``.

    Raises:
        ValueError: if a value is not finite; the message names it.
    """
    values = _base_block(signals, reports)
    for report in reports:
        values += [0.0] * SLOT_SIZE if report is None else _slot_block(report, signals.max_epochs)
    vector = np.asarray(values, dtype=np.float64)
    if not np.isfinite(vector).all():
        names = observation_names([f"slot{i}" for i in range(len(reports))])
        bad = [f"{name}={value}" for name, value in zip(names, vector, strict=True) if not math.isfinite(value)]
        raise ValueError(f"observation is not finite: {', '.join(bad)}")
    return np.clip(vector, -BOUND, BOUND).astype(np.float32)


def blueprint_indices(reports: Reports) -> NDArray[np.int64]:
    """(slots,) the blueprint of each occupied slot, :data:`NO_BLUEPRINT` where it is empty."""
    return np.asarray([NO_BLUEPRINT if report is None else int(report.blueprint) for report in reports], dtype=np.int64)


def symlog(x: float) -> float:
    """``sign(x) ln(1 + |x|)``."""
    return math.copysign(math.log1p(abs(x)), x)


def _loss(x: float) -> float:
    return symlog(x) / 7.0


def _padded(history: Sequence[float]) -> list[float]:
    shown = list(history)[-HISTORY:]
    return [UNKNOWN] * (HISTORY - len(shown)) + shown


def _base_block(signals: HostSignals, reports: Reports) -> list[float]:
    stages = [report.stage for report in reports if report is not None]
    return [
        min(signals.epoch / signals.max_epochs, 1.0),
        _loss(signals.val_loss),
        signals.val_accuracy_pp / 100.0,
        *_padded([_loss(loss) for loss in signals.loss_history]),
        *_padded([accuracy / 100.0 for accuracy in signals.accuracy_history_pp]),
        stages.count(Stage.TRAINING) / len(reports),
        stages.count(Stage.BLENDING) / len(reports),
        (stages.count(Stage.HOLDING) + stages.count(Stage.FOSSILIZED)) / len(reports),
        float(signals.last_success),
        *(float(signals.last_op == op) for op in LifecycleOp),
    ]


def _slot_block(report: SlotReport, max_epochs: int) -> list[float]:
    def share(ticks: int) -> float:
        return min(ticks, max_epochs) / max_epochs

    stage = [float(report.stage is stage) for stage in STAGES]
    clock = (share(report.ticks_in_stage), share(report.age))
    if report.stage in COOLDOWN:
        return [1.0, *stage, *([0.0] * 16), UNKNOWN, clock[0], UNKNOWN, clock[1]]
    m = report.measured
    fresh = UNKNOWN if m.epochs_since_measured is None else FRESHNESS_DECAY**m.epochs_since_measured
    return [
        1.0,
        *stage,
        report.alpha,
        _points(m.contribution_pp),
        _points(m.contribution_velocity_pp),
        report.tempo / LONGEST_TEMPO,
        report.alpha_target,
        int(report.alpha_mode) / 2.0,
        share(report.ramp_total),
        share(report.ramp_done),
        share(max(report.ramp_total - report.ramp_done, 0)),
        _clipped(report.alpha_velocity),
        (int(report.operator) - 1) / 2.0,
        _points(m.interaction_pp),
        0.0 if m.gradient_norm is None or not math.isfinite(m.gradient_norm) else symlog(m.gradient_norm) / 7.0,
        0.0 if m.gradient_health is None else m.gradient_health,
        float(bool(m.vanishing)),
        float(bool(m.exploding)),
        UNKNOWN if m.previous_gradient_health is None else m.previous_gradient_health,
        clock[0],
        fresh,
        clock[1],
    ]


def _points(value: float | None) -> float:
    return 0.0 if value is None else _clipped(value / 10.0)


def _clipped(x: float) -> float:
    """``x`` clipped to [-1, 1]. A value that is not finite is unchanged, so that :func:`observe` refuses it."""
    return max(-1.0, min(1.0, x)) if math.isfinite(x) else x

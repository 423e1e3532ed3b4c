"""Legality of actions: one pure function for masks, executor, policies and tests.

Rules: a seed may only be germinated into an empty slot while no other seed is developing or cooling
down (one seed develops at a time), below the target of parameters, and with enough epochs left; amplitudes may only be
retargeted while they do not move, and pruning needs a minimum age. WAIT is always legal. Legality does not evaluate
gates: a legal ADVANCE or FOSSILIZE may still be refused by its gate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.actions import (
    ALPHA_TARGETS,
    ARGUMENT_HEADS,
    CURVES,
    HEADS,
    HEADS_OF_OP,
    SPEED_TICKS,
    TEMPO_TICKS,
    Action,
    AlphaMode,
    Blueprint,
    GerminationStyle,
    LifecycleOp,
    head_sizes,
)
from esper_ray.leyline.context import SlotPlace
from esper_ray.leyline.records import Reports, SlotReport
from esper_ray.leyline.stages import COOLDOWN, DEVELOPING, PRUNABLE, WITH_MODULE, Stage

MIN_PRUNE_AGE = 5
"""Least age in ticks at which a seed may be pruned."""

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a run on growth, independent of the state of its slots."""

    slots: tuple[str, ...]
    """Enabled slots in row-major order."""
    blueprints: frozenset[Blueprint]
    styles: frozenset[GerminationStyle]
    max_seeds: int = 0
    """Maximum number of simultaneous seeds with a module, fossils included; 0: no limit."""
    manual_advance: bool = True
    """False if every stage advances automatically; ADVANCE is then illegal."""
    own_blueprints: Mapping[Blueprint, str] = field(default_factory=dict)
    """Own blueprints by the built-in ones whose index they have."""
    closed: frozenset[str] = frozenset()
    """Slots in which no seed may be born now."""
    target_parameters: int = 0
    """Parameters of host and seeds from which on no seed is born; 0: no target."""
    host_parameters: int = 0
    """Parameters of the host, which count towards the target."""
    shortest_life: int = 0
    """Least number of epochs that must be left for a birth."""
    places: tuple[SlotPlace, ...] = ()
    """Where each slot sits in the host; empty if it is not known."""

    def blueprint_name(self, blueprint: Blueprint) -> str:
        """Name of the blueprint that has the index of ``blueprint`` here."""
        return self.own_blueprints.get(blueprint, blueprint.id)


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of the legal choices, ``True`` where legal."""

    slot_by_op: BoolArray
    """(6, slots): legal slots of each operation. The row of WAIT is all true."""
    arguments: dict[str, BoolArray]
    """Legal choices of each argument head."""

    @property
    def op(self) -> BoolArray:
        """(6,): operations that are legal on some slot."""
        return np.asarray(self.slot_by_op.any(axis=1))

    def allows(self, action: Action) -> bool:
        """Whether ``action`` is legal: its operation on its slot, and every argument that it uses."""
        if not self.slot_by_op[action.op, action.slot]:
            return False
        used = HEADS_OF_OP[action.operation]
        return all(bool(self.arguments[head][getattr(action, head)]) for head in ARGUMENT_HEADS if head in used)

    def flat(self) -> BoolArray:
        """The masks of the eight heads in one vector, for algorithms with independent heads.

        A slot counts as legal if some operation other than WAIT is legal on it; if only WAIT is legal,
        every slot counts as legal.
        """
        slots = self.slot_by_op[1:].any(axis=0)
        if not slots.any():
            slots = self.slot_by_op[LifecycleOp.WAIT]
        return np.concatenate([self.op, slots, *(self.arguments[head] for head in ARGUMENT_HEADS)])

    def vector(self) -> NDArray[np.int8]:
        """The (6, slots) matrix and the argument masks in one vector, for observations and records."""
        parts = [self.slot_by_op.reshape(-1), *(self.arguments[head] for head in ARGUMENT_HEADS)]
        return np.concatenate(parts).astype(np.int8)


def mask_vector_size(slots: int) -> int:
    """Length of :meth:`Masks.vector`."""
    sizes = head_sizes(slots)
    return sizes["op"] * slots + sum(sizes[head] for head in ARGUMENT_HEADS)


def legality(reports: Reports, limits: Limits, epochs_left: int | None = None) -> Masks:
    """The legal actions in the state that ``reports`` describe.

    Args:
        reports: one entry per slot of ``limits.slots``, in the same order.
        epochs_left: epochs that are still to be trained; ``None`` if they are not limited.

    Raises:
        ValueError: if the number of reports differs from the number of slots.
    """
    if len(reports) != len(limits.slots):
        raise ValueError(f"{len(limits.slots)} slots are enabled, but {len(reports)} were reported")
    by_op = np.zeros((len(LifecycleOp), len(reports)), dtype=np.bool_)
    by_op[LifecycleOp.WAIT] = True
    if _may_germinate(reports, limits, epochs_left):
        by_op[LifecycleOp.GERMINATE] = [
            report is None and slot not in limits.closed for slot, report in zip(limits.slots, reports, strict=True)
        ]
    for index, report in enumerate(reports):
        if report is not None:
            for op in _ops_on(report):
                by_op[op, index] = op is not LifecycleOp.ADVANCE or limits.manual_advance
    return Masks(slot_by_op=by_op, arguments=_arguments(by_op, limits))


def _may_germinate(reports: Reports, limits: Limits, epochs_left: int | None) -> bool:
    occupied = [report for report in reports if report is not None]
    if epochs_left is not None and epochs_left < limits.shortest_life:
        return False
    parameters = limits.host_parameters + sum(report.parameters for report in occupied)
    if 0 < limits.target_parameters <= parameters:
        return False
    if any(report.stage in DEVELOPING or report.stage in COOLDOWN for report in occupied):
        return False
    seeds = sum(report.stage in WITH_MODULE for report in occupied)
    return limits.max_seeds == 0 or seeds < limits.max_seeds


def _ops_on(report: SlotReport) -> list[LifecycleOp]:
    resting = report.alpha_mode is AlphaMode.HOLD
    ops = []
    if report.stage in (Stage.BLENDING, Stage.HOLDING) and resting:
        ops.append(LifecycleOp.SET_ALPHA_TARGET)
    if report.stage in PRUNABLE and resting and report.age >= MIN_PRUNE_AGE:
        ops.append(LifecycleOp.PRUNE)
    if report.stage is Stage.HOLDING:
        ops.append(LifecycleOp.FOSSILIZE)
    if report.stage in (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING):
        ops.append(LifecycleOp.ADVANCE)
    return ops


def _arguments(by_op: BoolArray, limits: Limits) -> dict[str, BoolArray]:
    blueprints = [blueprint in limits.blueprints and blueprint is not Blueprint.NOOP for blueprint in Blueprint]
    if by_op[[LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA_TARGET]].any():
        styles = [style in limits.styles for style in GerminationStyle]
        targets = [True] * len(ALPHA_TARGETS)
    else:
        styles = [style is GerminationStyle.SIGMOID_ADD for style in GerminationStyle]
        targets = [target == 1.0 for target in ALPHA_TARGETS]
    choices = {
        "blueprint": blueprints,
        "style": styles,
        "tempo": [True] * len(TEMPO_TICKS),
        "alpha_target": targets,
        "alpha_speed": [True] * len(SPEED_TICKS),
        "alpha_curve": [True] * len(CURVES),
    }
    return {head: np.asarray(choices[head], dtype=np.bool_) for head in HEADS[2:]}

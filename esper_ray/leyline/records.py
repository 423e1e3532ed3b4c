"""Plain records exchanged between packages and processes.

Accuracies and everything derived from them are percentage points (``_pp``) here, because that is
the unit of the gates and rewards; ``None`` always means "not measured", never zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PlainSerializer, PlainValidator

from esper_ray.leyline.actions import AlphaMode, BlendOperator, Blueprint
from esper_ray.leyline.stages import Stage

Record = Mapping[str, Any]
"""One line of an event log as JSON: ``kind``, ids and fields, as the catalogue of events declares them."""
Members = frozenset[str]
"""Coalition: the slots whose seeds are on."""


@dataclass(frozen=True, slots=True)
class SeedMeasurements:
    """Measurements of one seed at the end of a step."""

    contribution_pp: float | None = None
    """Validation accuracy with everything on minus accuracy without this seed."""
    contribution_error_pp: float | None = None
    """Paired standard error of the contribution."""
    contribution_velocity_pp: float | None = None
    """Smoothed change of the contribution per step, from the second measurement on."""
    interaction_pp: float | None = None
    """Sum of the pairwise interactions with the other measured seeds."""
    epochs_since_measured: int | None = None
    """Age of the contribution in steps."""
    improvement_pp: float | None = None
    """Validation accuracy now minus validation accuracy when the current stage began."""
    gradient_norm: float | None = None
    """Mean L2 norm of the seed's gradient over the last epoch."""
    gradient_ratio: float | None = None
    """Root mean square gradient of the seed's parameters over that of the host's."""
    gradient_health: float | None = None
    """1 minus penalties for vanishing and exploding parameter tensors, in [0, 1]."""
    previous_gradient_health: float | None = None
    """The health one step earlier."""
    vanishing: bool | None = None
    exploding: bool | None = None
    finite: bool | None = None
    """Whether the seed's parameters and gradients are finite."""


UNMEASURED = SeedMeasurements()
"""Measurements of a seed before its first measurement."""


@dataclass(frozen=True, slots=True)
class SlotReport:
    """One occupied slot as policies, rewards and telemetry see it."""

    slot_id: str
    seed_id: str
    blueprint: Blueprint
    """Index that policies see; an own blueprint has that of the built-in one whose place it takes."""
    stage: Stage
    previous_stage: Stage
    ticks_in_stage: int
    age: int
    """Ticks since germination."""
    alpha: float
    alpha_mode: AlphaMode
    alpha_target: float
    """Target amplitude of the running ramp, else of the last one."""
    alpha_velocity: float
    """Mean slope of the running ramp per tick; 0 while holding."""
    ramp_total: int
    ramp_done: int
    operator: BlendOperator
    tempo: int
    """Ticks of the first ramp."""
    parameters: int
    """Structural parameter count of the seed; 0 once its module is removed."""
    measured: SeedMeasurements = UNMEASURED
    own_blueprint: str | None = None
    """Name of an own blueprint; ``None`` for a built-in one."""

    @property
    def blueprint_name(self) -> str:
        """Name of the blueprint, for people."""
        return self.own_blueprint or self.blueprint.id


Reports = tuple[SlotReport | None, ...]
"""One entry per slot in row-major order; ``None`` is an empty slot."""


@dataclass(frozen=True, slots=True)
class HostSignals:
    """Signals of the host network at the end of a step."""

    epoch: int
    """Epochs trained in this episode."""
    max_epochs: int
    val_loss: float
    val_accuracy_pp: float
    loss_history: tuple[float, ...]
    """Validation losses of the last five epochs, oldest first, the current one included."""
    accuracy_history_pp: tuple[float, ...]
    last_op: int
    last_success: bool


BuiltInSource = Literal[
    "attribution",
    "suspicion",
    "escrow",
    "forfeit",
    "synergy",
    "hindsight",
    "blending warning",
    "holding warning",
    "shaping",
    "operation",
    "commitment",
    "drip",
    "prune",
    "rent",
    "shock",
    "occupancy",
    "upkeep",
    "loss",
    "host",
    "vesting",
    "revaluation",
    "terminal",
    "lost seed",
    "rollback",
]
"""Source of an entry of a built-in reward."""
SOURCE_PATTERN = r"[a-z][a-z0-9 _-]{0,39}"
"""A source, as a regular expression of the whole text."""
Source = Annotated[str, Field(pattern=f"^{SOURCE_PATTERN}$")]
"""Source of a ledger entry: a built-in one, or that of an own reward."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One amount of reward, with its source and cause."""

    source: Source
    amount: float
    step: int
    """Step at which it is booked, counted from 0."""
    cause_step: int
    """Step whose action caused it; rewards are summed by this step before advantages are computed."""
    slot: str | None = None
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a growing network, for the event log."""

    kind: str
    epoch: int
    data: Mapping[str, Any] = field(default_factory=dict)


def _scores(scores: Any) -> NDArray[np.float32] | None:
    """
    Raises:
        ValueError: if they are not a list of numbers in [0, 1].
    """
    if scores is None:
        return None
    array = np.asarray(scores)
    mixed = isinstance(scores, list) and any(isinstance(score, bool) for score in scores)
    if mixed or array.ndim != 1 or array.dtype.kind not in "fiu" or not bool(((array >= 0) & (array <= 1)).all()):
        raise ValueError("scores must be a list of numbers in [0, 1]")
    return array.astype(np.float32)


Scores = Annotated[
    NDArray[np.float32] | None,
    PlainValidator(_scores),
    PlainSerializer(lambda scores: None if scores is None else scores.tolist()),
]


@dataclass(frozen=True, slots=True)
class Coalition:
    """Validation results of one set of seeds, all others switched off."""

    members: Annotated[frozenset[str], PlainSerializer(sorted)]
    """Slots whose seeds are on."""
    accuracy_pp: float
    scores: Scores = field(default=None, compare=False, repr=False)
    """(examples,) share of correct predictions in each example: 0 or 1 for an image."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Results of one pass over the validation split."""

    loss: float
    """Mean loss in nats with every seed at its live amplitude."""
    accuracy_pp: float
    examples: int
    players: tuple[str, ...] = ()
    """Slots that were switched on and off, in row-major order."""
    coalitions: tuple[Coalition, ...] = ()
    """Measured subsets of the players, the full one last. Empty without players."""
    orders: tuple[tuple[str, ...], ...] = ()
    """Random orders of the players, each followed by its reverse; every prefix is among the coalitions."""

    def coalition(self, members: frozenset[str]) -> Coalition | None:
        """Result with exactly ``members`` of the players on, ``None`` if it was not measured."""
        return next((coalition for coalition in self.coalitions if coalition.members == members), None)

    def coalition_accuracy_pp(self, members: frozenset[str]) -> float:
        """Accuracy in percentage points with exactly ``members`` of the players on.

        Raises:
            KeyError: if that coalition was not measured.
        """
        if not self.players and not members:
            return self.accuracy_pp
        coalition = self.coalition(members)
        if coalition is None:
            raise KeyError(f"coalition {sorted(members)} was not measured; players were {list(self.players)}")
        return coalition.accuracy_pp


@dataclass(frozen=True, slots=True)
class Estimate:
    """Measured quantity."""

    value_pp: float
    error_pp: float | None = None
    """Standard error; ``None`` without results of single examples."""


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Quantity that was not measured. It is not zero."""

    missing: tuple[frozenset[str], ...]
    """Coalitions whose measurement is missing."""


Attribution = Estimate | Unmeasured

"""The factored action: one lifecycle operation and the arguments that it needs.

An action is eight integers, in the order of :data:`HEADS`. Which of them mean anything depends on
the operation (:data:`HEADS_OF_OP`); the others are ignored.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from operator import index
from types import MappingProxyType


class LifecycleOp(IntEnum):
    """Lifecycle operation of one step."""

    WAIT = 0
    GERMINATE = 1
    SET_ALPHA_TARGET = 2
    PRUNE = 3
    FOSSILIZE = 4
    ADVANCE = 5


class Blueprint(IntEnum):
    """Kind of seed module. The registry name is the lower-case member name."""

    NOOP = 0
    CONV_LIGHT = 1
    ATTENTION = 2
    NORM = 3
    DEPTHWISE = 4
    BOTTLENECK = 5
    CONV_SMALL = 6
    CONV_HEAVY = 7
    LORA = 8
    LORA_LARGE = 9
    MLP_SMALL = 10
    MLP = 11
    FLEX_ATTENTION = 12

    @property
    def id(self) -> str:
        """The name in the blueprint registry."""
        return self.name.lower()

    @classmethod
    def from_id(cls, name: str) -> "Blueprint":
        """The member whose :attr:`id` is ``name``.

        Raises:
            ValueError: if there is none.
        """
        for blueprint in cls:
            if blueprint.id == name:
                return blueprint
        raise ValueError(f"blueprint {name!r} is not one of the {len(cls)} that policies can choose")


class AlphaMode(IntEnum):
    """Direction in which the amplitude of a seed moves."""

    HOLD = 0
    UP = 1
    DOWN = 2


class AlphaCurve(IntEnum):
    """Shape of an amplitude ramp."""

    LINEAR = 1
    COSINE = 2
    SIGMOID = 3


class BlendOperator(IntEnum):
    """Operator that combines a seed's change d with the host's features h at amplitude a."""

    ADD = 1
    MULTIPLY = 2
    GATE = 3


class GerminationStyle(IntEnum):
    """Pair of the first ramp's curve and the blend operator."""

    LINEAR_ADD = 0
    LINEAR_MULTIPLY = 1
    SIGMOID_ADD = 2
    GATED_GATE = 3

    @property
    def id(self) -> str:
        """The name used in configuration files."""
        return self.name.lower()

    @classmethod
    def from_id(cls, name: str) -> "GerminationStyle":
        """The member whose :attr:`id` is ``name``.

        Raises:
            ValueError: if there is none.
        """
        for style in cls:
            if style.id == name:
                return style
        raise ValueError(f"unknown style {name!r} (known: {', '.join(style.id for style in cls)})")

    @classmethod
    def parse(cls, style: "GerminationStyle | str") -> "GerminationStyle":
        """The member that ``style`` is, or whose :attr:`id` it is.

        Raises:
            ValueError: if it is neither.
        """
        if isinstance(style, cls):
            return style
        if isinstance(style, str):
            return cls.from_id(style)
        raise ValueError(f"a style must be a GerminationStyle or its name, got {style!r}")

    @property
    def operator(self) -> BlendOperator:
        """The operator that this style blends with."""
        return _STYLE[self][1]

    @property
    def curve(self) -> AlphaCurve:
        """The curve of the first ramp."""
        return _STYLE[self][0]


_STYLE = {
    GerminationStyle.LINEAR_ADD: (AlphaCurve.LINEAR, BlendOperator.ADD),
    GerminationStyle.LINEAR_MULTIPLY: (AlphaCurve.LINEAR, BlendOperator.MULTIPLY),
    GerminationStyle.SIGMOID_ADD: (AlphaCurve.SIGMOID, BlendOperator.ADD),
    GerminationStyle.GATED_GATE: (AlphaCurve.LINEAR, BlendOperator.GATE),
}

DEFAULT_STEEPNESS = 12.0
"""Steepness of a sigmoid ramp by default."""

TEMPO_TICKS: tuple[int, ...] = (3, 5, 8)
"""Ticks of the first ramp: fast, standard, slow."""

ALPHA_TARGETS: tuple[float, ...] = (0.5, 0.7, 1.0)
"""Target amplitudes of a ramp: half, seventy, full. Removal is PRUNE, not a target of zero."""

SPEED_TICKS: tuple[int, ...] = (0, 3, 5, 8)
"""Ticks of a later ramp: instant, fast, medium, slow."""

CURVES: tuple[tuple[AlphaCurve, float], ...] = (
    (AlphaCurve.LINEAR, DEFAULT_STEEPNESS),
    (AlphaCurve.COSINE, DEFAULT_STEEPNESS),
    (AlphaCurve.SIGMOID, 6.0),
    (AlphaCurve.SIGMOID, DEFAULT_STEEPNESS),
    (AlphaCurve.SIGMOID, 24.0),
)
"""Curve and steepness of a later ramp: linear, cosine, gentle, standard and sharp sigmoid."""

HEADS: tuple[str, ...] = ("op", "slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve")
"""Names of the eight integers of an action, in their order."""

ARGUMENT_HEADS: tuple[str, ...] = HEADS[2:]
"""The heads chosen after operation and slot."""

_ARGUMENT_SIZES = MappingProxyType(
    {
        "blueprint": len(Blueprint),
        "style": len(GerminationStyle),
        "tempo": len(TEMPO_TICKS),
        "alpha_target": len(ALPHA_TARGETS),
        "alpha_speed": len(SPEED_TICKS),
        "alpha_curve": len(CURVES),
    }
)


def head_sizes(slots: int) -> dict[str, int]:
    """Number of choices of each head for ``slots`` slots, in the order of :data:`HEADS`."""
    return {"op": len(LifecycleOp), "slot": slots, **_ARGUMENT_SIZES}


HEADS_OF_OP = MappingProxyType(
    {
        LifecycleOp.WAIT: ("op",),
        LifecycleOp.GERMINATE: ("op", "slot", "blueprint", "style", "tempo", "alpha_target"),
        LifecycleOp.SET_ALPHA_TARGET: ("op", "slot", "style", "alpha_target", "alpha_speed", "alpha_curve"),
        LifecycleOp.PRUNE: ("op", "slot", "alpha_speed", "alpha_curve"),
        LifecycleOp.FOSSILIZE: ("op", "slot"),
        LifecycleOp.ADVANCE: ("op", "slot"),
    }
)
"""The heads that each operation reads; it ignores the others."""

OPS_OF_HEAD = MappingProxyType({head: tuple(op for op in LifecycleOp if head in HEADS_OF_OP[op]) for head in HEADS})
"""The operations that read each head."""


CHOICE_NAMES = MappingProxyType(
    {
        "op": tuple(op.name.lower() for op in LifecycleOp),
        "blueprint": tuple(blueprint.id for blueprint in Blueprint),
        "style": tuple(style.id for style in GerminationStyle),
        "tempo": tuple(f"{ticks} ticks" for ticks in TEMPO_TICKS),
        "alpha_target": tuple(str(target) for target in ALPHA_TARGETS),
        "alpha_speed": tuple(f"{ticks} ticks" for ticks in SPEED_TICKS),
        "alpha_curve": tuple(f"{curve.name.lower()} {steepness:g}" for curve, steepness in CURVES),
    }
)
"""Name of every choice of each head, by index. Those of ``slot`` are the slots of a run."""


def action_names() -> tuple[str, ...]:
    """Meaning of every index of every head, and of the heads that each operation reads."""
    named = [f"{head} {index}: {name}" for head, names in CHOICE_NAMES.items() for index, name in enumerate(names)]
    return (*named, *(f"{op.name.lower()} reads {', '.join(heads)}" for op, heads in HEADS_OF_OP.items()))


@dataclass(frozen=True, slots=True)
class Action:
    """Factored action: eight indices, one per head."""

    op: int
    slot: int = 0
    blueprint: int = int(Blueprint.CONV_LIGHT)
    style: int = int(GerminationStyle.SIGMOID_ADD)
    tempo: int = 1
    alpha_target: int = 2
    alpha_speed: int = 0
    alpha_curve: int = 0

    @classmethod
    def from_indices(cls, indices: Sequence[int], slots: int) -> "Action":
        """The action of eight indices in the order of :data:`HEADS`, for ``slots`` slots.

        Raises:
            ValueError: if their number is not eight, or one is not an integer or outside the range of its head.
        """
        try:
            values = [index(value) for value in indices]
        except TypeError:
            raise ValueError(f"an action consists of integers, got {list(indices)}") from None
        if len(values) != len(HEADS):
            raise ValueError(f"an action has {len(HEADS)} indices, got {len(values)}")
        for (head, size), value in zip(head_sizes(slots).items(), values, strict=True):
            if not 0 <= value < size:
                raise ValueError(f"action head {head!r} takes 0..{size - 1}, got {value}")
        return cls(*values)

    def to_indices(self) -> tuple[int, ...]:
        """The eight indices in the order of :data:`HEADS`."""
        return astuple(self)

    @property
    def operation(self) -> LifecycleOp:
        """The operation as an enumeration member."""
        return LifecycleOp(self.op)

    @property
    def ramp(self) -> tuple[int, AlphaCurve, float]:
        """Ticks, curve and steepness of the ramp that SET_ALPHA_TARGET and PRUNE ask for."""
        curve, steepness = CURVES[self.alpha_curve]
        return SPEED_TICKS[self.alpha_speed], curve, steepness


WAIT = Action(op=int(LifecycleOp.WAIT))
"""The action without an operation."""

"""Blueprints of each topology and their parameter counts in closed form.

Masks and rent therefore need no module. Every seed ends in one output scale per channel; the counts include it.
"""

from collections.abc import Callable
from enum import Enum
from types import MappingProxyType

from esper_ray.leyline.actions import BlendOperator, Blueprint


class Topology(Enum):
    """Layout of the features at a slot, which decides the blueprints that fit."""

    IMAGES = "images"
    """(B, C, H, W): C channels."""
    SEQUENCES = "sequences"
    """(B, T, D): D features per token."""
    FEATURES = "features"
    """(B, D): one vector per example."""


TOPOLOGY_OF_FAMILY = MappingProxyType(
    {"cnn": Topology.IMAGES, "mlp": Topology.FEATURES, "transformer": Topology.SEQUENCES}
)
"""Features at the slots of the built-in host families."""

REDUCTION = 4
"""Channels per channel of a squeezed layer (attention over channels, bottleneck)."""
MIN_BOTTLENECK = 8
LORA_RANK = 8
LORA_LARGE_RANK = 32
MLP_SMALL_EXPANSION = 2
MLP_EXPANSION = 4


def squeeze_width(channels: int) -> int:
    """Width of the squeezed layer of channel attention."""
    return max(1, channels // REDUCTION)


def bottleneck_width(channels: int) -> int:
    """Width between the 1x1 convolutions of a bottleneck."""
    return max(MIN_BOTTLENECK, channels // REDUCTION)


def gate_width(channels: int) -> int:
    """Hidden width of a gate network."""
    return max(8, channels // 4)


def gate_parameters(channels: int) -> int:
    """Parameters of the gate network of a slot with ``channels`` channels."""
    return channels * gate_width(channels) + 2 * gate_width(channels) + 1


def _bottleneck(c: int) -> int:
    b = bottleneck_width(c)
    return 2 * c * b + 9 * b * b + 3 * c


def _lora(rank: int) -> Callable[[int], int]:
    return lambda d: 2 * d * rank + d


def _mlp(expansion: int) -> Callable[[int], int]:
    return lambda d: 2 * expansion * d * d + (expansion + 2) * d


def _token_attention(d: int) -> int:
    return 4 * d * d + 5 * d


_COUNTS: dict[Topology, dict[Blueprint, Callable[[int], int]]] = {
    Topology.IMAGES: {
        Blueprint.NOOP: lambda c: 0,
        Blueprint.CONV_LIGHT: lambda c: 9 * c * c + 3 * c,
        Blueprint.ATTENTION: lambda c: 2 * c * squeeze_width(c) + 2 * c,
        Blueprint.NORM: lambda c: 3 * c,
        Blueprint.DEPTHWISE: lambda c: c * c + 12 * c,
        Blueprint.BOTTLENECK: _bottleneck,
        Blueprint.CONV_SMALL: lambda c: c * c + 3 * c,
        Blueprint.CONV_HEAVY: lambda c: 18 * c * c + 5 * c,
    },
    Topology.SEQUENCES: {
        Blueprint.NOOP: lambda d: 0,
        Blueprint.ATTENTION: _token_attention,
        Blueprint.NORM: lambda d: 3 * d,
        Blueprint.LORA: _lora(LORA_RANK),
        Blueprint.LORA_LARGE: _lora(LORA_LARGE_RANK),
        Blueprint.MLP_SMALL: _mlp(MLP_SMALL_EXPANSION),
        Blueprint.MLP: _mlp(MLP_EXPANSION),
        Blueprint.FLEX_ATTENTION: _token_attention,
    },
    Topology.FEATURES: {
        Blueprint.NOOP: lambda d: 0,
        Blueprint.ATTENTION: lambda d: 2 * d * squeeze_width(d) + 2 * d,
        Blueprint.NORM: lambda d: 3 * d,
        Blueprint.LORA: _lora(LORA_RANK),
        Blueprint.LORA_LARGE: _lora(LORA_LARGE_RANK),
        Blueprint.MLP_SMALL: _mlp(MLP_SMALL_EXPANSION),
        Blueprint.MLP: _mlp(MLP_EXPANSION),
    },
}

BLUEPRINTS_OF_TOPOLOGY = MappingProxyType({topology: tuple(counts) for topology, counts in _COUNTS.items()})
"""The built-in blueprints of each topology, in the order of the action indices."""


def seed_parameter_count(
    topology: Topology, blueprint: Blueprint, channels: int, operator: BlendOperator = BlendOperator.ADD
) -> int:
    """Structural parameter count of a seed, with its gate network if ``operator`` needs one.

    Args:
        channels: C of images, D of sequences and features.

    Raises:
        ValueError: if ``blueprint`` does not exist for ``topology``, or ``channels`` is below 1.
    """
    counts = _COUNTS[topology]
    if blueprint not in counts:
        choices = ", ".join(choice.id for choice in counts)
        raise ValueError(f"blueprint {blueprint.id!r} does not exist for {topology.value}; choose from {choices}")
    if channels < 1:
        raise ValueError(f"a seed needs at least 1 channel, got {channels}")
    gate = gate_parameters(channels) if operator is BlendOperator.GATE else 0
    return counts[blueprint](channels) + gate


WIDENING_SHARES = MappingProxyType({"widen_eighth": 8, "widen_quarter": 4, "widen_half": 2})
"""Blueprints that widen a span, by the present channels for each new one."""
WIDEN = "widen"
"""Short name of the blueprint ``widen_quarter``, and the beginning of ``widen_8``: 8 channels."""


def is_widening(blueprint: str) -> bool:
    """Whether a blueprint widens a span."""
    return blueprint == WIDEN or blueprint in WIDENING_SHARES or _is_counted(blueprint)


def widening_name(channels: int) -> str:
    """Name of the blueprint of ``channels`` new channels, for example ``widen_8``.

    Raises:
        ValueError: if there is not at least one.
    """
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ValueError(f"a span is widened by at least 1 channel, a whole number, got {channels!r}")
    return f"{WIDEN}_{channels}"


def widening_channels(blueprint: str, width: int, step: int = 1) -> int:
    """Number of new channels of a widening blueprint.

    Args:
        width: present channels of the span.
        step: number of which a share is rounded to a multiple, at least one of them.

    Raises:
        ValueError: if the blueprint does not widen.
    """
    if _is_counted(blueprint):
        return int(blueprint.removeprefix(f"{WIDEN}_"))
    if not is_widening(blueprint):
        raise ValueError(f"blueprint {blueprint!r} does not widen; those that do are {', '.join(WIDENING_SHARES)}")
    share = WIDENING_SHARES["widen_quarter" if blueprint == WIDEN else blueprint]
    return max(1, round(width / share / step)) * step


def _is_counted(blueprint: str) -> bool:
    count = blueprint.removeprefix(f"{WIDEN}_")
    return (
        blueprint.startswith(f"{WIDEN}_") and count.isascii() and count.isdecimal() and count == str(int(count)) != "0"
    )

"""The context of slots: numbers that policies see in addition to Obs V3, for empty slots as well.

Its numbers mean the same in every host, so that a policy can be used on hosts that it was not trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.blueprints import Topology

OCTAVES = 10.0
"""Doublings of channels or positions for one unit of the context."""

SLOT_CONTEXT: tuple[str, ...] = (
    "depth",
    "channels",
    "positions",
    "upstream_share",
    *(topology.value for topology in Topology),
    "span",
)
"""Names of the numbers of one slot, in their order."""
CONTEXT_SIZE = len(SLOT_CONTEXT)


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """Where a slot sits in its host; fixed for an episode."""

    depth: float
    """Layers that have run before it in a forward pass, over all layer calls of the pass; in [0, 1]."""
    channels: int
    """Channels of images, or numbers of a token or vector."""
    positions: int
    """Positions of an image or tokens of a sequence, of one example; 1 for vectors."""
    upstream_share: float
    """Parameters of the modules that have started before it, over all parameters of the host; in [0, 1]."""
    topology: Topology
    on_span: bool = False
    """Whether a seed widens a span instead of changing features."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: if a share is outside of [0, 1], or a count below 1.
        """
        for name in ("depth", "upstream_share"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} of a place must be in [0, 1], got {share}")
        for name in ("channels", "positions"):
            count = getattr(self, name)
            if count < 1:
                raise ValueError(f"a place must have at least 1 of {name}, got {count}")

    def numbers(self) -> list[float]:
        """The numbers of the context, see :data:`SLOT_CONTEXT`."""
        return [
            self.depth,
            math.log2(self.channels) / OCTAVES,
            math.log2(self.positions) / OCTAVES,
            self.upstream_share,
            *(float(self.topology is topology) for topology in Topology),
            float(self.on_span),
        ]


def context_of(places: Sequence[SlotPlace], slots: int) -> NDArray[np.float32]:
    """(slots, K) context, K as in :data:`SLOT_CONTEXT`; zeros where no place is known.

    Raises:
        ValueError: if there are places, but not one for each slot.
    """
    if not places:
        return np.zeros((slots, CONTEXT_SIZE), dtype=np.float32)
    if len(places) != slots:
        raise ValueError(f"{slots} slots need a place each, got {len(places)}")
    return np.asarray([place.numbers() for place in places], dtype=np.float32)

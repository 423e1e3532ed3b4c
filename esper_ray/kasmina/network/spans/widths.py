"""Channels of the spans of a host, changed in one transaction."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.spans.cell import SpanCell
from esper_ray.kasmina.network.spans.folding import Layers, Replacement, Transaction
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.blueprints import Topology


class Widths:
    """A change of the channels of spans. Nothing of it remains after :meth:`undo`."""

    def __init__(self, host: nn.Module, cells: Mapping[str, SeedCell]) -> None:
        self._host = host
        self._spans = {slot: cell for slot, cell in cells.items() if isinstance(cell, SpanCell)}
        self._before = {slot: (cell.added, cell.shape, cell.example_shape) for slot, cell in self._spans.items()}
        self._transaction = Transaction()

    @property
    def replaced(self) -> Mapping[nn.Parameter, tuple[nn.Parameter, Replacement]]:
        """By old parameter: the new one, and what has changed."""
        return self._transaction.replaced

    def fold(self, slot: str) -> None:
        """Make the seed of ``slot`` a part of the layers of its span.

        Raises:
            ValueError: if there is no span, or no seed that widens it.
        """
        cell = self._spans.get(slot)
        if cell is None or not isinstance(cell.seed, Widening):
            raise ValueError(f"slot {slot} does not sit on a span with a seed that widens it, so nothing can be folded")
        self._widen(cell, cell.seed, cell.seed.channels)

    def set(self, added: Mapping[str, int]) -> None:
        """Set the number of channels that were added to each span, by slot.

        Values are loaded later.

        Raises:
            ValueError: if a slot sits on no span, or its span cannot have so many.
        """
        for slot, channels in added.items():
            if slot not in self._spans:
                raise ValueError(f"channels were folded into slot {slot}, which does not sit on a span here")
            step = self._spans[slot].region.blocks
            if channels < 0 or channels % step:
                raise ValueError(f"folded channels of slot {slot} are a multiple of {step}, got {channels}")
        for slot, cell in self._spans.items():
            if added.get(slot, 0) != cell.added:
                self._widen(cell, None, added.get(slot, 0) - cell.added)

    def undo(self) -> None:
        """Restore layers, seeds and cells."""
        self._transaction.undo()
        for slot, (added, shape, example_shape) in self._before.items():
            cell = self._spans[slot]
            cell.added, cell.shape, cell.example_shape = added, shape, example_shape

    def _widen(self, cell: SpanCell, seed: Widening | None, channels: int) -> None:
        living = [(other.region, other.seed) for other in self._spans.values() if isinstance(other.seed, Widening)]
        self._transaction.widen(Layers(self._host.get_submodule, living), cell.region, seed, channels)
        cell.added += channels
        for other in self._spans.values():
            if other.region.consumer.name == cell.region.producer.name:
                _widen_features(other, channels)


def _widen_features(cell: SpanCell, channels: int) -> None:
    """Count ``channels`` more channels in what the consumer of ``cell`` yields."""
    dimension = 0 if cell.shape.topology is Topology.IMAGES else len(cell.example_shape) - 1
    shape = list(cell.example_shape)
    shape[dimension] += channels
    cell.example_shape = tuple(shape)
    cell.shape = replace(cell.shape, channels=cell.shape.channels + channels)

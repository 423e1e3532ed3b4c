"""Module of a slot on a span: its seed reads what the producer reads, and changes what the consumer yields."""

from collections.abc import Iterable
from math import prod
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import SlotShape
from esper_ray.kasmina.network.attachment import Attachment, evaluation_mode
from esper_ray.kasmina.network.cell import Incubation, SeedCell, rows_of
from esper_ray.kasmina.network.passes.branching import Fork
from esper_ray.kasmina.network.places.layouts import Layout
from esper_ray.kasmina.network.spans.checkpointing import KeptSources, leaves_reentrant, present_frame
from esper_ray.kasmina.network.spans.regions import ARROW, Region, as_layer
from esper_ray.kasmina.network.spans.steps import Between
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.actions import BlendOperator, GerminationStyle
from esper_ray.leyline.blueprints import is_widening, widening_channels


class SpanCell(SeedCell):
    """Cell of a slot on a span. Features of the slot are those that the consumer yields."""

    def __init__(
        self, shape: SlotShape, example_shape: tuple[int, ...], incubation: Incubation, region: Region, layout: Layout
    ) -> None:
        """
        Args:
            layout: order of the dimensions of what the consumer yields.
        """
        super().__init__(shape, example_shape, incubation)
        self.region, self.layout = region, layout
        self.added = 0
        """Channels that were folded into the layers of the span so far."""
        self.source: Tensor | None = None
        """What the producer read in the present pass, examples first."""
        self.kept = KeptSources()
        """What it read in passes that checkpointed calls may compute again."""
        self._read_in: ReferenceType[Any] | None = None
        """Checkpointed call in which it read."""
        self._read_with_gradient = True
        self.tapped: Tensor | None = None
        """What it read in the last pass with a tap, as it read it."""
        self.crossed: list[SpanCell] = []
        """Cells whose producer is the consumer of this one: a fork here is a fork of what they have read."""

    def read(self, source: Tensor) -> None:
        """Keep what the producer reads until the consumer has yielded."""
        if self.seed is None and self.tap is None:
            self.source = None
            return
        source = source.movedim(self.layout.batch, 0)
        frame, again = present_frame()
        if again:  # the consumer may not follow: it lies elsewhere, or torch stops before it
            self.kept.keep(frame, source)
        else:
            self.source, self._read_in = source, None if frame is None else ref(frame)
            self._read_with_gradient = torch.is_grad_enabled()

    def forward(self, h: Tensor) -> Tensor:
        """Features to features, as :class:`SeedCell`.

        Raises:
            RuntimeError: if the consumer was called without the producer, or reentrant checkpointing between them
                would lose gradients.
        """
        self.source = self._source_of_pass()
        if h.requires_grad and not self._read_with_gradient and leaves_reentrant(h.grad_fn):
            self.source = None
            raise RuntimeError(self._place_named("a call with reentrant activation checkpointing ends"))
        if self.tap is not None:
            self.tapped = self.source.detach().movedim(0, self.layout.batch)
        try:
            return super().forward(h)
        finally:
            self.source = None

    def _source_of_pass(self) -> Tensor:
        """What the producer read in this pass, which a checkpointed call may compute again."""
        frame, again = present_frame()
        source = self.kept.source_of(frame) if again else self.source
        if source is None:
            raise RuntimeError(
                f"{self.region.consumer.name} was called without {self.region.producer.name} before it. "
                + self._place_named("activation checkpointing begins perhaps")
            )
        if frame is not None and not again and (self._read_in is None or self._read_in() is not frame):
            self.kept.keep(frame, source)
        return source

    def _place_named(self, problem: str) -> str:
        place = f"Between {self.region.producer.name} and {self.region.consumer.name}, {problem}"
        return f"{place}; a seed there needs use_reentrant=False, and no nested calls"

    def present(self, source: Tensor) -> Tensor:
        """What the consumer reads of the present channels, computed from what the producer reads."""
        producer = as_layer(self.region.producer.module)
        assert producer is not None
        between = Between(self.region.steps, self.region.hidden, None)
        with torch.no_grad(), evaluation_mode(producer, between):
            read: Tensor = between(producer.forward(source))  # without the hooks of slots
        return read

    def check_style(self, style: GerminationStyle) -> None:
        """Check that ``style`` adds.

        Raises:
            ValueError: if it multiplies or gates: what was added alone can become a part of the consumer.
        """
        if style.operator is not BlendOperator.ADD:
            adding = ", ".join(other.id for other in GerminationStyle if other.operator is BlendOperator.ADD)
            raise ValueError(f"seeds that widen a span are added, style {style.id!r} is not; take one of {adding}")

    def newborn(self, blueprint: str) -> nn.Module:
        """A seed that widens the span, not yet the identity.

        Its weights are drawn from torch's global generator.

        Raises:
            ValueError: if ``blueprint`` does not widen, or its number of channels does not fit.
        """
        if not is_widening(blueprint):
            place = f"{self.region.producer.name}{ARROW}{self.region.consumer.name}"
            raise ValueError(f"blueprint {blueprint!r} does not fit the span {place}; its blueprint is 'widen'")
        return Widening(self.region, widening_channels(blueprint, self.region.channels, self.region.blocks))

    def probe(self, rows: int) -> Tensor:
        """(rows, ...) values in the form of what the seed reads."""
        size = self._with_rows(rows, self._source_shape())
        return torch.linspace(-1.0, 1.0, prod(size)).reshape(size).to(self.alpha)

    def change_size(self, rows: int) -> tuple[int, ...]:
        """Shape of a change, in the layout of the consumer."""
        return self._with_rows(rows, self.layout.example_shape(self.example_shape))

    def change(self, h: Tensor, rows: tuple[int, tuple[int, ...]] | None = None) -> Tensor:
        """Change of the features, from what the producer reads."""
        assert self.seed is not None
        assert self.source is not None
        source = self.source if rows is None else rows_of(self.source, *rows)
        return self.layout.canonical(self.seed(source.movedim(0, self.layout.batch)))

    def _forked(self, h: Tensor, fork: Fork) -> Tensor:
        for cell in self.crossed:
            if cell.source is not None:
                off, on = (rows_of(cell.source, fork.blocks, which) for which in (fork.off, fork.on))
                cell.source = torch.cat([off, on])
        return super()._forked(h, fork)

    def _with_rows(self, rows: int, example: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a batch, from that of an example."""
        batch = self.layout.batch
        return (*example[:batch], rows, *example[batch:])

    def _source_shape(self) -> tuple[int, ...]:
        """Shape of what the producer reads, for one example; channels as they are now."""
        shape = list(self.region.producer.reads[0].shape)
        del shape[self.layout.batch]
        producer: Any = self.region.producer.module
        if isinstance(producer, nn.Linear):
            shape[-1] = producer.in_features
        else:
            shape[0] = producer.in_channels
        return tuple(shape)


class SpanHook:
    """Forward pre-hook of a producer. It is an object, so that a copied model hooks its own cells."""

    def __init__(self, cell: SpanCell) -> None:
        self.cell = cell

    def __call__(self, _module: nn.Module, args: Any) -> None:
        """Show the cell what the producer reads."""
        self.cell.read(args[0])


def new_cell(at: Attachment, incubation: Incubation) -> SeedCell:
    """An empty cell for the slot ``at``."""
    if at.region is None:
        return SeedCell(at.shape, at.example_shape, incubation)
    return SpanCell(at.shape, at.example_shape, incubation, at.region, at.layout)


def link_cells(cells: Iterable[SeedCell]) -> None:
    """Tell each cell of a span which spans begin where it ends."""
    spans = [cell for cell in cells if isinstance(cell, SpanCell)]
    for cell in spans:
        cell.crossed = [other for other in spans if other.region.producer.name == cell.region.consumer.name]

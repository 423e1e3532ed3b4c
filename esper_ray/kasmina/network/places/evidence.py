"""Layouts found by evidence: passes on other numbers of examples and other sizes, and neighbouring layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from esper_ray.kasmina.network.passes.rows import same_rows
from esper_ray.kasmina.network.places.inputs import fewer_examples, has_square_images, other_sizes, tensors_of
from esper_ray.kasmina.network.places.layouts import Layout
from esper_ray.kasmina.network.places.recording import HostPass, recorded

ALL_LAYOUTS = ", ".join(f"{layout.value}" for layout in Layout)


class LayoutError(ValueError):
    """Features of a slot whose layout is unknown, or in which no seed can work."""


@dataclass(slots=True)
class Evidence:
    """What is known about the dimensions of the features at one slot."""

    shape: tuple[int, ...]
    batch: set[int] = field(default_factory=set)
    """Dimensions that may count examples."""
    sized: set[int] | None = None
    """Dimensions that follow the size of the input; ``None`` if no other size could be run."""
    neighbours: set[int] = field(default_factory=set)
    """Dimensions that neighbouring layers read as channels."""
    square: bool = False
    """Whether the input holds square images, whose features have as many rows as columns."""

    @property
    def is_settled(self) -> bool:
        """Whether runs on other sizes have nothing to add."""
        return bool(self.sized) or len(self._of_examples()) < 2

    def layouts(self) -> list[Layout]:
        """Layouts that fit."""
        fitting = self._of_examples()
        if len(fitting) > 1 and self.sized is not None:
            fitting = self._of_size(fitting)
        if len(fitting) > 1 and len(self.neighbours) == 1:
            fitting = [layout for layout in fitting if layout.channel in self.neighbours] or fitting
        if len(fitting) > 1 and self.square and len(self.shape) == 4:
            fitting = [layout for layout in fitting if self._is_square(layout)] or fitting
        return fitting

    def _is_square(self, layout: Layout) -> bool:
        return len({self.shape[dim] for dim in self._positions(layout)}) == 1

    def _of_examples(self) -> list[Layout]:
        return [layout for layout in Layout if len(layout.value) == len(self.shape) and layout.batch in self.batch]

    def _of_size(self, candidates: list[Layout]) -> list[Layout]:
        """Those of ``candidates`` with a constant channel and, where it shows, other positions."""
        assert self.sized is not None
        constant = [layout for layout in candidates if layout.channel not in self.sized]
        moving = [layout for layout in constant if self._positions(layout) <= self.sized]
        return moving if len(moving) == 1 else constant

    def _positions(self, layout: Layout) -> set[int]:
        return set(range(len(self.shape))) - {layout.batch, layout.channel}


def found_layouts(
    run: Callable[[Any], Any], inputs: Any, modules: Mapping[str, nn.Module], first: HostPass
) -> dict[str, Layout]:
    """Layout of the features at each slot.

    Args:
        run: runs the host on inputs, in evaluation mode and without gradient.
        inputs: those of ``first``.
        first: recording of the first pass.

    Raises:
        LayoutError: if the layout of a slot does not show, or none fits.
    """
    features = first.features
    square = has_square_images(inputs)
    evidence = {
        slot: Evidence(tuple(features[slot].shape), neighbours=first.neighbours.get(slot, set()), square=square)
        for slot in modules
    }
    _find_batch(run, inputs, modules, first, evidence)
    for slot, at in evidence.items():
        if not at.batch:
            raise LayoutError(f"slot {slot} yields {at.shape}, of which no dimension counts the examples")
    _find_sizes(run, inputs, modules, evidence)
    return {slot: _only_layout(slot, at) for slot, at in evidence.items()}


def _find_sizes(
    run: Callable[[Any], Any], inputs: Any, modules: Mapping[str, nn.Module], evidence: Mapping[str, Evidence]
) -> None:
    """Find the dimensions that follow the size of the input.

    A pass that fails behind a slot, because the head of the host has a fixed size, counts if none succeeds.
    """
    partial: dict[str, Tensor] = {}
    for other in other_sizes(inputs):
        if all(at.is_settled for at in evidence.values()):
            return
        recording = recorded(run, other, modules)
        for slot, changed in recording.features.items():
            if recording.error is None:
                _compare_sizes(evidence[slot], changed)
            else:
                partial.setdefault(slot, changed)
    for slot, changed in partial.items():
        if evidence[slot].sized is None:
            _compare_sizes(evidence[slot], changed)


def _find_batch(
    run: Callable[[Any], Any],
    inputs: Any,
    modules: Mapping[str, nn.Module],
    first: HostPass,
    evidence: Mapping[str, Evidence],
) -> None:
    """Find the dimensions of examples from a pass on some of the examples.

    The values decide where positions may come first, in the input too: examples do not depend on each other.
    """
    shown = _dimensions_of_examples(run, inputs, modules, first, 0)
    for slot, at in evidence.items():
        found, exact = shown.get(slot, (set(), False))
        at.batch = found or ({0} if at.shape and at.shape[0] == _rows(inputs) else set())
        if len(at.shape) == 3 and found and not exact:
            other, same = _dimensions_of_examples(run, inputs, {slot: modules[slot]}, first, 1).get(
                slot, (set(), False)
            )
            at.batch = other if same else at.batch


def _dimensions_of_examples(
    run: Callable[[Any], Any], inputs: Any, modules: Mapping[str, nn.Module], first: HostPass, dim: int
) -> dict[str, tuple[set[int], bool]]:
    """By slot: dimensions that shrink with dimension ``dim`` of the input, and whether values stay the same."""
    variant = fewer_examples(inputs, dim)
    if variant is None:
        return {}
    fewer, few, start = variant
    count = _rows(inputs, dim)
    results = {}
    for slot, part in recorded(run, fewer, modules).features.items():
        whole = first.features[slot]
        if part.dim() != whole.dim():
            continue
        changed = [i for i in range(whole.dim()) if whole.shape[i] != part.shape[i]]
        fitting = {i for i in changed if whole.shape[i] * few == part.shape[i] * count}
        exact = changed == sorted(fitting) and len(fitting) == 1 and _is_part(part, whole, changed[0], start, count)
        results[slot] = fitting if len(changed) == 1 else set(), exact
    return results


def _is_part(part: Tensor, whole: Tensor, dim: int, start: int, count: int) -> bool:
    if count == 1:
        return same_rows(part.narrow(dim, 0, whole.shape[dim]), whole)
    first = whole.shape[dim] * start // count
    return same_rows(part, whole.narrow(dim, first, part.shape[dim]))


def _rows(inputs: Any, dim: int = 0) -> int:
    return next((tensor.shape[dim] for tensor in tensors_of(inputs) if tensor.dim() > dim), 0)


def _compare_sizes(at: Evidence, changed: Tensor) -> None:
    if changed.dim() == len(at.shape):
        moved = {dim for dim in range(changed.dim()) if changed.shape[dim] != at.shape[dim]} - at.batch
        if moved or at.sized is None:
            at.sized = (at.sized or set()) | moved


def _only_layout(slot: str, at: Evidence) -> Layout:
    layouts = at.layouts()
    if len(layouts) == 1:
        return layouts[0]
    if not layouts:
        moved = f" where dimensions {sorted(at.sized)} follow the size of the input" if at.sized else ""
        raise LayoutError(
            f"slot {slot} yields {at.shape}{moved}, which fits none of {ALL_LAYOUTS}; take another submodule"
        )
    choices = " or ".join(layout.value for layout in layouts)
    raise LayoutError(
        f"slot {slot} yields {at.shape}, which may be {choices}: the host runs on no other size that would show it, "
        f"and no neighbouring layer does; say layout={{{slot!r}: ...}}"
    )

"""All coalitions of seeds in one pass: which rows of a batch see which seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from esper_ray.kasmina.model import MorphogeneticModel


@contextmanager
def switched(model: "MorphogeneticModel", slots: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """See :meth:`~esper_ray.kasmina.model.MorphogeneticModel.branching`."""
    order = tuple(slot for slot in model.execution_order if slot in slots)
    for slot in slots:
        if not model.cell(slot).contributes:
            raise ValueError(f"slot {slot} holds no seed that changes the output")
    doubling = all(model.attachments[slot].branches for slot in order)
    before = [(cell, cell.branches, cell.switch) for cell in map(model.cell, model.slot_ids)], model.copies
    model.copies = 1 if doubling else 2 ** len(order)
    try:
        for slot in model.slot_ids:
            cell = model.cell(slot)
            cell.branches = doubling and slot in order
            cell.switch = (order.index(slot), len(order)) if slot in order and not doubling else None
        yield order
    finally:
        cells, model.copies = before
        for cell, branches, switch in cells:
            cell.branches, cell.switch = branches, switch


def repeated(value: Any, copies: int) -> Any:
    """``copies`` of the rows of a tensor, one after another; anything else as it is."""
    return value.repeat(copies, *[1] * (value.dim() - 1)) if isinstance(value, Tensor) and value.dim() else value

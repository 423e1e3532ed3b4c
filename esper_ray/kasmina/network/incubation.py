"""Shadow pass that trains seeds on their effect at full amplitude."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from esper_ray.kasmina.modules import differentiable_checkpoints
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.newborn import preserved_rng
from esper_ray.kasmina.network.slotted import SlottedNetwork


@contextmanager
def shadowed(model: SlottedNetwork) -> Iterator[None]:
    """See :meth:`~esper_ray.kasmina.model.MorphogeneticModel.shadow`."""
    cells = [cell for cell in map(model.cell, model.slot_ids) if cell.incubates]
    with evaluation_mode(model):
        try:
            for cell in cells:
                cell.shadowed = True
            yield
        finally:
            for cell in cells:
                cell.shadowed = False


def incubate(model: SlottedNetwork, closure: Callable[[], Tensor]) -> None:
    """See :meth:`~esper_ray.kasmina.model.MorphogeneticModel.incubate`."""
    cells = {slot: model.cell(slot) for slot in model.slot_ids}
    cells = {slot: cell for slot, cell in cells.items() if cell.incubates and cell.incubation.method == "shadow"}
    learners = {slot: [p for p in cell.learnable() if p.requires_grad] for slot, cell in cells.items()}
    parameters = [parameter for group in learners.values() for parameter in group]
    if not parameters:
        return
    with shadowed(model), preserved_rng(parameters[0].device), differentiable_checkpoints():
        for cell in cells.values():
            cell.train()
        loss = closure()
        if not loss.requires_grad:
            raise ValueError("the loss for incubation does not depend on the model, or was computed without gradient")
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    reached = iter(gradients)
    for slot, group in learners.items():
        _add(slot, cells[slot], group, [next(reached) for _ in group])


def _add(slot: str, cell: SeedCell, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add the gradients of one seed, clipped as its cell says."""
    if parameters and all(gradient is None for gradient in gradients):
        warnings.warn(
            f"the loss for incubation does not reach the seed in {slot}; it learns nothing. Does the closure run the "
            "model, and does the model run the submodule with gradient?",
            stacklevel=5,
        )
    factor = None if cell.incubation.clip is None else _clip_factor(slot, cell, gradients, cell.incubation.clip)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        share = gradient if factor is None else gradient * factor.to(gradient.dtype)
        parameter.grad = share if parameter.grad is None else parameter.grad + share


def _clip_factor(slot: str, cell: SeedCell, gradients: Sequence[Tensor | None], limit: float) -> Tensor | None:
    """0-dim factor that bounds the norm of ``gradients``.

    It warns once for each seed that needed it.

    Reading a norm waits for the device. So it is read in the steps 1, 2, 4, 8, ... of a seed.
    """
    present = [gradient.detach().float() for gradient in gradients if gradient is not None]
    if not present:
        return None
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in present]))
    record = cell.clipping
    record.steps += 1
    record.largest = norm if record.largest is None else torch.maximum(record.largest, norm)
    if not record.said and record.steps & (record.steps - 1) == 0 and float(record.largest) > limit:
        record.said = True
        warnings.warn(
            f"incubation clips the gradient of the seed in {slot}: its norm was {float(record.largest):.3g}, "
            f"the limit is {limit:g} (Incubation.clip)",
            stacklevel=6,
        )
    factor: Tensor = (limit / (norm + 1e-6)).clamp(max=1.0)
    return factor

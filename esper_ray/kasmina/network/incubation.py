"""Shadow pass that trains seeds on their effect at full amplitude."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from esper_ray.kasmina.network.attachment import evaluation_mode
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


def incubate(model: SlottedNetwork, closure: Callable[[], Tensor]) -> bool:
    """See :meth:`~esper_ray.kasmina.model.MorphogeneticModel.incubate`. Whether there was a seed to train."""
    cells = [cell for cell in map(model.cell, model.slot_ids) if cell.incubates and cell.incubation.method == "shadow"]
    learners = [p for cell in cells for p in cell.learnable() if p.requires_grad]
    if not learners:
        return False
    with shadowed(model), preserved_rng(learners[0].device):
        for cell in cells:
            cell.train()
        loss = closure()
        if not loss.requires_grad:
            raise ValueError("the loss for incubation does not depend on the model, or was computed without gradient")
        gradients = torch.autograd.grad(loss, learners, allow_unused=True)
    for parameter, gradient in zip(learners, gradients, strict=True):
        if parameter.grad is None or gradient is None:
            parameter.grad = parameter.grad if gradient is None else gradient
        else:
            parameter.grad = parameter.grad + gradient
    return True

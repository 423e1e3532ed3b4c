"""Gradient-informed initialisation: inner weights that maximise a newborn seed's gradient.

At birth the output scale s is zero, so the loss depends on the seed to first order only through
``dL/ds_c = sum g J body_c(h)``: g is the loss gradient at the slot's output, J the slope of the blend
in the change, summed over examples and positions. GradMax (Evci et al., 2022, "GradMax: Growing
Neural Networks using Gradient Information") chooses new weights so that this gradient is largest.
For bodies with normalisations and nonlinearities there is no closed form, so its norm is climbed
directly; each weight tensor keeps its initial norm. The output stays as it was,
since s stays zero.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints.delta import Delta
from esper_ray.kasmina.modules import differentiable_checkpoints
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.leyline.actions import BlendOperator
from esper_ray.leyline.blueprints import Topology

STEPS = 30
RATE = 0.1
"""Step length as a share of each tensor's norm."""


def maximise_birth_gradient(
    seed: nn.Module, cell: SeedCell, operator: BlendOperator, closure: Callable[[], Tensor]
) -> None:
    """Optimize the inner weights of the newborn ``seed`` of ``cell`` in place.

    Args:
        closure: runs the model that holds the slot on a batch and returns its scalar loss.

    Raises:
        ValueError: if the loss does not depend on the slot, its gradient there is not finite, or the model
            was not run exactly once.
    """
    if not isinstance(seed, Delta):
        return
    features, gradient = (part.to(seed.scale) for part in features_and_gradient(cell, closure))  # they may be bf16
    if operator is BlendOperator.MULTIPLY:
        gradient = gradient * features
    weights = [p for p in seed.body.parameters() if p.dim() > 1 and p.requires_grad and p.detach().norm() > 0]
    if weights:
        with evaluation_mode(seed):  # no dropout, no running statistics
            climb(weights, lambda: birth_gradient(seed.body, cell, features, gradient).norm())


def birth_gradient(body: nn.Module, cell: SeedCell, features: Tensor, gradient: Tensor) -> Tensor:
    """(C,) gradient of the loss with respect to the output scale, per example.

    Args:
        features: at the slot.
        gradient: of the loss with respect to the change, of the same shape.
    """
    channel = 1 if cell.shape.topology is Topology.IMAGES else -1
    product = (gradient * body(features)).movedim(channel, 0)
    slope: Tensor = product.flatten(1).sum(dim=1)
    return slope


def features_and_gradient(cell: SeedCell, closure: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Features at the slot, and the gradient of the loss with respect to them.

    Raises:
        ValueError: if the loss does not depend on the slot, or its gradient there is not finite.
    """
    return features_and_gradients({"": cell}, closure)[""]


def features_and_gradients(
    cells: Mapping[str, SeedCell], closure: Callable[[], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Features at each slot, and the gradient of the loss there, from one pass.

    Raises:
        ValueError: if the loss does not depend on a slot, its gradient there is not finite, or the model was not run
            exactly once.
    """
    features = []
    try:
        for cell in cells.values():
            cell.tap = []
        with torch.enable_grad(), differentiable_checkpoints():
            loss = closure()
        for cell in cells.values():
            if cell.tap is None or len(cell.tap) != 1:
                times = 0 if cell.tap is None else len(cell.tap)
                raise ValueError(f"the loss must run the model with the slot once, not {times} times")
            features += cell.tap
        gradients = torch.autograd.grad(loss, features, allow_unused=True) if loss.requires_grad else ()
    finally:
        for cell in cells.values():
            cell.tap = None
    results = {}
    for slot, part, gradient in zip(cells, features, gradients or [None] * len(features), strict=True):
        if gradient is None or not bool(torch.isfinite(gradient).all()):
            what = "does not depend on the slot" if gradient is None else "has no finite gradient at the slot"
            raise ValueError(f"the loss {what}{f' {slot}' if slot else ''}")
        results[slot] = part.detach(), gradient
    return results


def climb(weights: list[nn.Parameter], height: Callable[[], Tensor]) -> None:
    """Normalised gradient ascent on ``height`` at constant tensor norms; keeps the best point."""
    norms = [weight.detach().norm() for weight in weights]
    best, best_weights = -1.0, [weight.detach().clone() for weight in weights]
    for step in range(STEPS + 1):
        with torch.enable_grad():
            value = height()
            slopes = torch.autograd.grad(value, weights, allow_unused=True)
        if value.item() > best:
            best, best_weights = value.item(), [weight.detach().clone() for weight in weights]
        rate = RATE * (1.0 - step / (STEPS + 1))
        with torch.no_grad():
            for weight, slope, norm in zip(weights, slopes, norms, strict=True):
                if slope is None or not slope.norm() > 0:
                    continue
                moved = weight + rate * norm * slope / slope.norm()
                weight.copy_(moved * (norm / moved.norm()))
    with torch.no_grad():
        for weight, values in zip(weights, best_weights, strict=True):
            weight.copy_(values)

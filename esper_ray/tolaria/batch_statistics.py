"""Running statistics of batch normalisations, computed anew with the weights of the moment.

Averages over the steps of training lag behind weights that change fast. A network can then be far better in training
than in evaluation, and its validation loss explodes although nothing is wrong with it.

Source: Wu and Johnson, Rethinking "Batch" in BatchNorm (2021), section 3.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def tracking_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations in training mode that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]


def refresh_statistics(model: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Replace running statistics by the mean of those of ``batches``.

    Args:
        model: a module in training mode.
        forward: a pass of the model; nothing learns from it.
        batches: inputs; without any, the statistics stay.
    """
    norms = tracking_norms(model)
    inputs = list(batches)
    if not norms or not inputs:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
        with torch.no_grad():
            for batch in inputs:
                forward(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

"""Initial weights of new channels that use the gradient of the loss.

It is the gradient at the output of the consumer. The consumer's part W of a newborn seed is zero, so that to first
order the loss falls by ``<G, W>``, where G is the gradient with respect to W: the products of what the consumer would
read of the new channels and of the gradient at its output. Two choices of the producer's part make G large:

* ``gradmax`` climbs the norm of G (Evci et al., 2022, "GradMax: Growing Neural Networks using Gradient Information").
* ``tiny`` climbs what is left of it after whitening and after what the host can do itself. Let z be what the consumer
  would read of new channels, h what it reads of present ones, and r the gradient without the part that a linear
  function of h explains. The gain is the share of r that a linear function of z explains,
  ``tr(R' Z (Z' Z + ridge)^-1 Z' R) / tr(R' R)``. It does not depend on the size of z (compare Verbockhaven et al.,
  2024, "Growing Tiny Networks: Spotting Expressivity Bottlenecks and Fixing Them Optimally").
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.gradmax import climb, features_and_gradient
from esper_ray.kasmina.network.spans.cell import SpanCell
from esper_ray.kasmina.network.spans.regions import as_layer
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.config.growth import WideningStart

GAIN_ROWS = 4096
"""Greatest number of positions that the gain is computed from."""
RIDGE = 1e-3
"""Ridge of least squares, as a share of the mean variance."""


def start_channels(seed: Widening, cell: SpanCell, start: WideningStart, closure: Callable[[], Tensor]) -> None:
    """Choose the producer's part of a newborn ``seed`` of ``cell``, in place.

    The consumer's part stays zero.

    Args:
        closure: runs the model that holds the slot on a batch and returns its scalar loss.

    Raises:
        ValueError: if the loss does not depend on the slot, its gradient there is not finite, or the model was not run
            exactly once.
    """
    _, gradient = features_and_gradient(cell, closure)
    assert cell.tapped is not None
    weight: nn.Parameter = seed.producer.weight  # type: ignore[assignment]  # a parameter, as in all layers of torch
    source = cell.tapped.to(weight)
    gradient = cell.layout.restored(gradient).to(weight)
    heights: dict[str, Callable[[], Tensor]] = {
        "gradmax": lambda: outgoing_gradient(seed, source, gradient).norm(),
        "tiny": _gain_of(seed, cell, source, gradient),
    }
    with evaluation_mode(seed):
        climb([weight], heights[start])


def outgoing_gradient(seed: Widening, source: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the loss with respect to the weight of the consumer's part.

    Args:
        source: what the producer reads.
        gradient: of the loss with respect to what the consumer yields.
    """
    (slope,) = torch.autograd.grad((seed(source) * gradient).sum(), seed.consumer.weight, create_graph=True)
    return slope


def _gain_of(seed: Widening, cell: SpanCell, source: Tensor, gradient: Tensor) -> Callable[[], Tensor]:
    """Function of the present weights of ``seed``: its whitened gain."""
    consumer = as_layer(cell.region.consumer.module)
    assert consumer is not None
    with torch.no_grad():
        present = rows_read(consumer, cell.present(source))
        target = rows_yielded(consumer, gradient)
        chosen = torch.linspace(0, len(target) - 1, min(GAIN_ROWS, len(target))).long()
        residual = unexplained(present[chosen], target[chosen])

    def gain() -> Tensor:
        new = rows_read(seed.consumer, seed.between(seed.producer(source)))
        return explained_share(new[chosen], residual)

    return gain


def rows_read(layer: nn.Linear | _ConvNd, inputs: Tensor) -> Tensor:
    """(positions, numbers) that ``layer`` reads for each position of its output."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    batch, channels = inputs.shape[:2]
    size = layer.weight[0, 0].numel()
    kernels = torch.eye(size).reshape(size, 1, *layer.kernel_size).to(inputs)
    alone = inputs.reshape(batch * channels, 1, *inputs.shape[2:])
    geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    kind: Any = type(layer)
    twin = kind(1, size, *geometry, bias=False, padding_mode=layer.padding_mode).to(inputs)
    windows: Tensor = twin._conv_forward(alone, kernels, None)
    windows = windows.reshape(batch, channels * size, -1)
    return windows.movedim(1, -1).flatten(0, 1)


def rows_yielded(layer: nn.Linear | _ConvNd, outputs: Tensor) -> Tensor:
    """(positions, channels) that ``layer`` yields."""
    if isinstance(layer, nn.Linear):
        return outputs.flatten(0, -2)
    return outputs.flatten(2).movedim(1, -1).flatten(0, 1)


def unexplained(present: Tensor, target: Tensor) -> Tensor:
    """``target`` without the part that a linear function of ``present`` explains.

    Rows are examples; the function has a constant. It is computed in float64: both may have hundreds of nearly
    dependent columns.
    """
    rows = torch.cat([present, present.new_ones(len(present), 1)], 1).double()
    right = target.double()
    return (right - rows @ _coefficients(rows, right)).to(target)


def explained_share(new: Tensor, residual: Tensor) -> Tensor:
    """Share of the squares of ``residual`` that a linear function of ``new`` explains.

    0-dim, in [0, 1].
    """
    rows, right = new.double(), residual.double()
    total = right.square().sum()
    if not total > 0:
        return rows.sum() * 0.0
    return (rows.T @ right * _coefficients(rows, right)).sum() / total


def _coefficients(rows: Tensor, right: Tensor) -> Tensor:
    gram = rows.T @ rows
    ridge = RIDGE * gram.diagonal().mean() + 1e-12
    solution: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), rows.T @ right)
    return solution

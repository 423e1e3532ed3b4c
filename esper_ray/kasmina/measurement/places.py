"""Score of empty places: what new parameters at a slot promise before anything grows there.

At a slot with features h, the loss has a gradient g. A new seed can follow -g as far as its own features z explain g
and what is there already does not: r is g without the part that a linear function of h explains, since the layers
around the slot can follow that. On a span h is what the consumer reads, g the gradient at its output, and z what the
consumer would read of new channels; elsewhere z are random convolutions, or random features, of h. The gain is the sum
of squares of the part of r that a linear function of z explains, times the mean square of the slot's output, so that
it does not depend on the scale of the features, for each parameter of the seed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.gradmax import features_and_gradients
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.kasmina.network.spans.cell import SpanCell
from esper_ray.kasmina.network.spans.regions import as_layer, parameters_per_channel
from esper_ray.kasmina.network.spans.starting import explained_share, rows_read, rows_yielded, unexplained
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.blueprints import Topology

CANDIDATES = 8
"""Number of random channels or features that stand for a seed."""
SCORED_ROWS = 2048
"""Greatest number of positions of a batch that a score is computed from."""
LEAST_EXAMPLES = 16
"""Least number of examples that they come from, if the batch has as many."""


@dataclass(frozen=True, slots=True)
class PlaceScore:
    """Score of one slot."""

    gain: float
    """First-order gain for each parameter, mean over batches."""
    error: float | None
    """Standard error of the gain; ``None`` with one batch."""
    share: float
    """Share of the gains of all slots, in [0, 1]."""


def place_scores(
    model: SlottedNetwork, batches: Iterable[Any], loss: Callable[[Any], Tensor], *, seed: int = 0
) -> dict[str, PlaceScore]:
    """See :meth:`~esper_ray.kasmina.model.MorphogeneticModel.place_scores`."""
    gains: dict[str, list[float]] = {slot: [] for slot in model.slot_ids}
    for batch in batches:
        for slot, gain in _gains(model, partial(loss, batch), seed).items():
            gains[slot].append(gain)
    if not next(iter(gains.values())):
        raise ValueError("place scores need at least one batch, got none")
    means = {slot: sum(values) / len(values) for slot, values in gains.items()}
    total = sum(means.values())
    return {
        slot: PlaceScore(means[slot], _error(values), means[slot] / total if total > 0 else 1.0 / len(gains))
        for slot, values in gains.items()
    }


def _error(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    center = sum(values) / len(values)
    return sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1) / len(values))


def _gains(model: SlottedNetwork, closure: Callable[[], Tensor], seed: int) -> Mapping[str, float]:
    """Gain of each slot on one batch, from one pass."""
    cells = {slot: model.cell(slot) for slot in model.slot_ids}
    with evaluation_mode(model):
        taps = features_and_gradients(cells, closure)
    gains = {}
    for index, (slot, (features, gradient)) in enumerate(taps.items()):
        cell = cells[slot]
        with torch.no_grad(), seeded_initialisation(seed + index):
            if isinstance(cell, SpanCell):
                gains[slot] = _span_gain(cell, features, gradient)
            else:
                gains[slot] = _slot_gain(cell.shape.topology, features, gradient)
    return gains


def _span_gain(cell: SpanCell, features: Tensor, gradient: Tensor) -> float:
    consumer = as_layer(cell.region.consumer.module)
    assert consumer is not None
    assert cell.tapped is not None
    step = cell.region.blocks
    seed = Widening(cell.region, -(-CANDIDATES // step) * step).to(cell.alpha).eval()
    examples = _examples(gradient, cell.shape.channels)
    source = cell.tapped.to(cell.alpha).index_select(cell.layout.batch, examples)
    new = rows_read(seed.consumer, seed.between(seed.producer(source)))
    present = rows_read(consumer, cell.present(source))
    target = rows_yielded(consumer, cell.layout.restored(gradient[examples]).to(cell.alpha))
    gain = _gain(new, present, target, features) * len(gradient) / len(examples)
    return gain / (seed.channels * parameters_per_channel(cell.region))


def _slot_gain(topology: Topology, features: Tensor, gradient: Tensor) -> float:
    """Gain of random features at the output of a submodule: a layer over channels and, in images, neighbours."""
    channels = features.shape[1] if topology is Topology.IMAGES else features.shape[-1]
    layer: nn.Conv2d | nn.Linear
    if topology is Topology.IMAGES:
        layer = nn.Conv2d(channels, CANDIDATES, 3, padding=1, bias=False)
        pointwise: nn.Conv2d | nn.Linear = nn.Conv2d(channels, 1, 1)
    else:
        layer, pointwise = nn.Linear(channels, CANDIDATES, bias=False), nn.Linear(channels, 1)
    examples = _examples(gradient, channels)
    part = features[examples]
    new = rows_yielded(layer.to(features), layer.to(features)(part).relu())
    gain = _gain(new, rows_read(pointwise, part), rows_yielded(pointwise, gradient[examples]), features)
    return gain * len(gradient) / len(examples) / (CANDIDATES * (layer.weight[0].numel() + channels))


def _examples(gradient: Tensor, channels: int) -> Tensor:
    """Numbers of the examples whose positions are used: those that have twice as many as are needed."""
    positions = gradient[0].numel() // channels
    enough = max(LEAST_EXAMPLES, 2 * SCORED_ROWS // max(1, positions))
    return torch.linspace(0, len(gradient) - 1, min(enough, len(gradient)), device=gradient.device).long()


def _gain(new: Tensor, present: Tensor, target: Tensor, features: Tensor) -> float:
    """Squares of the gradient, for each position, that ``new`` explains and ``present`` does not."""
    chosen = torch.linspace(0, len(target) - 1, min(SCORED_ROWS, len(target))).long()
    residual = unexplained(present[chosen], target[chosen])
    squares = explained_share(new[chosen], residual) * residual.double().square().sum() * len(target) / len(chosen)
    return float(squares * features.double().square().mean())

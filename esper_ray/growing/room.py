"""Room for births: parameters up to a target, and epochs in which a seed can still be decided on."""

from dataclasses import dataclass, replace
from math import ceil

from esper_ray.kasmina.lifecycle.reducer import FoldIn
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.spans.cell import SpanCell
from esper_ray.kasmina.network.spans.regions import as_layer, groups_of, parameters_per_channel
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.leyline.blueprints import is_widening, widening_channels, widening_name
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.stages import COMMITTED
from esper_ray.tolaria.assembly import shortest_life
from esper_ray.tolaria.preflight import newborn_parameters

GROWING_SHARE = 0.1
"""Share of the epochs after which the target is to be reached, so that what was born is trained for most of them."""
LAST_SHARE = 0.01
"""Share of the target that a birth of few channels must bring."""


@dataclass(frozen=True, slots=True)
class Room:
    """Room for births in one growth."""

    target: int | None
    """Parameters of host and seeds that growth leads to and does not exceed; ``None`` for no target."""
    limits: Limits
    epochs: int

    def limits_before(self, model: MorphogeneticModel, epoch: int) -> Limits:
        """The limits before ``epoch``: slots are closed in which no seed can be finished, or none fits the target.

        Blueprints that fit nowhere are left out, unless there are no others.
        """
        limits = self.limits
        if self.epochs - epoch < shortest_life(model):
            return replace(limits, closed=frozenset(limits.slots))
        if self.target is None:
            return limits
        fits = {
            slot: {b for b in limits.blueprints if self.fitting(model, slot, limits.blueprint_name(b), epoch)}
            for slot in limits.slots
            if model.states[slot] is None
        }
        some = frozenset[Blueprint]().union(*fits.values()) or limits.blueprints
        return replace(limits, blueprints=some, closed=frozenset(slot for slot in fits if not fits[slot]))

    def fitting(self, model: MorphogeneticModel, slot: str, blueprint: str, epoch: int) -> str | None:
        """``blueprint`` or a widening by another number of channels; ``None`` if nothing fits the target.

        Of a span, so many channels are born that the births of the first :data:`GROWING_SHARE` of the epochs reach the
        target together, at most as many as there are, and never more than the target leaves. Less than an eighth of
        the present channels is worth a birth only if it brings :data:`LAST_SHARE` of the target.
        """
        if self.target is None:
            return blueprint
        cell, free = model.cell(slot), self.target - folded_parameters(model)
        if isinstance(cell, SpanCell) and is_widening(blueprint):
            region = cell.region
            price, step, width = price_of_channel(model, cell), region.blocks, region.channels
            births = 1 + max(0, int(GROWING_SHARE * self.epochs) - epoch) // (shortest_life(model) + 1)
            paced = min(width, ceil(free / births / price / step) * step)
            channels = min(max(widening_channels(blueprint, width, step), paced), free // price // step * step)
            few = channels < widening_channels("widen_eighth", width, step)
            return widening_name(channels) if not few or channels * price >= LAST_SHARE * self.target else None
        return blueprint if newborn_parameters(cell, blueprint, BlendOperator.ADD) <= free else None


def price_of_channel(model: MorphogeneticModel, cell: SpanCell) -> int:
    """Parameters of one new channel.

    Those that join it to living seeds on the spans before and behind it count too.
    """
    joined = [_joining(cell, other) + _channels(other) * _joining(other, cell) for other in _living(model)]
    return parameters_per_channel(cell.region) + sum(joined)


def folded_parameters(model: MorphogeneticModel) -> int:
    """Parameters of host and seeds once all living seeds of spans are folded."""
    living = _living(model)
    return model.total_parameters + sum(_joining(a, b) * _channels(a) for a in living for b in living)


def _living(model: MorphogeneticModel) -> list[SpanCell]:
    cells = map(model.cell, model.slot_ids)
    return [cell for cell in cells if isinstance(cell, SpanCell) and isinstance(cell.seed, Widening)]


def _channels(cell: SpanCell) -> int:
    return cell.seed.channels if isinstance(cell.seed, Widening) else 1


def _joining(first: SpanCell, second: SpanCell) -> int:
    """Weights between one channel of ``first`` and the new channels of ``second``.

    There are some if the second span begins where the first ends. A span without a seed counts as one channel.
    """
    layer = as_layer(second.region.producer.module)
    if first.region.consumer.name != second.region.producer.name or layer is None:
        return 0
    kernel = layer.weight[0, 0].numel()
    return _channels(second) * kernel * first.region.axis.repeat // groups_of(layer)


def fold_committed(model: MorphogeneticModel) -> list[str]:
    """Fold committed seeds of spans into their layers.

    Returns:
        Their slots, which are empty now.
    """
    slots = [
        slot
        for slot, state in model.states.items()
        if state is not None and state.stage in COMMITTED and isinstance(model.cell(slot), SpanCell)
    ]
    return [slot for slot in slots if model.execute(slot, FoldIn())]

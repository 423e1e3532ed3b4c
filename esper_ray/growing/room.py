"""Room for births: parameters up to a target, and epochs in which a seed can still be decided on."""

from dataclasses import dataclass
from math import ceil

from esper_ray.kasmina.lifecycle.gates import Gate
from esper_ray.kasmina.lifecycle.reducer import FoldIn, Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.spans.cell import SpanCell
from esper_ray.kasmina.network.spans.regions import layer_inputs, parameters_per_channel
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.actions import TEMPO_TICKS, BlendOperator
from esper_ray.leyline.blueprints import is_widening, widening_channels, widening_name
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.stages import COMMITTED
from esper_ray.tolaria.preflight import newborn_parameters

GROWING_SHARE = 0.5
"""Share of the epochs after which the target is to be reached, so that what was born last is trained as long again."""


def shortest_life(rules: Rules) -> int:
    """Least number of epochs until a newborn seed has full amplitude.

    The end of a growth decides on such a seed.
    """
    gates = rules.gates
    blending = max(min(TEMPO_TICKS), gates.min_blending_epochs if gates.strict else 0)
    return gates.min_training_epochs + blending + (Gate.G1 not in rules.auto_forward)


@dataclass(frozen=True, slots=True)
class Room:
    """Room for births in one growth."""

    target: int | None
    """Parameters of host and seeds that growth leads to and does not exceed; ``None`` for no target."""
    limits: Limits
    epochs: int

    def is_open(self, model: MorphogeneticModel, epoch: int) -> bool:
        """Whether a seed may be born before ``epoch``: it can be finished, and some blueprint fits the target."""
        if self.epochs - epoch < shortest_life(model.growth.rules):
            return False
        empty = [slot for slot in self.limits.slots if model.states[slot] is None]
        names = [self.limits.blueprint_name(blueprint) for blueprint in sorted(self.limits.blueprints)]
        return self.target is None or any(self.fitting(model, slot, name, epoch) for slot in empty for name in names)

    def fitting(self, model: MorphogeneticModel, slot: str, blueprint: str, epoch: int) -> str | None:
        """``blueprint`` or a widening by another number of channels; ``None`` if nothing fits the target.

        Of a span, so many channels are born that the births of the first :data:`GROWING_SHARE` of the epochs reach the
        target together, at most as many as there are, and never more than the target leaves.
        """
        if self.target is None:
            return blueprint
        cell, free = model.cell(slot), self.target - model.total_parameters
        if isinstance(cell, SpanCell) and is_widening(blueprint):
            region = cell.region
            price, step, width = price_of_channel(model, cell), region.blocks, region.channels
            births = 1 + max(0, int(GROWING_SHARE * self.epochs) - epoch) // (shortest_life(model.growth.rules) + 1)
            paced = min(width, ceil(free / births / price / step) * step)
            channels = min(max(widening_channels(blueprint, width, step), paced), free // price // step * step)
            return widening_name(channels) if channels > 0 else None
        return blueprint if newborn_parameters(cell, blueprint, BlendOperator.ADD) <= free else None


def price_of_channel(model: MorphogeneticModel, cell: SpanCell) -> int:
    """Parameters of one new channel.

    Those that join it to living seeds on the spans before and behind it count too.
    """
    region, extra = cell.region, 0
    for other in map(model.cell, model.slot_ids):
        if isinstance(other, SpanCell) and isinstance(other.seed, Widening):
            if other.region.producer.name == region.consumer.name:
                weight = other.seed.producer.weight
                extra += weight.numel() // layer_inputs(other.seed.producer) * region.axis.repeat
            if other.region.consumer.name == region.producer.name:
                extra += other.seed.consumer.weight[0].numel()
    return parameters_per_channel(region) + extra


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

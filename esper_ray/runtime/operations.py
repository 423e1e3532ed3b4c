"""Lifecycle operations and ticks of a growing network, with their events for the log."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import Tensor

from esper_ray.kasmina.lifecycle.commands import lifecycle_command, logged
from esper_ray.kasmina.lifecycle.reducer import Germinate, LifecycleEvent, SeedState
from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.leyline.actions import Action, LifecycleOp
from esper_ray.leyline.records import Event


def execute(
    model: MorphogeneticModel,
    action: Action,
    seeds: MeasuredSeeds,
    epoch: int,
    probe_loss: Callable[[], Tensor] | None = None,
    blueprint: str | None = None,
) -> tuple[bool, list[Event]]:
    """Success and events of a legal operation on ``model``.

    Args:
        seeds: measurements for the gates.
        epoch: epoch of the events.
        probe_loss: training loss, for seeds with a gradient-informed start.
        blueprint: blueprint of a birth in the place of the action's.
    """
    if action.operation is LifecycleOp.WAIT:
        return True, []
    slot = model.slot_ids[action.slot]
    before = model.states[slot]
    growth = model.growth
    command = lifecycle_command(
        action, growth.next_seed_id(slot), growth.options.own_blueprints, live_widenings=growth.rules.live_widenings
    )
    if isinstance(command, Germinate) and blueprint is not None:
        command = replace(command, blueprint=blueprint)
    probe = probe_loss if action.operation is LifecycleOp.GERMINATE else None
    outcome = model.execute(slot, command, seeds.of(slot), probe)
    return outcome.success, _logged(model, slot, before, outcome.events, epoch, "policy")


def tick(model: MorphogeneticModel, seeds: MeasuredSeeds, epoch: int) -> list[Event]:
    """Events of one tick of the lifecycle of ``model``."""
    before = dict(model.states)
    changes = model.tick(seeds.by_slot())
    log = (_logged(model, slot, before[slot], events, epoch, "clock") for slot, events in changes.items())
    return [event for events in log for event in events]


def _logged(
    model: MorphogeneticModel,
    slot: str,
    before: SeedState | None,
    events: Iterable[LifecycleEvent],
    epoch: int,
    initiator: str,
) -> list[Event]:
    return logged(slot, model.states[slot] or before, events, epoch, initiator)

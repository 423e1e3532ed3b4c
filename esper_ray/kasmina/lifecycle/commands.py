"""Conversion between actions of policies and commands and events of the lifecycle."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from esper_ray.kasmina.lifecycle import reducer
from esper_ray.kasmina.lifecycle.reducer import GateEvaluated, LifecycleEvent, SeedState, StageChanged
from esper_ray.leyline.actions import ALPHA_TARGETS, TEMPO_TICKS, Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.blueprints import is_widening
from esper_ray.leyline.records import Event, SeedMeasurements, SlotReport


def lifecycle_command(
    action: Action, seed_id: str, own: Mapping[Blueprint, str] = MappingProxyType({}), *, live_widenings: bool = False
) -> reducer.Command:
    """The lifecycle command of ``action``.

    Args:
        seed_id: identity of the seed if the action germinates one.
        own: own blueprints by the built-in ones whose index they have.
        live_widenings: whether seeds that widen a span are born live; they have no first ramp then.

    Raises:
        ValueError: for WAIT, which is not a command.
    """
    ticks, curve, steepness = action.ramp
    match action.operation:
        case LifecycleOp.GERMINATE:
            name = own.get(Blueprint(action.blueprint), Blueprint(action.blueprint).id)
            tempo = 0 if live_widenings and is_widening(name) else TEMPO_TICKS[action.tempo]
            target = ALPHA_TARGETS[action.alpha_target]
            return reducer.Germinate(seed_id, name, GerminationStyle(action.style), tempo, target)
        case LifecycleOp.SET_ALPHA_TARGET:
            target, style = ALPHA_TARGETS[action.alpha_target], GerminationStyle(action.style)
            return reducer.SetAlphaTarget(target, ticks, curve, steepness, style)
        case LifecycleOp.PRUNE:
            return reducer.Prune(ticks, curve, steepness)
        case LifecycleOp.FOSSILIZE:
            return reducer.Fossilize()
        case LifecycleOp.ADVANCE:
            return reducer.Advance()
        case LifecycleOp.WAIT:
            raise ValueError("WAIT is not a command")


def logged(
    slot: str, state: SeedState | None, happened: Iterable[LifecycleEvent], epoch: int, initiator: str
) -> list[Event]:
    """Transitions and gate verdicts as plain data for the event log.

    Amplitudes are in the step records.

    Args:
        state: of the seed that the event belongs to.
        initiator: ``policy`` or ``clock``.
    """
    log = []
    for event in happened:
        data: dict[str, Any] = {"slot": slot, "seed": None if state is None else state.seed_id}
        if isinstance(event, StageChanged):
            data |= {"from": event.source.name, "to": event.target.name, "ticks": event.ticks}
            data |= {"reason": event.reason, "initiator": initiator}
            data |= {"blueprint": None if state is None else state.blueprint}
            log.append(Event("seed_transition", epoch, data))
        elif isinstance(event, GateEvaluated):
            checks = [
                {"name": c.name, "value": c.value, "threshold": c.threshold, "margin": c.margin, "passed": c.passed}
                for c in event.result.checks
            ]
            data |= {"gate": event.result.gate.name, "passed": event.result.passed, "checks": checks}
            log.append(Event("gate", epoch, data))
    return log


def seed_report(
    slot: str,
    state: SeedState,
    parameters: int,
    measured: SeedMeasurements,
    own: Mapping[Blueprint, str] = MappingProxyType({}),
) -> SlotReport:
    """Public report of the seed in ``slot``, as policies observe it.

    Args:
        own: own blueprints by the built-in ones whose index they have.

    Raises:
        ValueError: if its blueprint is neither one of the thirteen built-in ones nor among ``own``.
    """
    alpha = state.alpha
    place = next((built_in for built_in, name in own.items() if name == state.blueprint), None)
    if place is None and is_widening(state.blueprint):  # of a number of channels that is none of the shares
        place = next((built_in for built_in, name in own.items() if is_widening(name)), None)
    return SlotReport(
        slot_id=slot,
        seed_id=state.seed_id,
        blueprint=Blueprint.from_id(state.blueprint) if place is None else place,
        stage=state.stage,
        previous_stage=state.previous_stage,
        ticks_in_stage=state.ticks_in_stage,
        age=state.age,
        alpha=alpha.alpha,
        alpha_mode=alpha.mode,
        alpha_target=alpha.target,
        alpha_velocity=alpha.velocity,
        ramp_total=alpha.total,
        ramp_done=alpha.done,
        operator=state.operator,
        tempo=state.tempo,
        parameters=parameters,
        measured=measured,
        own_blueprint=None if place is None else state.blueprint,
    )

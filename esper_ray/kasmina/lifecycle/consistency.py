"""Consistency of lifecycle states that come from a file. Pure and torch-free."""

import math
from collections.abc import Callable, Mapping

from esper_ray.kasmina.lifecycle.alpha import TOLERANCE, AlphaController
from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.leyline.actions import AlphaMode
from esper_ray.leyline.stages import AMPLIFIED, Stage, can_transition


def check_seeds(
    states: Mapping[str, SeedState | None], germinations: Mapping[str, int], slots: Mapping[str, object]
) -> None:
    """Check that ``states`` and ``germinations`` are possible in a network with ``slots``.

    Args:
        germinations: number of seeds so far, by slot.

    Raises:
        ValueError: with the place, the value and the constraint.
    """
    if not states.keys() == germinations.keys() == slots.keys():
        names = ", ".join(map(str, sorted(states.keys() ^ slots.keys() | germinations.keys() ^ slots.keys())))
        raise ValueError(f"slots, seeds and germinations name different slots: {names}")
    for slot, state in states.items():
        _require(germinations[slot] >= 0, f"germinations of {slot}", germinations[slot], "at least 0")
        if state is not None:
            check_seed(slot, state)


def check_seed(slot: str, state: SeedState) -> None:
    """Check that the lifecycle can lead to ``state``.

    Raises:
        ValueError: with the place, the value and the constraint.
    """

    def require(holds: bool, field: str, value: object, rule: str) -> None:
        _require(holds, f"{slot}.{field}", value, rule)

    require(state.seed_id != "", "seed_id", state.seed_id, "not empty")
    require(state.stage not in (Stage.UNKNOWN, Stage.DORMANT), "stage", state.stage.name, "that of a seed")
    before = state.previous_stage
    require(can_transition(before, state.stage), "previous_stage", before.name, f"one before {state.stage.name}")
    for field in ("tempo", "ticks_in_stage", "age"):
        require(getattr(state, field) >= 0, field, getattr(state, field), "at least 0")
    require(0.0 < state.target <= 1.0, "target", state.target, "in (0, 1]")
    _check_alpha(state.alpha, require)
    at_rest = state.alpha.mode is AlphaMode.HOLD
    unamplified = at_rest and state.alpha.alpha == 0.0
    require(state.stage in AMPLIFIED or unamplified, "alpha.alpha", state.alpha.alpha, f"0 in {state.stage.name}")
    require(state.outgoing is None or not at_rest, "outgoing", state.outgoing, "none without a ramp")


def _check_alpha(alpha: AlphaController, require: Callable[[bool, str, object, str], None]) -> None:
    for field in ("alpha", "start", "target"):
        require(0.0 <= getattr(alpha, field) <= 1.0, f"alpha.{field}", getattr(alpha, field), "in [0, 1]")
    require(math.isfinite(alpha.steepness) and alpha.steepness > 0, "alpha.steepness", alpha.steepness, "above 0")
    require(0 <= alpha.done <= alpha.total, "alpha.done", alpha.done, f"in [0, {alpha.total}]")
    if alpha.mode is AlphaMode.HOLD:
        expected = alpha.target
    else:
        require(alpha.done < alpha.total, "alpha.done", alpha.done, f"below {alpha.total} during a ramp")
        expected = alpha.start + (alpha.target - alpha.start) * alpha.share
    require(abs(alpha.alpha - expected) <= TOLERANCE, "alpha.alpha", alpha.alpha, f"{expected:g} at this tick")


def _require(holds: bool, place: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"{place} is {value!r}, it must be {rule}")

"""Records for the tests of leyline."""

from typing import Any

from hypothesis import strategies as st

from esper_ray.leyline.actions import AlphaMode, BlendOperator, Blueprint, GerminationStyle
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.records import HostSignals, SlotReport
from esper_ray.leyline.stages import Stage

IMAGE_BLUEPRINTS = frozenset({Blueprint.CONV_LIGHT, Blueprint.NORM, Blueprint.DEPTHWISE, Blueprint.BOTTLENECK})


def make_report(stage: Stage, mode: AlphaMode = AlphaMode.HOLD, age: int = 10, **changes: Any) -> SlotReport:
    fields: dict[str, Any] = {
        "slot_id": "r0c0",
        "seed_id": "r0c0-1",
        "blueprint": Blueprint.NORM,
        "stage": stage,
        "previous_stage": Stage.DORMANT,
        "ticks_in_stage": 0,
        "age": age,
        "alpha": 0.0,
        "alpha_mode": mode,
        "alpha_target": 0.0,
        "alpha_velocity": 0.0,
        "ramp_total": 0,
        "ramp_done": 0,
        "operator": BlendOperator.ADD,
        "tempo": 5,
        "parameters": 24,
    }
    return SlotReport(**(fields | changes))


def make_signals(**changes: Any) -> HostSignals:
    fields: dict[str, Any] = {
        "epoch": 50,
        "max_epochs": 100,
        "val_loss": 1.5,
        "val_accuracy_pp": 85.0,
        "loss_history": (2.0, 1.9, 1.8, 1.7, 1.5),
        "accuracy_history_pp": (60.0, 65.0, 70.0, 80.0, 85.0),
        "last_op": 0,
        "last_success": True,
    }
    return HostSignals(**(fields | changes))


def make_limits(slots: int, **changes: Any) -> Limits:
    fields: dict[str, Any] = {
        "slots": tuple(f"r0c{i}" for i in range(slots)),
        "blueprints": IMAGE_BLUEPRINTS,
        "styles": frozenset({GerminationStyle.LINEAR_ADD, GerminationStyle.SIGMOID_ADD}),
    }
    return Limits(**(fields | changes))


def reports_of(slots: int) -> st.SearchStrategy[tuple[SlotReport | None, ...]]:
    """Any state that slots could be in, possible in a run or not."""
    occupied = st.builds(
        make_report,
        st.sampled_from(list(Stage)),
        st.sampled_from(list(AlphaMode)),
        st.integers(min_value=0, max_value=9),
    )
    return st.tuples(*[st.none() | occupied for _ in range(slots)])

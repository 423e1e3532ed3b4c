"""Text diagram of a growing network."""

from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.actions import AlphaMode
from esper_ray.leyline.stages import WITH_MODULE

BAR = 10
"""Width of an amplitude bar, in characters."""


def draw(model: SlottedNetwork) -> str:
    """The diagram: a line for the host and one per slot, in forward order.

    A line names the submodule, the shape of one example's features, their layout, the slot and its seed.

    For example ``├ layer1  64 x 8 x 8  BCHW  r0c0  norm  BLENDING 3  add 0.60 ██████░░░░ to 1.00  192 parameters``.
    """
    grown = sum(model.seed_parameters(slot) for slot in model.slot_ids)
    title = f"{type(model.host).__name__}  {model.host_parameters:,} parameters"
    title += f" + {grown:,} grown" if grown else ""
    rows = []
    for slot, at in model.attachments.items():
        shape = " x ".join(map(str, at.layout.example_shape(at.example_shape)))
        rows.append((at.place, shape, at.layout.value, slot, _seed(model.states[slot], model.seed_parameters(slot))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]) for row in rows
    ]
    branches = ["├ "] * (len(lines) - 1) + ["└ "]
    return "\n".join([f"{title}  epoch {model.growth.epoch}", *map(str.__add__, branches, lines)])


def _seed(state: SeedState | None, parameters: int) -> str:
    if state is None:
        return "empty"
    parts = [state.blueprint, f"{state.stage.name} {state.ticks_in_stage}"]
    if state.stage in WITH_MODULE:
        parts += [_amplitude(state), f"{parameters:,} parameters"]
    return "  ".join(parts)


def _amplitude(state: SeedState) -> str:
    alpha = state.alpha
    full = round(alpha.alpha * BAR)
    operator = state.operator.name.lower()
    if state.outgoing is not None:
        operator = f"{state.outgoing.name.lower()} to {operator}"
    bar = "█" * full + "░" * (BAR - full)
    aim = "" if alpha.mode is AlphaMode.HOLD else f" to {alpha.target:.2f}"
    return f"{operator} {alpha.alpha:.2f} {bar}{aim}"

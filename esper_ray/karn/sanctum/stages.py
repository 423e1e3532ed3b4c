"""Letters and styles of stages and operations."""

from collections.abc import Mapping

from esper_ray.karn.sanctum.text import Ink, Role, TextLine, number
from esper_ray.leyline.stages import COOLDOWN, Stage
from esper_ray.nissa.state.episode import SlotState

LETTERS: Mapping[str, str] = {
    "GERMINATED": "G",
    "TRAINING": "T",
    "BLENDING": "B",
    "HOLDING": "H",
    "FOSSILIZED": "F",
    "PRUNED": "P",
    "EMBARGOED": "E",
    "RESETTING": "R",
}
"""Letter of each stage of an occupied slot."""
ROLES: Mapping[str, Role] = {
    "GERMINATED": "early",
    "TRAINING": "early",
    "BLENDING": "blend",
    "HOLDING": "blend",
    "FOSSILIZED": "kept",
    "PRUNED": "lost",
    "EMBARGOED": "lost",
    "RESETTING": "lost",
}
SHORT: Mapping[str, str] = {
    "GERMINATED": "germ",
    "TRAINING": "train",
    "BLENDING": "blend",
    "HOLDING": "hold",
    "FOSSILIZED": "fossil",
    "PRUNED": "pruned",
    "EMBARGOED": "embargo",
    "RESETTING": "reset",
}
MEANINGS: Mapping[str, str] = {
    "GERMINATED": "germinated: a new seed that does not train yet",
    "TRAINING": "training: trained behind the host without touching its output",
    "BLENDING": "blending: its amplitude is on the way to its target",
    "HOLDING": "holding: blended in, neither kept nor pruned yet",
    "FOSSILIZED": "fossilized: kept, a permanent part of the network",
    "PRUNED": "pruned: removed",
    "EMBARGOED": "embargoed: the slot waits after a removal",
    "RESETTING": "resetting: the slot is about to be free again",
}
OPERATION_LETTERS: Mapping[str, str] = {
    "WAIT": ".",
    "GERMINATE": "g",
    "SET_ALPHA_TARGET": "a",
    "PRUNE": "p",
    "FOSSILIZE": "f",
    "ADVANCE": "v",
}
"""Letter of each operation."""


def stage_span(stage: Stage | str) -> Ink:
    """The letter of a stage."""
    name = stage.name if isinstance(stage, Stage) else stage
    return Ink(LETTERS.get(name, "?"), ROLES.get(name, ""))


def worth(slot: SlotState) -> float | None:
    """The newest measured contribution of a seed."""
    return slot.contribution_pp if slot.contribution_pp is not None else slot.measured_contribution_pp


def slot_cell(slot: SlotState | None, width: int) -> TextLine:
    """Stage, blueprint and contribution of a slot: ``F conv +7.5``. An empty slot is a dash."""
    if slot is None:
        return (Ink("-".ljust(width), "dim"),)
    blueprint = (slot.blueprint or "?")[: max(4, width - 9)]
    known = worth(slot)
    form = "+.0f" if known is not None and abs(known) >= 9.95 and width < 14 else "+.1f"
    value = "" if slot.stage in COOLDOWN else number(known, form, "")
    text = f" {blueprint.ljust(max(4, width - 9))} {value}"
    letter = stage_span(slot.stage)
    return (letter, Ink(text[: width - 1].ljust(width - 1)))

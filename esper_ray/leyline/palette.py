"""Colours of the stages of a seed in all pictures."""

from types import MappingProxyType

from esper_ray.leyline.stages import Stage

STAGE_COLOURS = MappingProxyType(
    {
        Stage.GERMINATED: "#c7d3dd",
        Stage.TRAINING: "#f2c14e",
        Stage.BLENDING: "#4d9de0",
        Stage.HOLDING: "#8e6bbf",
        Stage.FOSSILIZED: "#3bb273",
        Stage.PRUNED: "#d1495b",
        Stage.EMBARGOED: "#e8b4ba",
        Stage.RESETTING: "#f4dcdf",
    }
)
INK = "#22333b"
"""Colour of text."""

"""How closely a run is watched. No weight and no reward depends on it."""

from typing import Annotated, Literal

from pydantic import Field

from esper_ray.leyline.sections import Count, Section

Level = Literal["off", "normal", "debug"]


class TelemetryConfig(Section):
    """What is told beside the event log, which every run writes: resuming, replaying and pictures rest on it."""

    level: Level = Field(
        "normal",
        description="off: no metrics, no samples, no control; normal: samples of what matters; debug: of every step",
    )
    wait_every: Count = Field(8, description="steps in which nothing is done, of which one is sampled (normal)")
    control_episodes: Annotated[int, Field(ge=0)] = Field(
        1, description="episodes of the first round that are also played without growth, to be compared with"
    )

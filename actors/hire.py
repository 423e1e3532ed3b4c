"""Picks the crew of a run. Ray is only imported if it is needed, and after its settings are chosen."""

from actors.crew import Crew
from actors.serial import SerialCrew
from actors.settings import choose_ray_settings
from esper_ray.leyline.config import RunConfig


def make_crew(config: RunConfig, *, serial: bool) -> Crew:
    """The crew of one process, or the one on Ray."""
    if serial:
        return SerialCrew(config)
    choose_ray_settings()
    from actors.cluster import RayCrew

    return RayCrew(config)

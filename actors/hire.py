"""Picks the crew of a run. Ray is only imported if it is needed, and after its settings are chosen."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from actors.crew import Crew
from actors.keeping import Keeping
from actors.placement import make_plan
from actors.serial import SerialCrew
from actors.settings import choose_ray_settings
from esper_ray.leyline.config.run import RunConfig


def make_crew(
    config: RunConfig,
    *,
    serial: bool,
    keeping: Keeping | None = None,
    label: str = "esper",
    metrics: tuple[str, str] | None = None,
) -> Crew:
    """The crew of one process, or the one on Ray.

    Args:
        keeping: where episodes are kept while they are played.
        label: begins the names of actors.
        metrics: run and group, as metrics name them; without it there is no telemetry actor.

    Raises:
        ResourceError: if the configuration asks for more of a GPU than there is of one.
    """
    if serial:
        return SerialCrew(config, keeping)
    choose_ray_settings()
    from actors.cluster import RayCrew
    from actors.telemetry import EXPORT_SECONDS

    scraped = "RAY_ADDRESS" in os.environ  # a cluster of our own has nobody who looks at its end
    return RayCrew(config, keeping, label, metrics=metrics, linger_s=EXPORT_SECONDS if scraped else 0.0)


@contextmanager
def join_cluster(configs: Sequence[RunConfig]) -> Iterator[None]:
    """Ray for several runs at the same time: the cluster of ``RAY_ADDRESS``, or one with room for all of them.

    Raises:
        ResourceError: if a configuration asks for more of a GPU than there is of one.
    """
    choose_ray_settings()
    import ray

    from actors.joining import start_ray

    start_ray(sum(make_plan(config.system).total("CPU") for config in configs))
    try:
        yield
    finally:
        ray.shutdown()

"""Picks the crew of a run. Ray is only imported if it is needed, and after its settings are chosen."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from esper_actors.cluster.placement import make_plan
from esper_actors.cluster.settings import choose_ray_settings
from esper_actors.rollout.snapshots import SnapshotPolicy
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.workers import WorkerGroup
from esper_ray.leyline.config.run import RunConfig


def make_workers(
    config: RunConfig,
    *,
    serial: bool,
    keeping: SnapshotPolicy | None = None,
    label: str = "esper",
    metrics: tuple[str, str] | None = None,
) -> WorkerGroup:
    """The crew of one process, or the one on Ray.

    Args:
        keeping: where episodes are kept while they are played.
        label: begins the names of actors.
        metrics: run and group, as metrics name them; without it there is no telemetry actor.

    Raises:
        ResourceError: if the configuration asks for more of a GPU than there is of one.
    """
    if serial:
        return LocalWorkerGroup(config, keeping)
    choose_ray_settings()
    from esper_actors.cluster.telemetry_actor import EXPORT_SECONDS
    from esper_actors.cluster.workers import RayWorkerGroup

    scraped = "RAY_ADDRESS" in os.environ  # a cluster of our own has nobody who looks at its end
    return RayWorkerGroup(config, keeping, label, metrics=metrics, linger_s=EXPORT_SECONDS if scraped else 0.0)


@contextmanager
def join_cluster(configs: Sequence[RunConfig]) -> Iterator[None]:
    """Ray for several runs at the same time: the cluster of ``RAY_ADDRESS``, or one with room for all of them.

    Raises:
        ResourceError: if a configuration asks for more of a GPU than there is of one.
    """
    choose_ray_settings()
    import ray

    from esper_actors.cluster.connection import start_ray

    start_ray(sum(make_plan(config.system).total("CPU") for config in configs))
    try:
        yield
    finally:
        ray.shutdown()

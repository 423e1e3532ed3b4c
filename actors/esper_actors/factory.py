"""The factory of worker groups and evaluators. Ray is imported only if it is needed."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from esper_actors.cluster.placement import make_plan
from esper_actors.cluster.settings import choose_ray_settings
from esper_actors.evaluation.candidates import Candidate
from esper_actors.evaluation.pool import EvaluatorPool, LocalEvaluatorPool
from esper_actors.rollout.snapshots import SnapshotPolicy
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.workers import WorkerGroup
from esper_ray.leyline.config.run import RunConfig


def make_workers(
    config: RunConfig,
    *,
    snapshots: SnapshotPolicy | None = None,
    label: str = "esper",
    metrics: tuple[str, str] | None = None,
    scraped: bool | None = None,
) -> WorkerGroup:
    """The worker group that ``system.workers`` selects.

    Args:
        snapshots: where unfinished episodes are saved.
        label: begins the names of actors.
        metrics: run and group, as metrics name them; without it there is no telemetry actor.
        scraped: whether the group waits at the end until the last metrics are scraped; ``None``: on an existing
            cluster only.

    Raises:
        ResourceError: if the configuration requires more of a GPU than there is of one.
    """
    if config.system.workers == "local":
        return LocalWorkerGroup(config, snapshots)
    choose_ray_settings()
    from esper_actors.cluster.metrics_exporter import EXPORT_SECONDS
    from esper_actors.cluster.workers import RayWorkerGroup

    if scraped is None:
        scraped = "RAY_ADDRESS" in os.environ
    return RayWorkerGroup(config, snapshots, label, metrics=metrics, final_scrape_s=EXPORT_SECONDS if scraped else 0.0)


def make_evaluators(
    config: RunConfig, candidates: Mapping[str, Candidate], *, greedy: bool, workers: int | None
) -> EvaluatorPool:
    """The evaluator pool that ``system.workers`` selects: this process, or actors on Ray.

    Args:
        workers: number of actors; ``None``: one for each CPU of the cluster.
    """
    if config.system.workers == "local":
        return LocalEvaluatorPool(config, candidates, greedy=greedy)
    choose_ray_settings()
    from esper_actors.evaluation.actor import RayEvaluatorPool

    return RayEvaluatorPool(config, candidates, greedy=greedy, workers=workers)


@contextmanager
def join_cluster(configs: Sequence[RunConfig]) -> Iterator[None]:
    """Connection to Ray for several runs.

    The runs share the cluster of ``RAY_ADDRESS`` or a local one.

    Raises:
        ResourceError: if a configuration requires more of a GPU than there is of one.
    """
    choose_ray_settings()
    from esper_actors.cluster.connection import connected

    with connected(sum(make_plan(config.system).total("CPU") for config in configs)):
        yield

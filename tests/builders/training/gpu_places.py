"""Prints as JSON where the actors of a run were put in clusters with simulated GPUs.

python tests/builders/training/gpu_places.py one|nodes|nothing
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("PYTHONPATH", str(ROOT))

from esper_actors.cluster.settings import choose_ray_settings  # noqa: E402
from esper_actors.rollout.pool import PlayedEpisode  # noqa: E402
from esper_ray.leyline.config.loading import build, read_preset  # noqa: E402

choose_ray_settings()
import ray  # noqa: E402


@dataclass
class EpisodeLocation:
    """Place of an episode, with the index that the worker group needs."""

    index: int
    gpu: str
    node: str
    process: int


class LocationPlayer:
    """Player whose episodes contain only the place of their process."""

    def __init__(self, *_):
        pass

    def play(self, assignment, *_):
        context = ray.get_runtime_context()
        where = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return PlayedEpisode(EpisodeLocation(assignment.index, where, context.get_node_id(), os.getpid()), seconds=0.0)


def places(**settings):
    """One entry for each environment actor that played."""
    from esper_actors.cluster.workers import RayWorkerGroup
    from esper_actors.rollout.recorder import Assignment
    from esper_actors.training.workers import play_round

    system = {f"system.{key}": value for key, value in settings.items()}
    config = build(read_preset("digits"), {"policy.memory_size": 16, "policy.feature_size": 16} | system)
    locations = {}
    with RayWorkerGroup(config, player=LocationPlayer) as workers:
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
        for _ in range(50):  # until every actor has played an episode
            assignments = [Assignment(index, index % config.system.envs, 0) for index in range(8)]
            for episode in play_round(workers, assignments, 0.0):
                locations[episode.process] = {"gpu": episode.gpu, "node": episode.node}
            if len(locations) == len(workers._workers):
                break
    return {"actors": list(locations.values()), "names": names, "plan": workers.plan()}


def main() -> None:
    """Start the simulated cluster and print the places."""
    kind = sys.argv[1]
    if kind == "nodes":
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(2):
            cluster.add_node(num_cpus=2, num_gpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
    else:
        gpus = {"one": 2, "nothing": 0}[kind]
        ray.init(
            "local", num_cpus=4, num_gpus=gpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
    common = {"envs": 4, "envs_per_actor": 1, "devices": ["cuda:0", "cuda:1"]}
    print(json.dumps(places(**common, placement="strict_spread" if kind == "nodes" else "pack")))  # noqa: T201


if __name__ == "__main__":
    main()

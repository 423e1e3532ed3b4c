"""A driver that starts or resumes a run and logs every executed step.

    python tests/chaos/driver.py FOLDER [--nodes N]

The log ``FOLDER/steps.log`` has a line for each step executed by any process, for each started update and
for each fault, in the order of time.
"""

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("PYTHONPATH", str(ROOT))

from esper_actors.cluster.settings import choose_ray_settings  # noqa: E402
from esper_actors.rollout.pool import EnvironmentPool  # noqa: E402
from esper_actors.rollout.snapshots import SnapshotPolicy  # noqa: E402
from esper_actors.session import train  # noqa: E402
from esper_ray.leyline.config.loading import build, read_preset  # noqa: E402
from esper_ray.leyline.config.run import RunConfig  # noqa: E402
from esper_ray.nissa.runs.observer import RunObserver  # noqa: E402

ROUNDS = 20
SETTINGS = {
    "name": "chaos",
    "episode_length": 8,
    "task.validation_size": 50,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "policy.memory_size": 16,
    "policy.feature_size": 16,
    "ppo.rounds": ROUNDS,
    "ppo.epochs": 2,
    "ppo.checkpoints_kept": 2,
    "system.envs": 4,
    "system.envs_per_actor": 2,
    "system.snapshot_every": 2,
    "system.tries": 5,
}


def chaos_config(**changes: object) -> RunConfig:
    """A run of many small steps; ``ppo__rounds=1`` sets ``ppo.rounds``."""
    return build(read_preset("digits"), SETTINGS | {key.replace("__", "."): value for key, value in changes.items()})


def log_line(folder: Path, *words: object) -> None:
    """Append a line to the log in one short write; lines of several processes do not mix."""
    line = " ".join(str(word) for word in (f"{time.time():.3f}", *words)) + "\n"
    handle = os.open(folder / "steps.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class LoggingPool(EnvironmentPool):
    """Environment pool that logs every step."""

    def __init__(self, config: RunConfig, device: str, count: int, snapshots: SnapshotPolicy) -> None:
        super().__init__(config, device, count, snapshots)
        folder = Path(snapshots.place).parent
        for environment in self._environments:
            env = environment.runner.env
            env.step = self._logging(env, folder)

    @staticmethod
    def _logging(env, folder):
        step = env.step

        def logged_step(action):
            result = step(action)
            log_line(folder, "step", env.episode_seed, env.epoch)
            return result

        return logged_step


class LoggingObserver(RunObserver):
    """Observer that logs driver starts, episodes, updates, rounds and faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run_started(self, context) -> None:
        log_line(self.folder, "driver", os.getpid())

    def episode_finished(self, episode) -> None:
        log_line(self.folder, "episode", episode.index)

    def update_started(self) -> None:
        log_line(self.folder, "updating")

    def round_finished(self, row, timing) -> None:
        log_line(self.folder, "round", row["round"])

    def fault_occurred(self, fault) -> None:
        log_line(
            self.folder, "fault", fault.kind, f"{fault.seconds or 0:.2f}", fault.who, fault.detail.replace("\n", " ")
        )


def main() -> None:
    """Start or resume the run of the folder and finish it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=0, help="nodes besides the head; 0: a local cluster")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    choose_ray_settings()
    import ray

    from esper_actors.cluster.workers import RayWorkerGroup

    config, path = chaos_config(ppo__rounds=options.rounds), options.folder / "run"
    if options.nodes:
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(options.nodes):
            cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
    snapshots = SnapshotPolicy(str(path / "snapshots"), config.system.snapshot_every)
    workers = RayWorkerGroup(config, snapshots, "chaos", player=LoggingPool, metrics=("chaos", ""))
    result = train(config, run=path, workers=workers, observers=[LoggingObserver(path)], should_stop=lambda: False)
    log_line(path, "finished", result.run.read_manifest()["policy_sha256"])


if __name__ == "__main__":
    main()

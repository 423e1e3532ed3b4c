"""Overhead of the controller from 1 to 512 environments, with environments that sleep.

Everything but the networks is real: Ray's actors on simulated nodes, the learner, snapshots of the run, event
log and checkpoints. An environment sleeps for the time of its steps and returns a real episode. Times of
steps are log-normal around a second; one environment in thirty is three times as slow, and growth makes each
slower towards its end.

Overhead is the time of a round beyond its longest episode and the update, which are the lower bound.
"""

import ctypes
import gc
import os
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np

from benchmarks.report import RESULTS, Bar, Measurements
from esper_actors.cluster.settings import choose_ray_settings
from esper_actors.rollout.pool import EnvironmentPool, PlayedEpisode
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_actors.session import train
from esper_actors.training.learner.ppo import PPOLearner
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.run_directory import RunDirectory

ENVIRONMENTS = (1, 8, 64, 256, 512)
NODES = 4
ROUNDS = 3
"""Number of timed rounds, after one warm-up round."""
STEPS = 10
STEP_S = 1.0
SLOW_SHARE, SLOW_FACTOR = 1 / 30, 3.0
SPREAD = 0.15
"""Standard deviation of the logarithm of a step's time."""
GROWTH = 0.5
"""Time of the last step over that of the first."""
WARM_ROUNDS = 60
"""Rounds until what a driver keeps of the newest records is full."""
LONG_ROUNDS = WARM_ROUNDS + 150
LONG_STEP_S = 0.002
PICTURE = RESULTS / "scale.png"


def episode_seconds(seed: int, step_s: float) -> float:
    """Seconds of the episode of this seed."""
    rng = np.random.default_rng(seed)
    factor = SLOW_FACTOR if rng.random() < SLOW_SHARE else 1.0
    steps = rng.lognormal(0.0, SPREAD, STEPS) * np.linspace(1.0, 1.0 + GROWTH, STEPS)
    return float(step_s * factor * steps.sum())


class SleepingPool:
    """Environment pool whose episodes sleep instead of training."""

    def __init__(
        self,
        template: Episode,
        step_s: float,
        config: RunConfig,
        device: str,
        count: int,
        snapshots: SnapshotPolicy | None,
    ) -> None:
        self.template, self.step_s = template, step_s

    def play(self, assignment: Assignment, behaviour: Behaviour, weights: Mapping[str, Any], *_: Any) -> PlayedEpisode:
        """An episode of this environment, after the time of its steps."""
        seconds = episode_seconds(assignment.seed, self.step_s)
        sleep(seconds)
        ids = {"index": assignment.index, "env": assignment.env, "seed": assignment.seed}
        return PlayedEpisode(replace(self.template, **ids), seconds)


@dataclass(frozen=True)
class Scale:
    """Means over rounds."""

    environments: int
    round_s: float
    overhead_share: float
    """Seconds of a round beyond its longest episode and the update."""
    driver_share: float
    """CPU seconds of the driver per second of a round."""
    learner_idle_share: float
    object_store_kib: float
    """KiB of episodes and weights in a round."""
    memory_growth_mib: float
    """Growth of the driver's memory in MiB after :data:`WARM_ROUNDS`, or a quarter of few rounds."""


class TimingObserver(RunObserver):
    """Observer that records the times of rounds."""

    def __init__(self) -> None:
        self.timings: list[dict[str, float]] = []
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.memory_mib: list[float] = []

    def fault_occurred(self, fault: Fault) -> None:
        """Fail, because a fault makes the times invalid."""
        raise RuntimeError(f"a fault while measuring: {fault.describe()}")

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """Record the time."""
        self.timings.append(timing)
        self.ends.append(perf_counter())
        self.cpu.append(process_time())
        if len(self.timings) % 10 == 0:
            gc.collect()
            return_freed_memory()
        self.memory_mib.append(private_mib())


def return_freed_memory() -> None:
    """Return unused memory to the system, where the C library is glibc: else it would look like growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def private_mib() -> float:
    """Resident memory of this process alone, in MiB.

    The object store, which all processes map, is not counted.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 2**10


def scale_config(environments: int, rounds: int) -> RunConfig:
    """Configuration of a run with concurrent environments, on one actor per node."""
    per_actor = max(1, -(-environments // NODES))
    settings = {
        "episode_length": STEPS,
        "policy.memory_size": 64,
        "ppo.rounds": rounds,
        "ppo.checkpoints_kept": 2,
        "system.envs": environments,
        "system.envs_per_actor": per_actor,
        "system.slots_per_actor": per_actor,
        "system.placement": "spread",
    }
    return build(read_preset("digits"), settings)


def template_episode(config: RunConfig) -> Episode:
    """A real episode, the template of all others."""
    behaviour, weights = Behaviour(0, 0, "", 0.1), PPOLearner(config).weights()
    return EnvironmentPool(config, "cpu", 1).play(Assignment(0, 0, 0), behaviour, weights).episode


@contextmanager
def simulated_nodes() -> Any:
    """A head without CPUs, and simulated nodes with many CPUs, all on this machine."""
    choose_ray_settings()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NODES):
        cluster.add_node(num_cpus=4)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure_scale(environments: int, rounds: int, step_s: float) -> Scale:
    """Means over rounds with this number of environments."""
    from ray import cloudpickle

    from esper_actors.cluster.workers import RayWorkerGroup

    config = scale_config(environments, rounds + 1)
    template = template_episode(config)
    observer = TimingObserver()
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.create(Path(folder), config, ["scale"])
        workers = RayWorkerGroup(config, label=f"scale-{environments}", player=partial(SleepingPool, template, step_s))
        train(config, run=directory, workers=workers, observers=[observer])
    weights = len(cloudpickle.dumps(PPOLearner(config).weights()))
    longest = [
        max(episode_seconds(episode_seed(config.seed, index, env), step_s) for env in range(environments))
        for index in range(1, rounds + 1)
    ]
    wall, cpu = observer.ends[-1] - observer.ends[0], observer.cpu[-1] - observer.cpu[0]
    update = sum(timing["update_seconds"] for timing in observer.timings[1:])
    episodes = environments * (len(cloudpickle.dumps(template)) + len(cloudpickle.dumps(replace(template, log=()))))
    early = observer.memory_mib[WARM_ROUNDS if rounds > 2 * WARM_ROUNDS else rounds // 4]
    return Scale(
        environments=environments,
        round_s=wall / rounds,
        overhead_share=(wall - update - sum(longest)) / wall,
        driver_share=cpu / wall,
        learner_idle_share=1.0 - update / wall,
        object_store_kib=(episodes + weights) / 1024,
        memory_growth_mib=observer.memory_mib[-1] - early,
    )


def show(rows: list[Scale]) -> None:
    """Print the table."""
    print("| environments | s per round | overhead | CPU of the driver | learner idle | object store, KiB per round |")
    print("|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.environments} | {row.round_s:.2f} | {row.overhead_share:.2%} | {row.driver_share:.1%} "
            f"| {row.learner_idle_share:.1%} | {row.object_store_kib:,.0f} |"
        )


def draw(rows: list[Scale], path: Path = PICTURE) -> None:
    """Shares of a round by number of environments."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = [row.environments for row in rows]
    lines = {
        "overhead": [row.overhead_share for row in rows],
        "CPU of the driver": [row.driver_share for row in rows],
        "learner at work": [1.0 - row.learner_idle_share for row in rows],
    }
    for (name, values), colour in zip(lines.items(), ("#d1495b", "#4d9de0", "#3bb273"), strict=True):
        left.plot(counts, [100 * value for value in values], marker="o", color=colour, label=name)
    left.axhline(2.0, color="#7d8597", linestyle=":", linewidth=1)
    left.set(xscale="log", xlabel="environments", ylabel="% of a round", title="Steps of about a second")
    left.legend(frameon=False)
    right.plot(counts, [row.environments * STEPS / row.round_s for row in rows], marker="o", color="#22333b")
    right.set(xscale="log", yscale="log", xlabel="environments", ylabel="steps per second", title="Throughput")
    for axes in (left, right):
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def measure() -> Measurements:
    """Overhead at each scale, and memory over many rounds."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with simulated_nodes():
        rows = [measure_scale(count, ROUNDS, STEP_S) for count in ENVIRONMENTS]
        long = measure_scale(64, LONG_ROUNDS, LONG_STEP_S)
    show(rows)
    draw(rows)
    figures: dict[str, float] = {}
    for row in rows:
        figures[f"overhead_share_{row.environments}_envs"] = row.overhead_share
        figures[f"learner_idle_share_{row.environments}_envs"] = row.learner_idle_share
    figures["memory_growth_mib_over_150_rounds"] = long.memory_growth_mib
    bars = {"overhead_share_64_envs": Bar(0.02), "memory_growth_mib_over_150_rounds": Bar(5.0)}
    return Measurements("scale", figures, bars)

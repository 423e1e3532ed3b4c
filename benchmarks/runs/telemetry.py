"""Cost of telemetry: its share of a run for events, Parquet, metrics, samples and the control.

A round of the preset digits, rollout and update, runs in one process. Its episodes and samples are then logged,
compacted, folded into metrics and exported repeatedly; the median time over that of the round is the overhead. The
control without growth adds its share of all rounds. A comparison of two whole runs, with and without telemetry,
would be too noisy.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Bar, Measurements
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.training.listeners import MetricsObserver
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.workers import Watch, play_round
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.metrics.exporter import PrometheusExporter
from esper_ray.nissa.metrics.publisher import MetricsPublisher
from esper_ray.nissa.runs.observer import RunContext
from esper_ray.nissa.runs.run_directory import RunDirectory

REPEATS = 15


def played_round(config: RunConfig) -> tuple[list[Episode], list[Sequence[Record]], float, float]:
    """Episodes of a round, their samples, seconds of a round and of a control."""
    samples: list[Sequence[Record]] = []
    watch = Watch(lambda _: None, lambda _: None, lambda: False, samples.append)
    assignments = [Assignment(env, env, episode_seed(config.seed, 0, env)) for env in range(config.system.envs)]
    with LocalWorkerGroup(config) as workers:
        began = time.perf_counter()
        episodes = play_round(workers, assignments, 0.1, watch)
        workers.update(episodes, 0, watch)
        seconds = time.perf_counter() - began
    env = MorphogenesisEnv(config)
    began = time.perf_counter()
    env.control(assignments[0].seed)
    control = time.perf_counter() - began
    return episodes, samples, seconds - control * config.telemetry.control_episodes, control


def measure() -> Measurements:
    """Seconds per round, and their share of it."""
    config = build(read_preset("digits"))
    episodes, samples, round_seconds, control_seconds = played_round(config)
    records = [record | {"round": 0} for episode in episodes for record in episode.log]
    durations: dict[str, list[float]] = {"events": [], "parquet": [], "metrics": [], "samples": []}
    with tempfile.TemporaryDirectory() as folder, PrometheusExporter("benchmark", "", 0) as exporter:
        publisher = MetricsPublisher(config, exporter)
        run = RunDirectory.create(Path(folder), config, [])
        observer = MetricsObserver(exporters=[exporter])
        observer.run_started(RunContext(config, run, 0, False, "", lambda fault: None))
        for repeat in range(REPEATS):
            log = EventLog(Path(folder) / str(repeat), "benchmark")
            log.folder.mkdir()
            times = [time.perf_counter()]
            log.append(records)
            times.append(time.perf_counter())
            log.compact(always=True)
            times.append(time.perf_counter())
            publisher.records(records)
            times.append(time.perf_counter())
            for batch in samples:
                observer.samples_received(batch)
            run.compact(always=True)
            times.append(time.perf_counter())
            for name, (begin, end) in zip(durations, itertools.pairwise(times), strict=True):
                durations[name].append(end - begin)
    medians = {name: statistics.median(seconds) for name, seconds in durations.items()}
    total = sum(medians.values())
    figures = {"round_seconds": round_seconds, "records": float(len(records))}
    figures |= {f"{name}_ms": 1000.0 * seconds for name, seconds in medians.items()}
    figures["control_seconds"] = control_seconds
    control = control_seconds * config.telemetry.control_episodes / config.ppo.rounds
    figures["overhead_ratio"] = (total + control) / round_seconds
    return Measurements("telemetry", figures, {"overhead_ratio": Bar(0.02)})

"""What telemetry costs: the share of a round that goes into its events, its metrics and making Parquet of it.

A round of the preset digits is played and learnt from in one process. The same episodes are then logged,
compacted, folded into metrics and shown to an exporter again and again; the median of that over the round is
the overhead. Two whole runs, one with and one without, differ by more than that from one time to the next.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path

from actors.crew import QUIET, play
from actors.recording import Assignment
from actors.rollout import episode_seed
from actors.serial import SerialCrew
from benchmarks.report import Bar, Result
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.loading import build, read_preset
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.event_log import EventLog
from esper_ray.nissa.exposition import PrometheusExporter
from esper_ray.nissa.feed import Feed

REPEATS = 15


def _a_round(config: RunConfig) -> tuple[list[Episode], float]:
    """Episodes of a round, and the seconds that playing and learning took."""
    assignments = [Assignment(env, env, episode_seed(config.seed, 0, env)) for env in range(config.system.envs)]
    with SerialCrew(config) as crew:
        began = time.perf_counter()
        episodes = play(crew, assignments, 0.1)
        crew.update(episodes, 0, QUIET)
        return episodes, time.perf_counter() - began


def measure() -> Result:
    """Seconds per round, and their share of it."""
    config = build(read_preset("digits"))
    episodes, round_seconds = _a_round(config)
    records = [record | {"round": 0} for episode in episodes for record in episode.log]
    spent: dict[str, list[float]] = {"events": [], "parquet": [], "metrics": []}
    with tempfile.TemporaryDirectory() as folder, PrometheusExporter("benchmark", "", 0) as exporter:
        feed = Feed(config, exporter)
        for repeat in range(REPEATS):
            log = EventLog(Path(folder) / str(repeat), "benchmark")
            log.folder.mkdir()
            marks = [time.perf_counter()]
            log.append(records)
            marks.append(time.perf_counter())
            log.compact(always=True)
            marks.append(time.perf_counter())
            feed.records(records)
            marks.append(time.perf_counter())
            for name, (begin, end) in zip(spent, itertools.pairwise(marks), strict=True):
                spent[name].append(end - begin)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    total = sum(medians.values())
    figures = {"round_seconds": round_seconds, "records": float(len(records))}
    figures |= {f"{name}_ms": 1000.0 * seconds for name, seconds in medians.items()}
    figures["overhead_ratio"] = total / round_seconds
    return Result("telemetry", figures, {"overhead_ratio": Bar(0.02)})

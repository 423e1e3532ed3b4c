"""Cost of viewers for the run, and for themselves.

The log has 10^5 events by default, and as many as the environment variable ``KARN_EVENTS`` says. Figures of pages
need Chromium and are left out without it. ``KARN_ONLY`` names the groups that are measured, separated by commas; all by
default. The share of telemetry as a whole is in the benchmark ``telemetry``.
"""

import gc
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.karn.logs import ENVS, PART_EVENTS, build, opened, without_summaries
from benchmarks.karn.pages import PAGE_BARS, page_figures
from benchmarks.karn.programs import Server, Terminal, add_live_step, beating, cpu_seconds, playing, resident_mib
from benchmarks.karn.training import TRAINING_BARS, training_figures
from benchmarks.report import Bar, Measurements
from benchmarks.runs.telemetry import played_round
from esper_ray.karn.overwatch.runs.followed import FollowedRun
from esper_ray.karn.overwatch.runs.index import IndexedPlace
from esper_ray.karn.recent import RecentRecords
from esper_ray.leyline.config.loading import build as build_config
from esper_ray.leyline.config.loading import read_preset
from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.nissa.log.part_states import PartStates
from esper_ray.nissa.runs.flight_recorder import FlightRecorder
from esper_ray.nissa.runs.live_steps import LiveSteps
from esper_ray.nissa.runs.pulse import Pulse, PulseWriter
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.state.codec import state_of, summary_text
from esper_ray.nissa.state.run_state import RunState

EVENTS = int(os.environ.get("KARN_EVENTS", "100000"))
FEW_EVENTS = 1000
"""Events of the run with which first screens are compared."""
ONLY = [name for name in os.environ.get("KARN_ONLY", "").split(",") if name]
REPEATS = 3
MEASURED_SECONDS = 10.0
"""Duration of each measurement of programs."""
IDLE_CLIENTS = 20
UPDATES = (1_000, 10_000)
"""Numbers of updates between which the heap may not grow; the second is the least one."""
LARGE = 1_000_000
"""Events from which the bars of ``LARGE_BARS`` hold: below, the lines behind the last part weigh more."""
LARGE_BARS = {"open with summaries over records()": Bar(0.02), "memory of the reader over that of a tenth": Bar(1.3)}
VIEWER_BARS = {
    "viewer files, % of a run": Bar(0.5),
    "open without summaries over records()": Bar(0.5),
    "Sanctum, first screen over that of 10^3 events": Bar(2.0),
    "Overwatch, first state over that of 10^3 events": Bar(2.0),
    "Overwatch, heap after 10^4 updates over 10^3": Bar(1.1),
    "bytes of an update over the state": Bar(0.1),
    "Sanctum, bytes/s of clocks over a screen": Bar(0.02),
    "Sanctum, cores with 64 environments": Bar(0.1),
    "Overwatch, cores with 64 environments": Bar(0.1),
    "Overwatch, MiB for 20 clients that do not read": Bar(20.0),
}
_READER = """
import gc, sys
from pathlib import Path
from benchmarks.karn.logs import opened
from benchmarks.karn.programs import resident_mib
from esper_ray.karn.recent import RecentRecords
from esper_ray.nissa.runs.run_directory import RunDirectory
follower = opened(RunDirectory.open(Path(sys.argv[1])), RecentRecords())
gc.collect()
print(resident_mib("self"))
"""


def _cpu(task: Callable[[], object]) -> float:
    """CPU seconds of a task in this process."""
    began = time.process_time()
    task()
    return time.process_time() - began


def _viewer_share(
    folder: Path, episodes: Sequence[Episode], samples: Sequence[Sequence[Record]], seconds: float
) -> float:
    """Share of a round that pulse, steps in play, fold, summary and recorder take."""
    records = [record | {"round": 0, "seq": number} for e in episodes for number, record in enumerate(e.log)]
    recorder, live, now = FlightRecorder(folder), LiveSteps(folder), time.time()

    def steps() -> None:
        live.start()
        for batch in samples:
            live.add(batch)
            recorder.extend(batch)
        recorder.extend(record for record in records if record["kind"] != "env_epoch")
        live.finish_round(0)

    def fold() -> None:
        state = RunState()
        for record in records:
            state = state.apply(record)

    tasks = (steps, fold, lambda: summary_text(state_of(records), "0" * 64))
    spent = sum(statistics.median(_cpu(task) for _ in range(5)) for task in tasks)
    pulse = PulseWriter(folder, Pulse("playing", now, now, 0, 1, 0, ENVS, "normal"))
    pulse.start()
    beats = _cpu(lambda: time.sleep(5.0)) / 5.0
    pulse.stop("interrupted")
    return spent / seconds + beats


def _opening(run: RunDirectory, folder: Path) -> dict[str, float]:
    """CPU seconds of reading and opening, interleaved."""
    old = without_summaries(run)
    times: dict[str, list[float]] = {"records()": [], "with": [], "with newest records": [], "without": []}
    for repeat in range(REPEATS):
        times["records()"].append(_cpu(lambda: sum(1 for _ in run.events())))
        times["with"].append(_cpu(lambda: opened(run)))
        times["with newest records"].append(_cpu(lambda: opened(run, RecentRecords())))
        cache = folder / f"cache-{repeat}"
        times["without"].append(_cpu(partial(opened, old, states=PartStates(cache))))
    medians = {name: statistics.median(values) for name, values in times.items()}
    reading = medians["records()"]
    return {
        "records(), CPU s": reading,
        "open with summaries over records()": medians["with"] / reading,
        "open with newest records over records()": medians["with newest records"] / reading,
        "open without summaries over records()": medians["without"] / reading,
    }


def _reader_mib(run: RunDirectory) -> float:
    """Memory of a process that has opened a run."""
    result = subprocess.run(
        [sys.executable, "-c", _READER, str(run.path)], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(result.stdout)


def _first_screens(large: RunDirectory, small: RunDirectory) -> dict[str, float]:
    screens: dict[RunDirectory, list[float]] = {large: [], small: []}
    states: dict[RunDirectory, list[float]] = {large: [], small: []}
    for _ in range(REPEATS):
        for run in (large, small):
            with Terminal(run.path) as terminal:
                screens[run].append(terminal.first_screen())
            with Server(run.path) as server:
                states[run].append(server.first_state())
    ratio = {
        name: statistics.median(of[large]) / statistics.median(of[small])
        for name, of in (("screen", screens), ("state", states))
    }
    return {
        "Sanctum, first screen, s": statistics.median(screens[large]),
        "Sanctum, first screen over that of 10^3 events": ratio["screen"],
        "Overwatch, first state, s": statistics.median(states[large]),
        "Overwatch, first state over that of 10^3 events": ratio["state"],
    }


def _updates(run: RunDirectory, steps: Sequence[Record]) -> dict[str, float]:
    """Bytes of an update of one environment, and growth of the heap over many.

    The heap is measured twice at the same step of an episode: the steps in play are kept until their episode ends.
    """
    gc.collect()
    before = sys.getallocatedblocks()
    followed = FollowedRun(IndexedPlace("run", run.path.name, run.path))
    followed.poll()
    whole, round_index = len(followed.shot.text()), len(followed.follower.state.rounds)
    first_episode = max(state.episode for state in followed.follower.state.episodes.values()) + 1
    size, blocks = list[int](), list[int]()
    first, least = UPDATES
    period = ENVS * len(steps)
    last = first + math.ceil((least - first) / period) * period
    for number in range(last):
        step, episode = number // ENVS % len(steps), first_episode + number // ENVS // len(steps) * ENVS
        env, version = number % ENVS, followed.shot.version
        add_live_step(run.path, {**steps[step], "env": env, "episode": episode + env, "round": round_index})
        followed.poll()
        size.append(len(followed.shot.text(version)))
        if number + 1 in (first, last):
            gc.collect()
            blocks.append(sys.getallocatedblocks() - before)
    return {
        "bytes of an update over the state": statistics.median(size) / whole,
        "Overwatch, heap after 10^4 updates over 10^3": blocks[1] / blocks[0],
    }


def _programs(run: RunDirectory, steps: Sequence[Record], rounds: int) -> dict[str, float]:
    """Bytes and CPU of the programs while the run goes on."""
    figures = {}
    with beating(run.path, rounds), Terminal(run.path) as terminal, Server(run.path) as server:
        terminal.first_screen()
        screen = terminal.full_screen()
        figures["Sanctum, bytes/s of clocks over a screen"] = (
            len(terminal.output(MEASURED_SECONDS)) / MEASURED_SECONDS / screen
        )
        server.reader()
        with playing(run.path, steps, rounds * ENVS):
            terminal.output(3.0)
            pids = {"Sanctum": terminal.process.pid, "Overwatch": server.process.pid}
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            terminal.output(MEASURED_SECONDS)
            for name, pid in pids.items():
                figures[f"{name}, cores with 64 environments"] = (cpu_seconds(pid) - before[name]) / MEASURED_SECONDS
            memory = resident_mib(server.process.pid)
            for _ in range(IDLE_CLIENTS):
                server.client(receive_bytes=4096)
            terminal.output(3 * MEASURED_SECONDS)
            figures["Overwatch, MiB for 20 clients that do not read"] = resident_mib(server.process.pid) - memory
    return figures


def _memory(large: RunDirectory, tenth: RunDirectory, empty: RunDirectory) -> dict[str, float]:
    base = _reader_mib(empty)
    above = _reader_mib(large) - base
    return {
        "memory of the reader, MiB above an empty run": above,
        "memory of the reader over that of a tenth": above / max(1.0, _reader_mib(tenth) - base),
    }


def _wanted(group: str) -> bool:
    return not ONLY or group in ONLY


def measure() -> Measurements:
    """All figures, or those of the groups in ``KARN_ONLY``."""
    config = build_config(read_preset("digits"))
    episodes, samples, seconds, control = played_round(config)
    seconds += control * config.telemetry.control_episodes
    steps = [record | {"round": 0} for record in episodes[0].log if record["kind"] == "env_epoch"]
    figures: dict[str, float] = {"events": float(EVENTS), "events of a part": float(PART_EVENTS)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = folder / "runs"
        runs.mkdir()
        if _wanted("files"):
            figures["viewer files, % of a run"] = 100.0 * _viewer_share(folder, episodes, samples, seconds)
        large, tenth, small, empty = (
            build(runs, config, episodes, count) for count in (EVENTS, EVENTS // 10, FEW_EVENTS, 1)
        )
        groups: dict[str, Callable[[], dict[str, float]]] = {
            "opening": lambda: _opening(large, folder),
            "memory": lambda: _memory(large, tenth, empty),
            "screens": lambda: _first_screens(large, small),
            "updates": lambda: _updates(small, steps),
            "programs": lambda: _programs(large, steps, len(opened(large).state.rounds)),
            "pages": lambda: page_figures(large, small, steps, folder),
            "training": lambda: training_figures(folder),
        }
        for name, group in groups.items():
            if _wanted(name):
                figures |= group()
    bars = VIEWER_BARS | PAGE_BARS | TRAINING_BARS | (LARGE_BARS if EVENTS >= LARGE else {})
    return Measurements("karn", figures, {name: bar for name, bar in bars.items() if name in figures})

"""Scenarios of killed processes, with results and recovery times.

    python tests/chaos/scenarios.py
    python tests/chaos/scenarios.py "two drivers" "GCS killed"

prints tables of disturbances and of kills, with results and times; with names, only these rows of the disturbances.
Times depend on the machine.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from disturbances import DISTURBANCES, Disturbance, disturbed, table_row, undisturbed  # noqa: E402
from driver import ROUNDS, LoggingObserver, chaos_config  # noqa: E402
from monkey import Monkey, Outcome, plan  # noqa: E402

from esper_actors.session import train  # noqa: E402
from esper_actors.training.local import LocalWorkerGroup  # noqa: E402
from esper_actors.training.workers import WorkerGroup  # noqa: E402
from esper_ray.leyline.config.run import RunConfig  # noqa: E402
from esper_ray.nissa.runs.run_directory import RunDirectory  # noqa: E402

ACTORS = {"environment": 9, "learner": 5, "telemetry": 2, "driver": 4}
"""Twenty kills in one run."""
NODES = {"node": 1}
EACH = {"environment": 1, "learner": 1, "telemetry": 1, "driver": 1, "node": 1}
"""One kill of each kind."""


@dataclass(frozen=True)
class ReferenceRun:
    """Results of a run without kills."""

    digest: str
    rounds: bytes
    events: list[dict[str, Any]]
    steps: int


def reference_run(
    folder: Path, make: Callable[[RunConfig], WorkerGroup] = LocalWorkerGroup, rounds: int = ROUNDS
) -> ReferenceRun:
    """Results of the run in one process without kills."""
    config = chaos_config(ppo__rounds=rounds)
    directory = RunDirectory.create(folder, config, ["chaos"], "run")
    result = train(config, run=directory, workers=make(config), observers=[LoggingObserver(folder)])
    digest, steps = directory.read_manifest()["policy_sha256"], result.progress.env_steps
    return ReferenceRun(digest, (directory.path / "rounds.csv").read_bytes(), events_of(directory), steps)


def events_of(run: RunDirectory) -> list[dict[str, Any]]:
    """Complete event log of a run.

    Raises:
        EventLogError: if an event is missing.
    """
    return list(run.events(evidence=True))


def disturbed_run(
    folder: Path, counts: dict[str, int], reference: ReferenceRun, nodes: int = 0, rounds: int = ROUNDS
) -> tuple[Outcome, list[str]]:
    """Outcome of a run with kills at seeded steps, and names of its differences from the reference."""
    outcome = Monkey(folder, plan(seed=6, counts=counts, steps=reference.steps), nodes, rounds).run()
    run = RunDirectory.open(folder / "run")
    pairs = {
        "weights": (outcome.digest, reference.digest),
        "rounds": ((run.path / "rounds.csv").read_bytes(), reference.rounds),
        "events": (events_of(run), reference.events),
    }
    return outcome, [name for name, (result, expected) in pairs.items() if result != expected]


def main() -> None:
    """Print the tables; exit code 1 if a run reacted or ended in another way than it should."""
    names = [row.name for row in DISTURBANCES]
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of: {', '.join(names)}")
    chosen = parser.parse_args().rows
    if unknown := set(chosen) - set(names):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    problems = print_disturbances([row for row in DISTURBANCES if not chosen or row.name in chosen])
    if not chosen:
        problems += print_kills()
    raise SystemExit(problems > 0)


def print_kills() -> int:
    """Print the table of killed processes; returns the number of runs with other results."""
    problems = 0
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / part for part in ("reference", "actors", "nodes")]
        for folder in folders:
            folder.mkdir()
        reference = reference_run(folders[0])
        print("| killed | times | results | seconds to recover, median (worst) |\n|---|---:|---|---:|")
        notes = []
        for folder, counts, nodes in ((folders[1], ACTORS, 0), (folders[2], NODES, 2)):
            outcome, different = disturbed_run(folder, counts, reference, nodes)
            problems += bool(different)
            notes.append(f"{sum(counts.values())} kills: {outcome.repeated} of {reference.steps} steps executed again")
            for kind, times in Counter(outcome.kills).items():
                seconds = sorted(outcome.recoveries.get(kind, []))
                took = f"{seconds[len(seconds) // 2]:.1f} ({seconds[-1]:.1f})" if seconds else "not measured"
                print(
                    f"| {kind} | {times} | {f'DIFFERENT {different}' if different else 'identical'} | {took} |",
                    flush=True,
                )
        print("\n" + "; ".join(notes))
    return problems


def print_disturbances(rows: Sequence[Disturbance]) -> int:
    """Print the table of disturbances; returns the number of rows with a problem."""
    print("| disturbance | reaction | results after resuming | seconds to the end |\n|---|---|---|---:|", flush=True)
    problems = 0
    with tempfile.TemporaryDirectory() as name:
        reference = undisturbed(Path(name) / "reference")
        for number, row in enumerate(rows):
            folder = Path(name) / str(number)
            folder.mkdir()
            answer = disturbed(folder, row, reference)
            problems += bool(answer.problems(row))
            print(table_row(row, answer), flush=True)
    print()
    return problems


if __name__ == "__main__":
    main()

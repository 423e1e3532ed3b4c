"""Runs that lose processes, and what they lose by it.

    python tests/chaos/scenarios.py

prints the table of the README. Times are those of the machine that it runs on.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from driver import ROUNDS, Noting, chaos_config  # noqa: E402
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
class Quiet:
    """A run that nobody disturbs."""

    digest: str
    rounds: bytes
    events: list[dict[str, Any]]
    steps: int


def quiet_run(folder: Path, make: Callable[[RunConfig], WorkerGroup] = LocalWorkerGroup, rounds: int = ROUNDS) -> Quiet:
    """The run in one process."""
    config = chaos_config(ppo__rounds=rounds)
    directory = RunDirectory.create(folder, config, ["chaos"], "run")
    result = train(config, run=directory, workers=make(config), observers=[Noting(folder)])
    digest, steps = directory.read_manifest()["policy_sha256"], result.progress.env_steps
    return Quiet(digest, (directory.path / "rounds.csv").read_bytes(), events_of(directory), steps)


def events_of(run: RunDirectory) -> list[dict[str, Any]]:
    """Everything that a run has logged.

    Raises:
        EventLogError: if anything is missing.
    """
    return list(run.events(evidence=True))


def disturbed_run(
    folder: Path, counts: dict[str, int], quiet: Quiet, nodes: int = 0, rounds: int = ROUNDS
) -> tuple[Outcome, list[str]]:
    """A run with kills at seeded steps; what it came to, and in what it differs from the quiet one."""
    outcome = Monkey(folder, plan(seed=6, counts=counts, steps=quiet.steps), nodes, rounds).run()
    run = RunDirectory.open(folder / "run")
    pairs = {
        "weights": (outcome.digest, quiet.digest),
        "rounds": ((run.path / "rounds.csv").read_bytes(), quiet.rounds),
        "events": (events_of(run), quiet.events),
    }
    return outcome, [name for name, (found, expected) in pairs.items() if found != expected]


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / part for part in ("quiet", "actors", "nodes")]
        for folder in folders:
            folder.mkdir()
        quiet = quiet_run(folders[0])
        print("| killed | times | results | seconds to recover, median (worst) |\n|---|---:|---|---:|")
        notes = []
        for folder, counts, nodes in ((folders[1], ACTORS, 0), (folders[2], NODES, 2)):
            outcome, different = disturbed_run(folder, counts, quiet, nodes)
            notes.append(f"{sum(counts.values())} kills: {outcome.repeated} of {quiet.steps} steps executed again")
            for kind, times in Counter(outcome.kills).items():
                seconds = sorted(outcome.recoveries.get(kind, []))
                took = f"{seconds[len(seconds) // 2]:.1f} ({seconds[-1]:.1f})" if seconds else "not awaited"
                print(
                    f"| {kind} | {times} | {f'DIFFERENT {different}' if different else 'identical'} | {took} |",
                    flush=True,
                )
        print("\n" + "; ".join(notes))


if __name__ == "__main__":
    main()

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

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from driver import Noting, chaos_config  # noqa: E402
from monkey import Monkey, Outcome, plan  # noqa: E402

from actors.controller import Controller  # noqa: E402
from actors.crew import Crew  # noqa: E402
from actors.serial import SerialCrew  # noqa: E402
from esper_ray.leyline.config import RunConfig  # noqa: E402
from esper_ray.nissa.run_directory import RunDirectory  # noqa: E402

ACTORS = {"environment": 10, "learner": 6, "driver": 4}
"""Twenty kills in one run."""
NODES = {"node": 1}


@dataclass(frozen=True)
class Quiet:
    """A run that nobody disturbs."""

    digest: str
    rounds: bytes
    steps: int


def quiet_run(folder: Path, make: Callable[[RunConfig], Crew] = SerialCrew) -> Quiet:
    """The run in one process."""
    config = chaos_config()
    directory = RunDirectory.create(folder, config, ["chaos"], "run")
    with make(config) as crew:
        controller = Controller(config, crew, directory, Noting(folder), lambda: False)
        controller.start()
        controller.run()
        digest = controller.weights_digest()
        steps = controller.progress.env_steps
    return Quiet(digest, (directory.path / "rounds.csv").read_bytes(), steps)


def disturbed_run(folder: Path, counts: dict[str, int], steps: int, nodes: int = 0) -> tuple[Outcome, bytes]:
    """A run with kills at seeded steps; what it came to, and its ``rounds.csv``."""
    outcome = Monkey(folder, plan(seed=6, counts=counts, steps=steps), nodes).run()
    return outcome, (folder / "run" / "rounds.csv").read_bytes()


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
            outcome, rounds = disturbed_run(folder, counts, quiet.steps, nodes)
            same = outcome.digest == quiet.digest and rounds == quiet.rounds
            notes.append(f"{sum(counts.values())} kills: {outcome.repeated} of {quiet.steps} steps executed again")
            for kind, times in Counter(outcome.kills).items():
                seconds = sorted(outcome.recoveries.get(kind, []))
                took = f"{seconds[len(seconds) // 2]:.1f} ({seconds[-1]:.1f})" if seconds else "not awaited"
                print(f"| {kind} | {times} | {'identical' if same else 'DIFFERENT'} | {took} |", flush=True)
        print("\n" + "; ".join(notes))


if __name__ == "__main__":
    main()

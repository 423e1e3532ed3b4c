"""The command ``esper`` with an injected fault.

    python tests/chaos/faulty.py KIND COUNT MARK ARGUMENTS ...

The fault begins after COUNT occasions of its kind: a write, a change of the file system, a reading of the clock, a
result of an environment actor. The file MARK is made then.
"""

import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "builders"))

from disk_faults import Occasions, full_disk, read_only

from esper_ray.cli.main import main
from esper_ray.leyline.files import durable
from esper_ray.nissa.runs import run_directory

JUMP_SECONDS = -400 * 86_400.0
"""A clock that is set back by more than a year."""


class MarkedOccasions(Occasions):
    """Occasions that make a file when the fault begins."""

    def __init__(self, allowed: int, mark: Path) -> None:
        super().__init__(allowed)
        self._mark: Path | None = mark

    def __call__(self) -> bool:
        is_due = super().__call__()
        if is_due and self._mark is not None:
            self._mark.touch()
            self._mark = None
        return is_due


def fill_disk(due: Occasions) -> None:
    """Refuse writes that let a file grow."""
    durable.write_all = full_disk(due)


def make_read_only(due: Occasions) -> None:
    """Refuse every change of the file system."""
    durable.changing = read_only(due)


def set_clock_back(due: Occasions) -> None:
    """Set the clock of this process back."""
    now = time.time

    class JumpingDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return super().now(tz) + timedelta(seconds=JUMP_SECONDS if due() else 0.0)

    time.time = lambda: now() + (JUMP_SECONDS if due() else 0.0)
    run_directory.datetime = JumpingDatetime


def kill_for_memory(due: Occasions) -> None:
    """Kill the actor of one result, as Ray's memory monitor does."""
    from ray.exceptions import OutOfMemoryError

    from esper_actors.cluster import workers

    on_result = workers.RayWorkerGroup._on_result

    def killed(group: Any, reference: Any, watch: Any) -> None:
        if not due() or group.killed_for_memory:
            return on_result(group, reference, watch)
        group.killed_for_memory = True
        worker, _, task = group._running.pop(reference)
        error = OutOfMemoryError("Memory on the node was 0.97 of its size. Ray killed this worker.")
        group._restart(worker, error, watch)  # kills its process
        group._failed(task, workers.reason(error), watch)
        return None

    workers.RayWorkerGroup.killed_for_memory = False
    workers.RayWorkerGroup._on_result = killed


FAULTS: dict[str, Callable[[Occasions], None]] = {
    "full-disk": fill_disk,
    "read-only": make_read_only,
    "clock": set_clock_back,
    "memory": kill_for_memory,
}


if __name__ == "__main__":
    kind, count, mark = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if kind == "memory":
        from esper_actors.cluster.settings import choose_ray_settings

        choose_ray_settings()  # before Ray is imported
    FAULTS[kind](MarkedOccasions(count, mark))
    sys.argv[1:] = sys.argv[4:]
    main()

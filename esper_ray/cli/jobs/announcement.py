"""Announcement of a run to the process that has started its command.

That process (``--sanctum``) passes the descriptor of a pipe in :data:`CHANNEL`. The command writes the path of its run
into it once the run exists; from then on its output is in ``console.log`` there. What was printed before is copied.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from esper_ray.leyline.files.durable import changing, write_all
from esper_ray.leyline.names import CONSOLE_LOG
from esper_ray.nissa.runs.observer import RunContext, RunObserver

CHANNEL = "ESPER_ANNOUNCEMENT"
"""Environment variable with the descriptor."""
END_OF_PATH = b"\0"
"""End of the announcement."""
_OUTPUTS = (1, 2)


def announce(folder: Path) -> None:
    """Announce a run, comparison or sweep that exists. Nothing happens if no process waits for it.

    Raises:
        WriteError: if ``console.log`` cannot be written.
    """
    text = os.environ.pop(CHANNEL, None)
    if text is None:
        return
    channel, path = int(text), folder / CONSOLE_LOG
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with changing(path):
        console = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        write_all(console, os.pread(_OUTPUTS[0], os.fstat(_OUTPUTS[0]).st_size, 0))
    for output in _OUTPUTS:
        os.dup2(console, output)
    os.close(console)
    with suppress(OSError):  # nobody waits any more: the run continues
        write_all(channel, os.fsencode(folder.absolute()) + END_OF_PATH)
    os.close(channel)


class AnnouncingObserver(RunObserver):
    """Observer that announces the run, or the comparison of which it is a side."""

    def __init__(self, *, is_side: bool = False) -> None:
        """
        Args:
            is_side: whether the folder above the run is announced.
        """
        self._is_side = is_side

    def run_opened(self, context: RunContext) -> None:
        announce(context.run.path.parent if self._is_side else context.run.path)

"""A request for a recording, by a signal to the driver of a run."""

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROC = Path("/proc")
CLOCK_SECONDS = 2.0
"""Seconds by which the start of a process, from the clock since boot, may differ from the wall clock."""


def recording_request(run: str, pulse: Mapping[str, Any] | None, *, gone: bool, proc: Path = PROC) -> str:
    """One line about a request for a recording, which is a SIGUSR1 to the driver.

    The signal is only sent to a process of this user on this machine that is the driver and handles the signal.

    Args:
        run: path of the run, for the command in the line.
        gone: whether the pulse has stopped.
        proc: folder of the processes, for tests.
    """
    reason = _obstacle(pulse, gone, proc)
    if reason is not None or pulse is None:
        return f"no recording: {reason}; `esper flight {run}` shows what there is"
    try:
        os.kill(int(pulse["pid"]), signal.SIGUSR1)
    except OSError as error:
        return f"no recording: {error.strerror}"
    return f"a recording is being written; `esper flight {run}` shows it"


def _obstacle(pulse: Mapping[str, Any] | None, gone: bool, proc: Path) -> str | None:
    """Why the driver cannot be asked; ``None`` if it can."""
    if pulse is None:
        return "the run has no pulse, it has not started or is of an older version"
    if pulse["phase"] == "ended":
        return "the run is over"
    here = socket.gethostname()
    if pulse["host"] != here:
        return f"the driver runs on {pulse['host']}, this is {here}"
    if gone:
        return "the driver does not beat"
    folder = proc / str(int(pulse["pid"]))
    try:
        owner, started, handled = folder.stat().st_uid, _start(folder, proc), _handles(folder)
    except (OSError, ValueError, IndexError):
        return f"process {pulse['pid']} is not seen on this machine"
    if owner != os.getuid():
        return f"process {pulse['pid']} belongs to another user"
    if started > float(pulse["time"]) + CLOCK_SECONDS:
        return f"process {pulse['pid']} has started after the newest beat: it is another program"
    return None if handled else f"process {pulse['pid']} does not handle SIGUSR1"


def _start(folder: Path, proc: Path) -> float:
    """Unix time at which a process started, in seconds."""
    ticks = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
    boot = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def _handles(folder: Path) -> bool:
    """Whether a process has a handler for SIGUSR1, which otherwise ends it."""
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    return bool(int(status["SigCgt"], 16) >> (signal.SIGUSR1 - 1) & 1)

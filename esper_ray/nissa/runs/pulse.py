"""The pulse of a run: a small file, replaced every second, by which a viewer in another process knows that it lives.

Clocks of two machines are never compared. A viewer notes when it saw ``beat`` change, by its own clock.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from esper_ray.leyline.files.durable import WriteError, rewrite_file

PULSE = "pulse.json"
BEAT_SECONDS = 1.0
JOIN_SECONDS = 5.0
"""Longest wait, in seconds, for the last beat to be written."""
Phase = Literal["starting", "playing", "learning", "saving", "ended"]


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the driver of a run is doing. Times are Unix times of the driver's machine, in seconds."""

    phase: Phase
    since: float
    """Begin of the phase."""
    moved: float
    """When the main thread of the driver last reported."""
    round: int
    """Rounds that are finished."""
    rounds: int
    """Rounds of the whole run."""
    episodes: int
    """Finished episodes of the round in play."""
    of: int
    """Episodes of a round."""
    telemetry: str
    """Level of telemetry: ``off``, ``normal`` or ``debug``."""
    status: str = "running"
    """``running``, and at the end ``finished``, ``interrupted`` or ``failed``."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Addresses of other views of the run, by name."""
    beat: int = 0
    """Number of this beat; it grows while the driver lives."""
    time: float = 0.0
    pid: int = 0
    host: str = ""


class PulseWriter:
    """Writer of the pulse, with a thread that beats while the main thread is busy.

    A pulse that cannot be written never disturbs the run: ``problem`` holds the reason until a later beat succeeds.
    """

    def __init__(self, folder: Path, pulse: Pulse, now: Callable[[], float] = time.time) -> None:
        self._path, self._now = folder / PULSE, now
        self._pulse = replace(pulse, pid=os.getpid(), host=socket.gethostname())
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="pulse", daemon=True)
        self.problem: str | None = None
        """Why the newest beat was not written; ``None`` if it was."""

    def start(self) -> None:
        """Write the first beat, and beat on."""
        self._beat()
        self._thread.start()

    def report(self, phase: Phase | None = None, **changes: Any) -> None:
        """Note that the main thread has moved.

        Args:
            phase: the phase that begins; ``None``: the present one goes on.
            changes: other values of the pulse.
        """
        moment = self._now()
        with self._lock:
            if phase is not None and phase != self._pulse.phase:
                changes |= {"phase": phase, "since": moment}
            self._pulse = replace(self._pulse, moved=moment, **changes)

    def stop(self, status: str) -> None:
        """Write the last beat, with how the run ended."""
        self.report("ended", status=status)
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)
        self._beat()

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            self._pulse = replace(self._pulse, beat=self._pulse.beat + 1, time=self._now())
            text = json.dumps(asdict(self._pulse)) + "\n"
        try:
            rewrite_file(self._path, text, flush=False)
            self.problem = None
        except WriteError as error:
            self.problem = str(error)

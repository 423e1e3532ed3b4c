"""Where the time of something goes."""

import time


class Stopwatch:
    """Adds up wall time by phase. Whoever launches work on a GPU does not wait for it: it is in a later phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """What has passed since the last call, or the beginning, went into ``phase``."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

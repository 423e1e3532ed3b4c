"""Kills of processes at seeded steps, with repeated steps and recovery times."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

DRIVER = Path(__file__).with_name("driver.py")
PATIENCE_S = 240.0
"""Seconds without a new line in the log after which a run counts as hanging."""


@dataclass(frozen=True)
class Kill:
    """Kill of one process after a number of executed steps."""

    kind: str
    """environment, learner, telemetry, driver or node."""
    at_step: int
    delay_s: float
    """Time between the awaited event and the kill."""


@dataclass
class Outcome:
    """Result of a run with kills."""

    digest: str
    kills: list[str] = field(default_factory=list)
    """Kinds, in the order of the kills."""
    repeated: int = 0
    """Number of repeated executions of steps."""
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    """Seconds until the killed process worked again, by kind."""


def plan(seed: int, counts: dict[str, int], steps: int) -> list[Kill]:
    """Kills at random steps; a learner is killed during an update.

    The last fifth of the steps has no planned kill, so that late kills still happen.
    """
    rng = random.Random(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    rng.shuffle(kinds)
    moments = sorted(rng.sample(range(3, steps * 4 // 5), len(kinds)))
    return [Kill(kind, step, rng.uniform(0.0, 0.03)) for kind, step in zip(kinds, moments, strict=True)]


class Monkey:
    """Runner of the driver, restarted after each kill until the run is finished."""

    def __init__(self, folder: Path, kills: list[Kill], nodes: int, rounds: int) -> None:
        self.folder, self.rounds = folder, rounds
        self.log = folder / "run" / "steps.log"
        self.waiting = list(kills)
        self.nodes = nodes
        self.outcome = Outcome("")
        self._process: subprocess.Popen[bytes] | None = None
        self._seen = 0
        self._steps = 0
        self._killed: dict[str, float] = {}
        """Times of the kills without recovery so far, by kind."""

    def run(self) -> Outcome:
        """Execute all planned kills.

        Raises:
            AssertionError: if the driver fails on its own, or the run hangs.
        """
        self._start()
        try:
            last_line_time = time.monotonic()
            while not self.outcome.digest:
                lines = self._new_lines()
                last_line_time = time.monotonic() if lines else last_line_time
                for line in lines:
                    self._process_line(line.split(" "))
                if not lines:
                    assert time.monotonic() - last_line_time < PATIENCE_S, f"no new line in the log for {PATIENCE_S} s"
                    assert self._process.poll() is None or self.outcome.digest, self._errors()
                    time.sleep(0.005)
            self._process.wait(60)
        finally:
            end(self._process)
        self.outcome.repeated = sum(count - 1 for count in self._executed().values())
        return self.outcome

    def _start(self) -> None:
        command = [sys.executable, str(DRIVER), str(self.folder), "--nodes", str(self.nodes)]
        command += ["--rounds", str(self.rounds)]
        with (self.folder / "driver.err").open("ab") as errors:
            self._process = subprocess.Popen(command, stdout=errors, stderr=errors, start_new_session=True)

    def _errors(self) -> str:
        return (self.folder / "driver.err").read_text()[-3000:]

    def _new_lines(self) -> list[str]:
        if not self.log.exists():
            return []
        text = self.log.read_text()
        whole = text[: text.rfind("\n") + 1].splitlines()
        new, self._seen = whole[self._seen :], len(whole)
        return new

    def _process_line(self, words: list[str]) -> None:
        moment, kind = float(words[0]), words[1]
        if kind == "finished":
            self.outcome.digest = words[2]
        for killed, since in list(self._killed.items()):
            if moment > since and _is_recovered(killed, words):
                duration = moment - since if killed == "driver" else float(words[3])
                self.outcome.recoveries.setdefault(killed, []).append(duration)
                del self._killed[killed]
        self._steps += kind == "step"
        if not self.waiting or self._steps < self.waiting[0].at_step:
            return
        planned = self.waiting[0]
        if kind == ("updating" if planned.kind == "learner" else "step"):
            time.sleep(planned.delay_s)
            if self._kill(planned.kind):
                self.waiting.pop(0)

    def _kill(self, kind: str) -> bool:
        family = psutil.Process(self._process.pid).children(recursive=True)
        if kind == "driver":
            victims = [self._process.pid]
        elif kind == "node":
            victims = self._node(family)
        else:
            named = [process for process in family if _is_actor(process, f"{kind.capitalize()}Actor")]
            victims = [random.Random(self._steps).choice(named).pid] if named else []
        if not victims:
            return False
        self._killed[kind] = time.time()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        self.outcome.kills.append(kind)
        if kind == "driver":
            self._process.wait()
            self._killed = {"driver": self._killed["driver"]}
            for process in family:
                _kill_quietly(process)
            self._start()
        return True

    @staticmethod
    def _node(family: list[psutil.Process]) -> list[int]:
        """The raylet of a node that has an environment actor, and all processes below it."""
        for raylet in family:
            below = raylet.children(recursive=True) if "raylet/raylet" in _title(raylet) else []
            if any(_is_actor(process, "EnvironmentActor") for process in below):
                return [raylet.pid, *(process.pid for process in below)]
        return []

    def _executed(self) -> Counter[tuple[str, str]]:
        words = (line.split(" ") for line in self.log.read_text().splitlines())
        return Counter((w[2], w[3]) for w in words if w[1] == "step")


def _is_recovered(killed: str, words: list[str]) -> bool:
    """Whether this line shows that the killed process works again."""
    if killed == "driver":
        return words[1] == "driver"
    recovered = {"learner": "learner_recovered", "telemetry": "telemetry_actor_recovered"}
    return words[1] == "fault" and words[2] == recovered.get(killed, "environment_actor_recovered")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a driver and all processes that it started."""
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for child in family:
            _kill_quietly(child)


def _is_actor(process: psutil.Process, kind: str) -> bool:
    title = _title(process)
    return title.startswith("ray::") and kind in title


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill_quietly(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return

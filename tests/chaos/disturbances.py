"""Disturbances of a run of the command line, what it says, and its results when it has been resumed.

A row of :data:`DISTURBANCES` is one disturbance. The run is started as a process of its own, disturbed in its third
round or by an injected fault, and resumed without Ray if it has ended. It must end or continue as the row says, in
bounded time, and have the weights, ``rounds.csv`` and events of an undisturbed run.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from monkey import end

from esper_ray.nissa.runs.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
FAULTY = Path(__file__).with_name("faulty.py")
ESPER = (sys.executable, "-m", "esper_ray.cli.main")
ROUNDS = 5
RUN = (
    *("train", "ppo", "--preset", "digits", "--rounds", str(ROUNDS), "--envs", "4", "--episode-length", "8"),
    *("--envs-per-actor", "2", "--memory-size", "16", "--ppo-epochs", "1", "--seed", "7"),
    *("--set", "policy.feature_size=16", "--set", "training.steps_per_epoch=2", "--set", "training.batch_size=16"),
    *("--set", "task.validation_size=50", "--set", "system.snapshot_every=2", "--set", "name=chaos"),
)
DISTURBED_ROUND = 2
"""Finished rounds at the disturbance."""
START_SECONDS = 180.0
PAUSE_SECONDS = 5.0
SAFE = (r"safe: .*/checkpoints/round-0000\d, after \d of 5 rounds", r"resume with: esper train ppo --resume .*/run")
"""Lines of a run that ends in the middle."""

Act = Callable[["subprocess.Popen[bytes]"], None]


@dataclass(frozen=True)
class Disturbance:
    """One disturbance, and how the run has to react."""

    name: str
    act: Act | None = None
    """What is done to the process; ``None`` for an injected fault."""
    fault: tuple[str, int] | None = None
    """Kind of a fault of ``faulty.py``, and number of occasions before it."""
    ray: bool = False
    """Whether the run is on Ray; else in one process."""
    code: int = 0
    """Exit code."""
    status: str = "finished"
    """Status in the manifest before the run is resumed."""
    says: Sequence[str] = ()
    """Patterns of its output."""
    limit_s: float = 60.0
    """Longest time from the disturbance to the end of the process."""


@dataclass(frozen=True)
class Answer:
    """The reaction of a run, and names of the differences of the resumed run from the reference."""

    code: int
    status: str
    seconds: float | None
    """From the disturbance to the end of the process; ``None`` if the injected fault did not happen."""
    output: str
    differences: list[str]

    def problems(self, expected: Disturbance) -> list[str]:
        """Differences from the expected reaction, and of the results."""
        problems = [f"{name} differ" for name in self.differences]
        if self.code != expected.code:
            problems.append(f"exit code {self.code}, expected {expected.code}")
        if self.status != expected.status:
            problems.append(f"status {self.status!r}, expected {expected.status!r}")
        problems += [f"output lacks {text!r}" for text in expected.says if not re.search(text, self.output)]
        if "Traceback" in self.output:
            problems.append("output has a traceback")
        if self.seconds is None:
            problems.append("the fault did not happen")
        elif self.seconds > expected.limit_s:
            problems.append(f"it took {self.seconds:.0f} s, the limit is {expected.limit_s:.0f} s")
        return problems


def send(number: signal.Signals) -> Act:
    """Act that sends a signal to the process."""
    return lambda process: process.send_signal(number)


def pause(process: "subprocess.Popen[bytes]") -> None:
    """Stop the process, and resume it a while later."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    process.send_signal(signal.SIGCONT)


def kill_process(name: str) -> Act:
    """Act that kills the child process whose executable is ``name``."""

    def kill(process: "subprocess.Popen[bytes]") -> None:
        children = psutil.Process(process.pid).children(recursive=True)
        (victim,) = (child for child in children if child.name() == name)
        victim.kill()

    return kill


def start_second_driver(process: "subprocess.Popen[bytes]") -> None:
    """Start a second driver of the same run, which has to be refused. The first one waits, so that it cannot end."""
    words = psutil.Process(process.pid).cmdline()
    run = Path(words[words.index("--telemetry-dir") + 1], words[words.index("--run-id") + 1])
    command = [*ESPER, "train", "ppo", "--resume", run, "--serial"]
    process.send_signal(signal.SIGSTOP)
    try:
        second = subprocess.run(command, env=environment(), check=False, capture_output=True, text=True)
    finally:
        process.send_signal(signal.SIGCONT)
    assert second.returncode == 2, f"a second driver ended with exit code {second.returncode}"
    assert f"{run} is being run by process {process.pid} on " in second.stderr, second.stderr


STOPPED = (r"stopped after \d of 5 rounds; saved .*/checkpoints/round-0000\d", SAFE[1])
DISTURBANCES = (
    Disturbance("SIGKILL", send(signal.SIGKILL), ray=True, code=-signal.SIGKILL, status="running"),
    Disturbance("SIGTERM", send(signal.SIGTERM), ray=True, code=143, status="interrupted", says=STOPPED),
    Disturbance("SIGINT", send(signal.SIGINT), ray=True, code=130, status="interrupted", says=STOPPED),
    Disturbance("SIGHUP", send(signal.SIGHUP), ray=True, code=129, status="interrupted", says=STOPPED),
    Disturbance("SIGSTOP and SIGCONT", pause, ray=True, limit_s=120.0),
    Disturbance(
        "full disk", fault=("full-disk", 110), code=1, status="failed", says=("No space left on device", *SAFE)
    ),
    Disturbance(
        "read-only folder",
        fault=("read-only", 140),
        code=1,
        status="running",
        says=("Read-only file system", "status of the run could not be changed", *SAFE),
    ),
    Disturbance("two drivers", start_second_driver, limit_s=120.0),
    Disturbance("worker killed for memory", fault=("memory", 6), ray=True, limit_s=120.0),
    Disturbance("clock jump", fault=("clock", 10), limit_s=120.0),
    Disturbance(
        "GCS killed",
        kill_process("gcs_server"),
        ray=True,
        code=1,
        status="failed",
        says=("control process of Ray", *SAFE),
    ),
    Disturbance(
        "raylet killed",
        kill_process("raylet"),
        ray=True,
        code=1,
        status="failed",
        says=("control process of Ray", *SAFE),
    ),
)


def undisturbed(folder: Path) -> RunDirectory:
    """A finished run in one process without a disturbance."""
    subprocess.run([*ESPER, *RUN, "--serial", *_place(folder)], env=environment(), check=True, capture_output=True)
    return RunDirectory.open(folder / "run")


def disturbed(folder: Path, row: Disturbance, reference: RunDirectory) -> Answer:
    """Reaction of a run to a disturbance, and results after it has been resumed."""
    mark = folder / "fault"
    faulty = () if row.fault is None else (sys.executable, str(FAULTY), *map(str, row.fault), str(mark))
    program = faulty or ESPER
    command = [*program, *RUN, *([] if row.ray else ["--serial"]), *_place(folder)]
    with (folder / "output").open("wb") as output:
        options = {"env": environment(), "start_new_session": True, "preexec_fn": _receive_hangups}
        process = subprocess.Popen(command, stdout=output, stderr=output, **options)
        try:
            if row.act is not None:
                _wait_for_round(folder, process)
                row.act(process)
                mark.touch()
            code = process.wait(row.limit_s + START_SECONDS)
            ended = time.time()
        finally:
            end(process)
    seconds = ended - mark.stat().st_mtime if mark.exists() else None
    run = RunDirectory.open(folder / "run")
    status = run.read_manifest()["status"]
    if status != "finished":
        resume = [*ESPER, "train", "ppo", "--resume", str(run.path), "--serial"]
        subprocess.run(resume, env=environment(), check=True, capture_output=True)
    return Answer(code, status, seconds, (folder / "output").read_text(), differences(run, reference))


def differences(run: RunDirectory, reference: RunDirectory) -> list[str]:
    """Names of the results in which two finished runs differ."""
    pairs = {
        "weights": [tree.read_manifest()["policy_sha256"] for tree in (run, reference)],
        "rounds.csv": [(tree.path / "rounds.csv").read_bytes() for tree in (run, reference)],
        "events": [list(tree.events(evidence=True)) for tree in (run, reference)],
    }
    return [name for name, (result, expected) in pairs.items() if result != expected]


def _wait_for_round(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    run, output = folder / "run", folder / "output"
    deadline = time.monotonic() + START_SECONDS
    while not (run / "checkpoints" / f"round-{DISTURBED_ROUND:05d}" / "state.json").is_file():
        assert process.poll() is None, f"the run ended by itself with {process.returncode}: {output.read_text()}"
        assert time.monotonic() < deadline, f"no checkpoint after {START_SECONDS} s: {output.read_text()}"
        time.sleep(0.01)
    time.sleep(0.3)  # into the next round


def _receive_hangups() -> None:
    """Undo ``nohup`` of this program for the run."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _place(folder: Path) -> tuple[str, ...]:
    return ("--telemetry-dir", str(folder), "--run-id", "run")


def environment() -> dict[str, str]:
    """Environment variables of a command under test."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


def table_row(row: Disturbance, answer: Answer) -> str:
    """Row of the table of ``make chaos``."""
    problems = "; ".join(answer.problems(row)) or "identical"
    reaction = "continued" if answer.status == "finished" else f"exit code {answer.code}, {answer.status}"
    seconds = "" if answer.seconds is None else f"{answer.seconds:.0f}"
    return f"| {row.name} | {reaction} | {problems} | {seconds} |"

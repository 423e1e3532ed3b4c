"""A case of the corpus, and its judge: refused in one message with nothing changed, or without effect."""

import hashlib
import os
import resource
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli_builders import Answer, call

from esper_ray.leyline.errors import UserError
from esper_ray.nissa.runs.run_directory import RunDirectory

MOST_SECONDS = 20.0
"""Time after which a case hangs."""
MOST_KILOBYTES = 1_000_000
"""Memory that a case may need beyond what the process has needed so far."""
MOST_CHARACTERS = 4000
"""Length of a message, with all its problems."""
MOST_LINES = 21
"""Lines of a message about several problems of a configuration."""


class HangError(Exception):
    """A case that has not ended in time."""


@dataclass(frozen=True)
class Refusal:
    """Message of a refused input."""

    text: str


@dataclass(frozen=True)
class Case:
    """One damaged input."""

    name: str
    attempt: Callable[[Path], Any]
    """Use of the input in a folder: the command's answer, a result that can be compared, or a user error."""
    damage: Callable[[Path], Any] = lambda folder: None
    """Change of an undamaged input in the folder."""
    words: tuple[str, ...] = ()
    """Parts of every refusal, such as the name of the file."""
    accepts: Callable[[Path, Any, Any], bool] | None = None
    """Whether a result that differs from the undamaged one is right: (folder, result, undamaged result).
    By default only an equal result is."""
    reference: Callable[[Path], Any] | None = None
    """Attempt that gives the undamaged result, if it is another one."""
    must_refuse: bool = False
    lines: int = 1
    """Most lines of the message."""
    usage: bool = False
    """Whether a message of the option parser, which begins with the usage, is a refusal too."""
    scratch: tuple[str, ...] = ()
    """Files and folders that the attempt may make."""


def judge(case: Case, folder: Path, undamaged: Callable[[], Any]) -> None:
    """Fail if ``case`` does not comply. ``folder`` holds the undamaged input."""
    case.damage(folder)
    before = digest(folder, case.scratch)
    memory = peak_kilobytes()
    with ended_within(MOST_SECONDS):
        result = outcome(case.attempt, folder)
    assert peak_kilobytes() - memory < MOST_KILOBYTES, f"{case.name}: {peak_kilobytes() - memory} KiB more"
    assert digest(folder, case.scratch) == before, f"{case.name}: something was written, changed or removed"
    if isinstance(result, Refusal):
        check_refusal(case, result)
        return
    assert not case.must_refuse, f"{case.name}: accepted with {result!r:.300}"
    expected = undamaged()
    if result != expected:
        assert case.accepts is not None, f"{case.name}: accepted with another result: {result!r:.300}"
        assert case.accepts(folder, result, expected), f"{case.name}: accepted with a wrong result: {result!r:.300}"


def check_refusal(case: Case, refusal: Refusal) -> None:
    """Fail if the message is not one of the documented form."""
    text, lines = refusal.text, refusal.text.splitlines()
    assert len(text) <= MOST_CHARACTERS, f"{case.name}: a message of {len(text)} characters"
    assert "Traceback" not in text, f"{case.name}: {text}"
    if case.usage and text.startswith(("Usage: ", "╭─ Error")):
        return
    assert lines, f"{case.name}: no message"
    assert lines[0].startswith("esper: error: "), f"{case.name}: {text}"
    assert all(line.startswith("esper: ") for line in lines), f"{case.name}: {text}"
    problems = [line for line in lines if line.startswith("esper: error: ")]
    assert len(problems) <= case.lines, f"{case.name}: {len(problems)} lines of {text}"
    assert all(line.isprintable() for line in lines), f"{case.name}: {text!r}"
    for word in case.words:
        assert word in text, f"{case.name}: {word!r} is missing in {text}"


def outcome(attempt: Callable[[Path], Any], folder: Path) -> Any:
    """Result of ``attempt``, or its refusal. Other errors are those of a defect."""
    try:
        result = attempt(folder)
    except UserError as error:
        if error.exit_code != 2:
            raise
        return Refusal("\n".join(f"esper: error: {line}" for line in str(error).splitlines()))
    if isinstance(result, Answer):
        if result.code == 2:
            return Refusal(result.err)
        assert result.code == 0, result
        return result.out
    return result


def peak_kilobytes() -> int:
    """Greatest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def digest(folder: Path, scratch: tuple[str, ...] = ()) -> str:
    """Digest of the names, kinds and contents below ``folder``. Lock files and ``scratch`` are left out."""
    total = hashlib.sha256()
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in scratch)
        for name in sorted([*folders, *files]):
            path = Path(place, name)
            if name in scratch or name in ("run.lock", "__pycache__"):
                continue
            status = path.lstat()
            total.update(
                f"{path.relative_to(folder)}\0{stat.S_IFMT(status.st_mode)}\0".encode(errors="surrogateescape")
            )
            if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 28:
                total.update(path.read_bytes())
    return total.hexdigest()


@contextmanager
def ended_within(seconds: float):
    """Raise :class:`HangError` in this thread after ``seconds``. The timer of the test's own limit is kept."""

    def hang(_number, _frame):
        raise HangError(f"no end after {seconds:g} s")

    left, _ = signal.getitimer(signal.ITIMER_REAL)
    handler = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left, 1.0))


def extended(path: Path, scratch: Path, rounds: int) -> Any:
    """A copy of the run ``path`` trained up to ``rounds``: its policy, rounds and number of events, or the refusal.

    A refused command must have left the copy unchanged.
    """
    scratch.mkdir()
    try:
        subprocess.run(["cp", "-a", path, scratch], check=True)  # also of pipes and dangling links
        copy = scratch / path.name
        before = digest(copy)
        answer = call("train", "ppo", "--serial", "--resume", copy, "--rounds", rounds)
        if answer.code:
            assert digest(copy) == before, f"refused, and changed: {answer.err}"
            return answer
        run = RunDirectory.open(copy)
        return run.read_manifest()["policy_sha256"], run.rounds(), len(list(run.events(evidence=True)))
    finally:
        shutil.rmtree(scratch)

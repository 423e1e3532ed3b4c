"""The last minute of a run as lines of text.

It is that of a flight recording, or what a killed driver left: its last beat, its faults, its steps in play.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from esper_ray.karn.record_lines import number, printable, record_line
from esper_ray.leyline.records import Record
from esper_ray.nissa.log.lines import json_lines, read_object
from esper_ray.nissa.runs.flight_recorder import RecordingFile, recordings
from esper_ray.nissa.runs.live_steps import LIVE, LIVE_FULL
from esper_ray.nissa.runs.pulse import PULSE
from esper_ray.nissa.runs.run_directory import FAULTS, RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

LAST_SECONDS = 60.0
"""Time before a recording that is shown."""
LAST_STEPS = 40
"""Newest steps in play that are shown of a run without a recording."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Content of one recording."""

    header: Record
    items: tuple[Record, ...]
    """Oldest first, each with the time ``at`` of its arrival."""
    damaged: int
    """Lines that could not be read."""


def read_recording(file: RecordingFile) -> Recording:
    """The recording in a file.

    Raises:
        RunDirectoryError: if it cannot be read.
    """
    try:
        records, damaged = file.records()
    except OSError as error:
        raise RunDirectoryError(f"{file.path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{file.path} {error}") from error
    if not records or records[0].get("kind") != "recording":
        raise RunDirectoryError(f"{file.path} is not a recording: its first line is not a header")
    header, *items = records
    return Recording(header, tuple(items), damaged)


def recording_of(run: RunDirectory, index: int) -> Recording:
    """Recording ``index`` of a run.

    Raises:
        RunDirectoryError: if there is none, or it cannot be read.
    """
    files = recordings(run.path)
    for file in files:
        if file.number == index:
            return read_recording(file)
    present = ", ".join(str(file.number) for file in files) or "none"
    raise RunDirectoryError(f"{run.path} has no recording {index}; recordings: {present}")


def recording_lines(run: RunDirectory) -> Iterator[str]:
    """One line for each recording: number, time, cause."""
    for file in recordings(run.path):
        try:
            header = read_recording(file).header
        except RunDirectoryError as error:
            yield f"{file.number:>4}  {file.what}: {error}"
            continue
        yield printable(f"{file.number:>4}  {_time(header['at'])}  {file.what}: {header.get('reason', '')}")


def last_lines(recording: Recording, seconds: float = LAST_SECONDS) -> Iterator[str]:
    """Lines of the last ``seconds`` before a recording, with ages. Of an error the whole text is given."""
    header, end = recording.header, recording.header["at"]
    yield printable(f"recording {header.get('number')} of {_time(end)}: {header.get('what')}, {header.get('reason')}")
    shown = [item for item in recording.items if end - item["at"] <= seconds]
    earlier = len(recording.items) - len(shown)
    yield f"the last {seconds:.0f} s before it: {len(shown)} items" + (f", {earlier} earlier" if earlier else "")
    if recording.damaged:
        yield f"{recording.damaged} lines are damaged and left out"
    for item in shown:
        yield f"{item['at'] - end:>7.1f} s  {record_line(item)}"
        if item.get("kind") in ("error", "log") and "\n" in str(item.get("text")).strip():
            yield from (f"{'':>11}{printable(line)}" for line in str(item["text"]).strip().splitlines())


def has_ended(run: RunDirectory) -> bool:
    """Whether the driver has said that it ended. One that was killed has not."""
    pulse = _pulse(run.path / PULSE)
    return pulse is not None and pulse["phase"] == "ended"


def end_lines(run: RunDirectory, seconds: float = LAST_SECONDS) -> Iterator[str]:
    """Lines about the end of a run without a recording: its pulse, its newest faults, and the steps in play.

    Ages are counted back from the last beat. Steps in play have no time.
    """
    status = str(run.read_manifest()["status"])
    yield f"{run.run_id}: the manifest says {status}; this is what it left behind"
    pulse = _pulse(run.path / PULSE)
    if pulse is None:
        yield "its pulse is missing or damaged: when the driver was last alive is unknown"
    else:
        yield from _pulse_lines(pulse)
        beat = pulse["time"]
        for fault in _records(run.path / FAULTS):
            age = beat - _seconds(fault.get("time"))
            if age <= seconds:
                yield f"{-age:>7.1f} s  {record_line({**fault, 'kind': 'fault', 'fault': fault.get('kind')})}"
    steps = _records(run.path / LIVE)
    if any(step.get("kind") == LIVE_FULL for step in steps):
        yield f"{LIVE} was full: later steps of this round are missing"
    steps = [step for step in steps if step.get("kind") == "env_epoch"]
    if not steps:
        yield "there was no step in play" if (run.path / LIVE).exists() else "steps in play were not recorded"
        return
    shown = steps[-LAST_STEPS:]
    yield f"the newest {len(shown)} of {len(steps)} steps in play, which have no times:"
    for step in shown:
        yield f"{'':>11}{record_line(step)}"


def _pulse_lines(pulse: Mapping[str, Any]) -> Iterator[str]:
    place = f"process {pulse['pid']} on {pulse['host']}"
    yield printable(f"last beat {pulse['beat']} at {_time(pulse['time'])}, {place}")
    since, moved = pulse["time"] - pulse["since"], pulse["time"] - pulse["moved"]
    phase = pulse["phase"] if pulse["phase"] != "ended" else f"ended ({pulse['status']})"
    done = (
        f"{pulse['round']} of {pulse['rounds']} rounds done, {pulse['episodes']} of {pulse['of']} episodes of the next"
    )
    yield printable(f"{-since:>7.1f} s  {phase} began; {done}")
    yield f"{-moved:>7.1f} s  the main thread last reported"


def _pulse(path: Path) -> dict[str, Any] | None:
    """The pulse in a file; ``None`` if it is missing or lacks a number."""
    try:
        tree = read_object(path)
    except ValueError:
        return None
    times = all(type(tree.get(name)) in (int, float) for name in ("time", "since", "moved"))
    names = ("pid", "host", "beat", "phase", "status", "round", "rounds", "episodes", "of")
    return tree if times and all(name in tree for name in names) else None


def _records(path: Path) -> list[dict[str, Any]]:
    """Sound lines of a file; none if it is missing."""
    try:
        return [line.record for line in json_lines(path) if line.problem is None]
    except (OSError, ValueError):
        return []


def _seconds(text: Any) -> float:
    """Unix time of an ISO date. That of a damaged one is as old as can be."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return float("-inf")


def _time(seconds: Any) -> str:
    if type(seconds) not in (int, float):
        return number(None)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"

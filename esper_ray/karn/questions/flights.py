"""Recordings of the flight recorder of a run."""

from collections.abc import Mapping
from typing import Any

from esper_ray.karn.flight import end_lines, read_recording, recording_of
from esper_ray.karn.record_lines import record_line
from esper_ray.leyline.records import Record
from esper_ray.nissa.runs.flight_recorder import recordings
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError


def recording_list(run: RunDirectory, shown: str) -> dict[str, Any]:
    """All recordings of a run, and what its end has left.

    Args:
        shown: path of the run as it is written in commands.
    """
    found = []
    for file in recordings(run.path):
        tree: dict[str, Any] = {"number": file.number, "name": file.path.name, "what": file.what}
        try:
            recording = read_recording(file)
            header: Mapping[str, Any] = recording.header
            tree |= {"time": header.get("at"), "reason": header.get("reason"), "items": len(recording.items)}
            tree |= {"bytes": file.path.stat().st_size, "problem": None}
        except (RunDirectoryError, OSError) as error:
            tree |= {"time": None, "reason": None, "items": None, "bytes": None, "problem": str(error)}
        found.append(tree)
    return {"recordings": found, "command": f"esper flight {shown}", "end": _end(run)}


def _end(run: RunDirectory) -> list[str]:
    """Lines about the end of a run, as ``esper flight`` prints them."""
    try:
        return list(end_lines(run))
    except (RunDirectoryError, KeyError, TypeError, ValueError):
        return []


def recording_account(run: RunDirectory, index: int) -> dict[str, Any]:
    """Recording ``index`` of a run, item by item, oldest first.

    Raises:
        RunDirectoryError: if there is none, or it cannot be read.
    """
    recording = recording_of(run, index)
    header = recording.header
    return {
        "number": header.get("number"),
        "name": f"{index:03d}-{header.get('what')}",
        "what": header.get("what"),
        "reason": header.get("reason"),
        "time": header.get("at"),
        "damaged": recording.damaged,
        "lines": [_line(item) for item in recording.items],
    }


def _line(item: Record) -> dict[str, Any]:
    return {"time": item.get("at"), "kind": item.get("kind"), "text": record_line(item), "record": item}

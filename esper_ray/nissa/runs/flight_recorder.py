"""Flight recorder of a run: the newest items in memory, written to ``flight/`` when something goes wrong.

An item is kept as the object that it is: nothing is serialized before a recording is written. A recording is a file
of lines of JSON, ``flight/<number>-<what>.jsonl``: a line about itself, then its items, oldest first, each with the
time ``at`` of its arrival. A viewer asks for one by the file ``flight/request``.
"""

import json
import logging
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.durable import changing, remove, write_file
from esper_ray.nissa.log.finite import json_record
from esper_ray.nissa.log.lines import check_file, json_lines

FLIGHT = "flight"
"""Folder of the recordings of a run."""
REQUEST = "request"
"""File in that folder by which a viewer asks for a recording."""
ITEMS = 2000
"""Newest items that are kept."""
RECORDING_BYTES = 2 * 2**20
"""Greatest size of a recording; the newest items that fit are written."""
RECORDINGS = 20
"""Greatest number of recordings of a run."""
FIRST_KEPT = 5
"""Number of first recordings that are never removed."""
TEXT_CHARACTERS = 4000
"""Greatest length of a message of the log; of a longer one the end is kept."""
HEADER = "recording"
"""Kind of the first line of a recording."""
PHASE, FAULT, LOG, ERROR = "phase", "fault", "log", "error"
"""Kinds of items beside those of the catalogue."""
_FILE = re.compile(r"(\d{3,9})-([a-z0-9_]{1,60})\.jsonl")

Item = Mapping[str, Any] | Fault | logging.LogRecord | BaseException | str
"""A record of the catalogue, a fault, a message, an error, or the name of a phase that begins."""


class FlightRecorder:
    """Recorder of the newest items of one run. It may be used from several threads."""

    def __init__(self, run: Path, *, items: int = ITEMS, limit: int = RECORDING_BYTES) -> None:
        """
        Args:
            run: run directory.
            items: number of newest items that are kept.
            limit: greatest size of a recording in bytes.
        """
        self._folder, self._limit = run / FLIGHT, limit
        self._items: deque[tuple[float, Item]] = deque(maxlen=items)
        self._lock, self._writing = threading.RLock(), threading.Lock()

    def add(self, item: Item) -> None:
        """Keep one item."""
        with self._lock:
            self._items.append((time.time(), item))

    def extend(self, items: Iterable[Item]) -> None:
        """Keep several items that have arrived together."""
        moment = time.time()
        arrived = [(moment, item) for item in items]
        with self._lock:
            self._items.extend(arrived)

    def write(self, what: str, reason: str = "") -> Path:
        """Write a recording of the kept items. Of too many, the oldest that may be removed is removed.

        Args:
            what: what happened, in one word, for the name of the file.
            reason: the same as a sentence.

        Raises:
            WriteError: if it cannot be written.
        """
        with self._lock:
            items = list(self._items)
        with self._writing, changing(self._folder):
            self._folder.mkdir(exist_ok=True)
            earlier = recordings(self._folder.parent)
            number = earlier[-1].number + 1 if earlier else 1
            path = self._folder / f"{number:03d}-{re.sub('[^a-z0-9_]+', '_', what.lower())[:60] or 'other'}.jsonl"
            write_file(path, _content(items, number, what, reason, self._limit))
            surplus = len(earlier) + 1 - RECORDINGS
            for recording in earlier[FIRST_KEPT : FIRST_KEPT + max(0, surplus)]:
                remove(recording.path)
        return path


def _content(items: list[tuple[float, Item]], number: int, what: str, reason: str, limit: int) -> bytes:
    """Lines of a recording: its header, and the newest items that fit."""
    about = {"kind": HEADER, "number": number, "what": what, "reason": reason[:TEXT_CHARACTERS], "at": time.time()}
    lines: list[bytes] = []
    size = len(_line({**about, "items": len(items), "left_out": len(items)}))
    for at, item in reversed(items):
        line = _line({"at": at, **_as_record(item)})
        if size + len(line) > limit:
            break
        size += len(line)
        lines.append(line)
    header = _line({**about, "items": len(lines), "left_out": len(items) - len(lines)})
    return header + b"".join(reversed(lines))


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(json_record(record)).encode() + b"\n"
    except (TypeError, ValueError) as error:  # no record of the catalogue; the recording is worth more than this line
        kind = str(record.get("kind"))
        return json.dumps({"at": record["at"], "kind": kind, "unreadable": str(error)[:200]}).encode() + b"\n"


def _as_record(item: Item) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, str):
        return {"kind": PHASE, "phase": item}
    if isinstance(item, Fault):
        return {"kind": FAULT, "fault": item.kind, "who": item.who, "detail": item.detail, "seconds": item.seconds}
    if isinstance(item, BaseException):
        return {"kind": ERROR, "text": "".join(traceback.format_exception(item))[-TEXT_CHARACTERS:]}
    text = item.getMessage()
    if item.exc_info:
        text += "\n" + "".join(traceback.format_exception(*item.exc_info))
    return {"kind": LOG, "level": item.levelname, "logger": item.name, "text": text[-TEXT_CHARACTERS:]}


class RecordingHandler(logging.Handler):
    """Handler that keeps messages of the log in a flight recorder."""

    def __init__(self, recorder: FlightRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message. Without another handler it is also printed, as if this one were not there."""
        self._recorder.add(record)
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and not _is_handled(record, besides=self):
            last.handle(record)


def _is_handled(record: logging.LogRecord, besides: logging.Handler) -> bool:
    """Whether another handler receives the message."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(not isinstance(handler, type(besides)) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


class RequestWatch:
    """Thread that writes a recording when a viewer asks for one, or :meth:`ask` was called.

    It works while the main thread is busy or stuck.
    """

    def __init__(self, run: Path, write: Callable[[str, str], object], every_s: float = 1.0) -> None:
        """
        Args:
            write: writes a recording, see :meth:`FlightRecorder.write`.
            every_s: seconds between two looks at the file of requests.
        """
        self._request, self._write, self._every_s = run / FLIGHT / REQUEST, write, every_s
        self._wake, self._ended = threading.Event(), False
        self._asked: str | None = None
        self._answered: int | None = None
        self._thread = threading.Thread(target=self._watch, name="flight-recorder", daemon=True)

    def start(self) -> None:
        """Start the thread. A request that an earlier process has left is answered, too."""
        self._thread.start()

    def ask(self, reason: str) -> None:
        """Have a recording written soon. May be called by a signal handler: it takes no lock that the run holds."""
        self._asked = reason
        self._wake.set()

    def stop(self) -> None:
        """End the thread, after the recording that it is writing."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _watch(self) -> None:
        while not self._ended:
            self._wake.wait(self._every_s)
            self._wake.clear()
            reason, self._asked = self._asked, None
            if reason is not None:
                self._write("signal", reason)
            if self._is_requested():
                self._write("request", "a viewer asked for it")

    def _is_requested(self) -> bool:
        """Whether there is a request that was not answered. It is removed; one that cannot be is answered once."""
        try:
            moment = self._request.stat().st_mtime_ns
        except OSError:
            return False
        fresh, self._answered = moment != self._answered, moment
        with suppress(OSError):
            self._request.unlink()
        return fresh


def request_recording(run: Path) -> None:
    """Ask the driver of a run for a recording. It is written within about a second, if the driver lives.

    Raises:
        WriteError: if the request cannot be written.
    """
    path = run / FLIGHT / REQUEST
    with changing(path):
        path.parent.mkdir(exist_ok=True)
    write_file(path, "", flush=False)


@dataclass(frozen=True, slots=True)
class RecordingFile:
    """One recording in the folder of a run."""

    number: int
    what: str
    path: Path

    def records(self) -> tuple[list[dict[str, Any]], int]:
        """Header and items, oldest first, and the number of damaged lines, which are left out.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is not a file of lines, as the rest of a sentence about it.
        """
        check_file(self.path)
        lines = list(json_lines(self.path))
        sound = [line.record for line in lines if line.problem is None and type(line.record.get("at")) is float]
        return sound, len(lines) - len(sound)


def recordings(run: Path) -> list[RecordingFile]:
    """Recordings of a run, by number."""
    folder = run / FLIGHT
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        name = _FILE.fullmatch(path.name)
        if name is not None and path.is_file():
            found.append(RecordingFile(int(name[1]), name[2], path))
    return sorted(found, key=lambda recording: (recording.number, recording.what))

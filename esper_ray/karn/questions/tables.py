"""The log of a run as tables for questions, opened anew when it has grown.

A question is a function of :class:`LogTables` and further arguments. Its result is kept until the log grows.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from esper_ray.leyline.errors import UserError
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.parquet import EventLogError, parts_in
from esper_ray.nissa.log.sql import EventDatabase, QueryError
from esper_ray.nissa.runs.run_directory import RunDirectory

P = ParamSpec("P")
T = TypeVar("T")
QUESTION_MIB = 512
"""Memory that a question may use, in MiB."""
ATTEMPTS = 4
"""Times that a question is asked of a log that is compacted or cut meanwhile."""
KEPT_ANSWERS = 32


class LogTables:
    """Tables of a run at one moment."""

    def __init__(self, run: RunDirectory) -> None:
        """
        Raises:
            EventLogError: if the log is damaged, or of another version.
        """
        self.run = run
        self._database = EventDatabase(run.event_log, run.samples, checked=False, memory_mib=QUESTION_MIB, threads=1)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of one SELECT by column."""
        result = self._database.ask(sql)
        return [dict(zip(result.columns, row, strict=True)) for row in result.rows]

    def records(self, kinds: Collection[str], condition: str = "true") -> list[Record]:
        """Records of some kinds, in the order of their log, as the log holds them.

        Args:
            condition: SQL over columns that all these kinds have.
        """
        found: list[dict[str, Any]] = []
        for kind in kinds:
            rows = self.rows(f'SELECT * FROM "{kind}" WHERE {condition}')
            found += [_record(kind, row) for row in rows]
        return sorted(found, key=lambda record: int(record["seq"]))

    def close(self) -> None:
        """Close the files."""
        self._database.close()


def _record(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row as the record that it was made of."""
    maps = [field.name for field in KINDS[kind].fields if field.type.endswith("by name")]
    record = {**row, **{name: dict(row[name] or {}) for name in maps}, "kind": kind}
    if record["nonfinite"] is None:
        del record["nonfinite"]
    return record


class RunQuestions:
    """Answers about one run. It may be used from several threads."""

    def __init__(self, run: RunDirectory) -> None:
        self.run, self._lock = run, threading.Lock()
        self._tables: LogTables | None = None
        self._signature: Hashable = None
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()

    def ask(self, question: Callable[Concatenate[LogTables, P], T], *arguments: P.args, **named: P.kwargs) -> T:
        """Answer of ``question``, asked again if the log was compacted or cut meanwhile.

        Raises:
            UserError: if the log cannot be read, or the arguments have no answer.
        """
        key = (question, arguments, tuple(sorted(named.items())))
        with self._lock:
            for attempt in range(ATTEMPTS):
                signature = log_signature(self.run)
                try:
                    tables = self._opened(signature)
                    if key not in self._answers:
                        self._answers[key] = question(tables, *arguments, **named)
                    self._answers.move_to_end(key)
                    while len(self._answers) > KEPT_ANSWERS:
                        self._answers.popitem(last=False)
                except (EventLogError, QueryError, OSError) as error:
                    self._close()
                    if attempt + 1 < ATTEMPTS and log_signature(self.run) != signature:
                        continue
                    if isinstance(error, OSError):
                        raise EventLogError(f"{self.run.path} cannot be read: {error.strerror or error}") from error
                    raise
                else:
                    answer: T = self._answers[key]
                    return answer
        raise EventLogError(f"{self.run.path} changes too fast to be read")

    def _opened(self, signature: Hashable) -> LogTables:
        if self._tables is None or signature != self._signature:
            self._close()
            self._tables, self._signature = LogTables(self.run), signature
        return self._tables

    def _close(self) -> None:
        if self._tables is not None:
            self._tables.close()
        self._tables = None
        self._answers.clear()

    def close(self) -> None:
        """Close the files and drop the answers."""
        with self._lock:
            self._close()


def log_signature(run: RunDirectory) -> Hashable:
    """What differs when events or samples of a run have been added, compacted or cut."""
    signature: list[Hashable] = []
    for log in (run.event_log, run.samples):
        signature.append(_stamp(log.tail))
        try:
            signature.append(tuple(part.path.name for part in parts_in(log.folder / log.tail.stem)))
        except UserError:
            signature.append(None)
    return tuple(signature)


def _stamp(file: Path) -> Hashable:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class QuestionPool:
    """Open questions of the runs that were asked about last."""

    def __init__(self, most: int = 8) -> None:
        """
        Args:
            most: number of runs whose tables stay open.
        """
        self._most, self._lock = most, threading.Lock()
        self._open: OrderedDict[Path, RunQuestions] = OrderedDict()

    def of(self, run: RunDirectory) -> RunQuestions:
        """Questions about ``run``."""
        surplus: Sequence[RunQuestions] = ()
        with self._lock:
            questions = self._open.pop(run.path, None) or RunQuestions(run)
            self._open[run.path] = questions
            if len(self._open) > self._most:
                surplus = [self._open.popitem(last=False)[1]]
        for questions_ in surplus:
            questions_.close()
        return questions

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            opened = list(self._open.values())
            self._open.clear()
        for questions in opened:
            questions.close()

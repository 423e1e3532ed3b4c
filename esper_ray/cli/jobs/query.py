"""The process of one SQL query, and the command's side of it.

``esper sql`` starts ``python -m esper_ray.cli.jobs.query`` with a request on its standard input, copies what it prints,
and ends it at the timeout or after Ctrl-C.
"""

import codecs
import csv
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esper_ray.cli.errors import reported
from esper_ray.cli.tables import cell, table_lines
from esper_ray.leyline.errors import UserError
from esper_ray.nissa.log.values import csv_cell, json_value

BASE_BYTES = 2**30
"""Memory of the process beyond that of DuckDB: Python, Arrow, rows that are printed."""
BLOCK = 2**16
ERROR, ENDING_SECONDS = b"esper: error: ", 10.0
"""Beginning of the message of an error, and the time that a process has to end after it."""
EXPLAINED = ("explain_key", "explain_value")
"""Columns of a plan, which is a drawing of several lines."""
MODULE = ("-P", "-m", "esper_ray.cli.jobs.query")


class QueryLimitError(UserError):
    """A query that needs more time or memory than it may have."""

    remedy = "Allow more with `--timeout` or `--memory`, or ask for less."


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """One query and how its result is printed."""

    run: str
    query: str | None
    """``None``: list the tables."""
    form: str
    limit: int
    """Number of rows that are printed; 0: all."""
    memory_mib: int
    evidence: bool


def ask_in_process(request: QueryRequest, timeout_s: float) -> int:
    """Print the result of a query that runs in a process of its own. Returns its exit code.

    Raises:
        QueryLimitError: if it has not ended after ``timeout_s``, or its process was killed.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, *MODULE], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    try:
        _send(process, request)
        _copy_output(process, timeout_s)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if code < 0:
        name = signal.Signals(-code).name
        raise QueryLimitError(f"the process of the query ended with {name}: it may need more than --memory allows")
    return code


def _send(process: "subprocess.Popen[bytes]", request: QueryRequest) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(asdict(request)).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # the process has ended; its output says why


def _copy_output(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Copy what a process prints. Only the time in which it prints nothing counts: a pager may read slowly.

    After an error the process has time to end.
    """
    left = timeout_s
    decode = codecs.getincrementaldecoder("utf-8")
    with selectors.DefaultSelector() as selector:
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            assert source is not None
            selector.register(source, selectors.EVENT_READ, (decode("replace"), target))
        while selector.get_map():
            began = time.monotonic()
            ready = selector.select(max(left, 0.0))
            left -= time.monotonic() - began
            if not ready:
                raise QueryLimitError(f"the query has not ended after {timeout_s:g} s; --timeout gives it more time")
            for key, _ in ready:
                block = os.read(key.fd, BLOCK)
                if block.startswith(ERROR):
                    left = max(left, ENDING_SECONDS)  # it has answered; a second error would be wrong
                decoder, target = key.data
                target.write(decoder.decode(block, final=not block))
                if not block:
                    selector.unregister(key.fileobj)


def print_result(request: QueryRequest) -> None:
    """Print the result of a query, or the tables and their columns.

    Raises:
        UserError: if the run, its log or the query cannot be used.
    """
    from esper_ray.nissa.log.sql import EventDatabase
    from esper_ray.nissa.runs.run_directory import RunDirectory

    run = RunDirectory.open(Path(request.run))
    log, samples, memory = run.event_log, run.samples, request.memory_mib
    with EventDatabase(log, samples, evidence=request.evidence, memory_mib=memory) as database:
        if request.query is None:
            for name, columns in database.tables().items():
                _say(f"{name}: {', '.join(columns)}")
            return
        answer = database.ask(request.query, request.limit + 1 if request.limit else None)
    rows = answer.rows[: request.limit or None]
    _print_rows(answer.columns, rows, request.form)
    if len(rows) < len(answer.rows):
        sys.stderr.write(f"the first {len(rows)} rows; --limit 0 prints all\n")


def _print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> None:
    from esper_ray.nissa.log.sql import QueryError

    if form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows([csv_cell(value) for value in row] for row in rows)
    elif form == "json":
        if doubled := {name for name in columns if columns.count(name) > 1}:
            raise QueryError(f"two columns are named {min(doubled)!r}: an object of JSON needs AS with another name")
        for row in rows:
            _say(json.dumps({name: json_value(value) for name, value in zip(columns, row, strict=True)}))
    elif columns == EXPLAINED:
        for _, text in rows:
            _say(text)
    else:
        for line in table_lines(columns, [[cell(value) for value in row] for row in rows]):
            _say(line)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    """Answer the request on standard input."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with reported():
        request = QueryRequest(**json.load(sys.stdin))
        bound = request.memory_mib * 2**20 + BASE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
        try:
            print_result(request)
        except MemoryError as error:
            raise QueryLimitError(
                f"the query needs more memory than --memory {request.memory_mib} MiB allows"
            ) from error


if __name__ == "__main__":
    main()

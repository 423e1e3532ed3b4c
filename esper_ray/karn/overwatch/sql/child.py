"""The child process that answers SQL. A request is a line on its standard input, an answer a block on the output.

An answer is its length in bytes, eight of them, then JSON. The first one says that the process is ready; before the
answer to a query comes one that says that the tables are open. It can neither write nor read other files, and ends
with its parent.
"""

import csv
import io
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

CHILD_MIB = 512
"""Memory of a query in MiB."""
BASE_BYTES = 2**30
"""Memory of the process beyond that: Python, Arrow, rows that are sent."""
RESULT_BYTES = 2**24
"""Greatest size of a result."""
READY, OPENED = "ready", "opened"
MEMORY_ERROR = {"error": f"the query needs more memory than {CHILD_MIB} MiB", "ended": True}
"""Answer of a process that lacks memory, which its parent ends."""


def bounded() -> None:
    """Bound this process: memory, and no file that grows."""
    bound = CHILD_MIB * 2**20 + BASE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class QueryTables:
    """Tables of the run that was asked about last."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._database: Any = None

    def of(self, path: str) -> Any:
        """Tables of the run at ``path``, opened anew when its log has grown.

        Raises:
            UserError: if its log cannot be read.
        """
        from esper_ray.karn.questions.tables import log_signature
        from esper_ray.nissa.log.sql import EventDatabase
        from esper_ray.nissa.runs.run_directory import RunDirectory

        run = RunDirectory.open(Path(path))
        key = (path, log_signature(run))
        if self._database is None or key != self._key:
            if self._database is not None:
                self._database.close()
                self._database = None
            self._database = EventDatabase(run.event_log, run.samples, checked=False, memory_mib=CHILD_MIB, threads=1)
            self._key = key
        return self._database


def result_of(database: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of a query from ``offset`` on, at most ``limit``, as JSON or CSV.

    Raises:
        UserError: if the query is refused or fails, or its result is too large.
    """
    from esper_ray.nissa.log.values import csv_cell, json_value

    offset, limit = int(request["offset"]), int(request["limit"])
    began = time.monotonic()
    result = database.ask(request["query"], offset + limit + 1)
    rows = result.rows[offset : offset + limit]
    tree = {"columns": list(result.columns), "more": len(result.rows) > offset + limit}
    if request["csv"]:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(result.columns)
        writer.writerows([csv_cell(value) for value in row] for row in rows)
        tree["csv"] = text.getvalue()
    else:
        tree["rows"] = [[json_value(value) for value in row] for row in rows]
    return tree | {"seconds": round(time.monotonic() - began, 4)}


def answer_to(tables: QueryTables, request: Mapping[str, Any], say: Callable[[Any], None]) -> dict[str, Any]:
    """The answer to one request, or its error."""
    from esper_ray.leyline.errors import UserError

    try:
        database = tables.of(str(request["run"]))
        say(OPENED)
        answer = result_of(database, request)
    except UserError as error:
        return {"error": str(error)}
    except MemoryError:
        return MEMORY_ERROR
    except Exception as error:
        return {"error": f"the query failed: {type(error).__name__}"}
    return answer


def block_of(tree: Any) -> bytes:
    """``tree`` as a block; an error in its place if it is too long."""
    content = json.dumps(tree).encode()
    if len(content) > RESULT_BYTES:
        text = (
            f"the result has {len(content) / 2**20:,.0f} MiB, at most {RESULT_BYTES / 2**20:.0f} are sent; ask for less"
        )
        content = json.dumps({"error": text}).encode()
    return len(content).to_bytes(8, "big") + content


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""

    def say(tree: Any) -> None:
        answers.write(block_of(tree))
        answers.flush()

    tables = QueryTables()
    say(READY)
    for line in requests:
        try:
            say(answer_to(tables, json.loads(line), say))
        except MemoryError:
            say(MEMORY_ERROR)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    """Serve on standard input and output."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    import esper_ray.nissa.log.sql  # noqa: F401  what takes time is done before the process says that it is ready

    bounded()
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no answer
    serve(sys.stdin.buffer, output)


if __name__ == "__main__":
    main()

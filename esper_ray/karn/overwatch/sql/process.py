"""SQL in a child process that is kept warm, and killed at the deadline.

Within the process of the server DuckDB would not be a sandbox.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper_ray.karn.overwatch.access import TOKEN_VARIABLE
from esper_ray.karn.overwatch.sql.child import CHILD_MIB, OPENED, READY, RESULT_BYTES
from esper_ray.leyline.errors import UserError

MODULE = ("-P", "-m", "esper_ray.karn.overwatch.sql.child")
QUERY_SECONDS = 10.0
"""Time of a query, without that of opening the tables."""
OPEN_SECONDS = 120.0
"""Time in which the process must be ready, and the tables of a run open."""
WAIT_SECONDS = 15.0
"""Longest wait for the queries of others."""
REACHED_ROWS = 10_000
"""Rows of a result that can be reached."""
MOST_QUERY = 100_000
"""Greatest length of a query in characters."""


class SqlRefusal(UserError):
    """A query that is refused, fails, or takes too long."""

    remedy = "Write one SELECT that asks for less; esper sql allows more time and memory."


class SqlProcess:
    """The child process and its requests, one at a time."""

    def __init__(self, seconds: float = QUERY_SECONDS) -> None:
        """
        Args:
            seconds: time of a query.
        """
        self._seconds, self._lock = seconds, threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        """Number of the child process; ``None`` if there is none."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the child, so that it is warm before the first query."""
        with self._lock:
            self._start()

    def ask(self, run: Path, query: str, offset: int = 0, limit: int = 500, *, csv: bool = False) -> dict[str, Any]:
        """Rows ``offset`` to ``offset + limit`` of a query: ``columns``, ``rows`` or ``csv``, ``more``, ``seconds``.

        Raises:
            SqlRefusal: if it is refused, fails, takes too long, or others have not ended.
        """
        if len(query) > MOST_QUERY:
            raise SqlRefusal(f"the query has {len(query):,} characters, at most {MOST_QUERY:,} are accepted")
        if not 0 <= offset < REACHED_ROWS or limit < 1:
            raise SqlRefusal(f"rows from {offset} on: the first {REACHED_ROWS:,} rows of a result can be reached")
        limit = min(limit, REACHED_ROWS - offset)
        request = {"run": str(run.absolute()), "query": query, "offset": offset, "limit": limit, "csv": csv}
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise SqlRefusal("other queries have not ended; try again")
        try:
            tree = self._answer(request)
        finally:
            self._lock.release()
        if "error" in tree:
            raise SqlRefusal(str(tree["error"]))
        tree["more"] = bool(tree["more"]) and offset + limit < REACHED_ROWS
        return tree

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self._start()
        child = self._child
        assert child is not None
        assert child.stdin is not None
        answered = False
        try:
            if not self._is_ready:
                if self._read(OPEN_SECONDS) != READY:
                    raise SqlRefusal("the process of the queries does not start")
                self._is_ready = True
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            tree = self._read(OPEN_SECONDS)
            if tree == OPENED:
                tree = self._read(self._seconds)
            answered = isinstance(tree, dict) and "ended" not in tree
        except TimeoutError as error:
            text = f"the query has not ended after {self._seconds:g} s; esper sql --timeout gives it more time"
            raise SqlRefusal(text) from error
        except (OSError, EOFError, ValueError) as error:
            raise SqlRefusal(f"the query has ended its process: it may need more than {CHILD_MIB} MiB") from error
        finally:
            if not answered:
                self._kill()
        return dict(tree)

    def _start(self) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        self._kill()
        environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        self._child = subprocess.Popen(
            [sys.executable, *MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def _read(self, seconds: float) -> Any:
        """The next block of the child.

        Raises:
            TimeoutError: if it has not come after ``seconds``.
            EOFError: if the child has ended.
            ValueError: if it is longer than a block can be, or no JSON.
        """
        end = time.monotonic() + seconds
        size = int.from_bytes(self._bytes(8, end), "big")
        if size > RESULT_BYTES + 1024:
            raise ValueError(f"a block of {size} bytes")
        return json.loads(self._bytes(size, end))

    def _bytes(self, count: int, end: float) -> bytes:
        assert self._child is not None
        assert self._child.stdout is not None
        descriptor, content = self._child.stdout.fileno(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(content) < count:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError
                block = os.read(descriptor, min(count - len(content), 2**16))
                if not block:
                    raise EOFError
                content += block
        return bytes(content)

    def _kill(self) -> None:
        child, self._child, self._is_ready = self._child, None, False
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def close(self) -> None:
        """End the child, whatever it does."""
        child = self._child
        if child is not None:
            child.kill()
        with self._lock:
            self._kill()

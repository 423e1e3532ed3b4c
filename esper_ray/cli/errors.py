"""Exit codes, and the output of user errors."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from esper_ray.leyline.errors import UserError, shortened

FAILED = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of an output whose disk is full or broken."""


@contextmanager
def reported() -> Iterator[None]:
    """Print a user error raised inside, with its notes, and exit with its code. Other errors keep their traceback.

    A path that no file system can hold is a user error of every command, and so is a full standard output.
    """
    try:
        with _flushed():
            yield
    except UserError as error:
        lines = [f"error: {line}" for line in str(error).splitlines() or [type(error).__name__]]
        lines += [line for note in getattr(error, "__notes__", ()) for line in note.splitlines()]
        _complain(*lines)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            _complain(f"error: {shortened(error.filename)} is not a path: {error.strerror}")
            raise SystemExit(UserError.exit_code) from None
        if error.filename is None and error.errno in FULL:
            _send_nowhere(1)
            _complain(f"error: the standard output cannot be written: {error.strerror}")
            raise SystemExit(FAILED) from None
        raise


@contextmanager
def _flushed() -> Iterator[None]:
    """Context that flushes the standard output at its end. There an error can still be reported."""
    try:
        yield
    except SystemExit:
        _flush()
        raise
    _flush()


def _flush() -> None:
    if sys.stdout is not None:  # the descriptor may be closed from the start
        sys.stdout.flush()


def _complain(*lines: str) -> None:
    """Print lines on standard error. If that takes no more, the exit code has to do."""
    try:
        print("\n".join(f"esper: {line}" for line in lines), file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        _send_nowhere(2)


def _send_nowhere(descriptor: int) -> None:
    """Discard what an output still holds. Python would try to write it once more at its end."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)

"""Exit codes, and the output of user errors."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from esper_ray.leyline.errors import UserError, shortened

FAILED = 1


@contextmanager
def reported() -> Iterator[None]:
    """Print a user error raised inside, with its notes, and exit with its code. Other errors keep their traceback.

    A path that no file system can hold is a user error of every command.
    """
    try:
        yield
    except UserError as error:
        lines = [f"error: {line}" for line in str(error).splitlines() or [type(error).__name__]]
        lines += [line for note in getattr(error, "__notes__", ()) for line in note.splitlines()]
        print("\n".join(f"esper: {line}" for line in lines), file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        path = shortened(error.filename)
        print(f"esper: error: {path} is not a path: {error.strerror}", file=sys.stderr)  # noqa: T201
        raise SystemExit(UserError.exit_code) from None

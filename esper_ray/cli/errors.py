"""Exit codes, and the output of user errors."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from esper_ray.leyline.errors import UserError

FAILED = 1


@contextmanager
def reported() -> Iterator[None]:
    """Print a user error raised inside and exit with its code. Other errors keep their traceback."""
    try:
        yield
    except UserError as error:
        lines = str(error).splitlines() or [type(error).__name__]
        print("\n".join(f"esper: error: {line}" for line in lines), file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None

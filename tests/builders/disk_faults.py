"""Faults of a disk, injected where files are written."""

import errno
import fcntl
import os
from contextlib import contextmanager

from esper_ray.leyline.files import durable
from esper_ray.nissa.runs.live_steps import LIVE
from esper_ray.nissa.runs.pulse import PULSE


class Occasions:
    """A counter, true after its first ``allowed`` calls."""

    def __init__(self, allowed):
        self._left = allowed

    def __call__(self):
        self._left -= 1
        return self._left < 0


VIEWER_FILES = (LIVE, PULSE)


def is_for_viewers(data):
    """Whether a write is one of the files for viewers: their number depends on the time, and they may be lost."""
    return data.startswith((b'{"phase"', b'{"kind"'))


def full_disk(due):
    """Replacement of ``durable.write_all``: from ``due()`` on files cannot grow. Half of a refused write is taken.

    Writes for viewers are refused as well, but do not count.
    """
    write_all, full = durable.write_all, False

    def limited(descriptor, data):
        nonlocal full
        if not is_for_viewers(data):
            full = due()
        if full and _grows(descriptor, data):
            write_all(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(descriptor, data)

    return limited


def _grows(descriptor, data):
    appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    return appends or os.fstat(descriptor).st_size < len(data)


def read_only(due):
    """Replacement of ``durable.changing``: from ``due()`` on every change is refused.

    Changes of files for viewers are refused as well, but do not count.
    """
    changing, refuses = durable.changing, False

    @contextmanager
    def refused(path):
        nonlocal refuses
        with changing(path):
            if path.name not in VIEWER_FILES:
                refuses = due()
            if refuses:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            yield

    return refused

"""Detection and errors of exhausted device memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from esper_ray.leyline.errors import UserError


class DeviceMemoryError(UserError, RuntimeError):
    """A device with too little memory for the purpose in the message."""

    remedy = "Use a smaller batch or host, fewer environments per device, or another device."


SIGNS = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
"""Messages of untyped out-of-memory errors of allocators, drivers and libraries."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def memory_for(what: str, device: torch.device) -> Iterator[None]:
    """Context that converts out-of-memory errors into one that names ``what``.

    Raises:
        DeviceMemoryError: instead of torch's own errors.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(f"{device} has no memory for {what}: {str(error).splitlines()[0]}") from error


def memory_in_use(device: torch.device) -> dict[str, float]:
    """GPU memory of this process in bytes: ``allocated``, ``reserved`` and ``peak`` allocated.

    The result is empty for a CPU. The call does not synchronise.
    """
    if device.type != "cuda":
        return {}
    return {
        "allocated": float(torch.cuda.memory_allocated(device)),
        "reserved": float(torch.cuda.memory_reserved(device)),
        "peak": float(torch.cuda.max_memory_allocated(device)),
    }

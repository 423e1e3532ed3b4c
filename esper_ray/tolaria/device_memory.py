"""Devices without memory: how that shows, and how it is told."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from esper_ray.leyline.errors import UserError


class DeviceMemoryError(UserError, RuntimeError):
    """A device with too little memory. The message says for what."""

    remedy = "Use a smaller batch or host, fewer environments per device, or another device."


SIGNS = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
"""What allocators, drivers and libraries say when there is none left, in errors of no type of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def memory_for(what: str, device: torch.device) -> Iterator[None]:
    """Within it, running out of memory is told as having none for ``what``.

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
    """Bytes that this process holds on a GPU: ``allocated`` to tensors, ``reserved``, and ``peak`` of the first.

    Nothing for a CPU. It does not wait for the device.
    """
    if device.type != "cuda":
        return {}
    return {
        "allocated": float(torch.cuda.memory_allocated(device)),
        "reserved": float(torch.cuda.memory_reserved(device)),
        "peak": float(torch.cuda.max_memory_allocated(device)),
    }

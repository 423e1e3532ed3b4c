"""Collective operations of the default process group of ``torch.distributed``.

Tensors travel in their own backend. What the program decides by (structures, actions, measurements) travels on the CPU,
so that no step waits for a device.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

_CONTROL: dict[str, Any] = {}
"""The default group and the group with a CPU backend that belongs to it."""


def processes() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process; 0 without a process group."""
    return dist.get_rank() if processes() > 1 else 0


def gathered(numbers: Sequence[int]) -> list[list[int]]:
    """The 64-bit ``numbers`` of every process, as many from each, by rank."""
    own = torch.tensor(numbers, dtype=torch.int64)
    rows = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(rows, own, group=_control_group())
    return [row.tolist() for row in rows]


def gathered_texts(text: str) -> list[str]:
    """The ``text`` of every process, by rank."""
    data = text.encode()
    sizes = [size for (size,) in gathered([len(data)])]
    own = torch.zeros(max(sizes), dtype=torch.uint8)
    own[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    rows = [torch.empty_like(own) for _ in sizes]
    dist.all_gather(rows, own, group=_control_group())
    return [bytes(row[:size].tolist()).decode() for row, size in zip(rows, sizes, strict=True)]


def of_first_rank(value: Any) -> Any:
    """The ``value`` of rank 0, made of JSON's types. Without a process group it is returned unchanged."""
    if processes() == 1:
        return value
    data = json.dumps(value).encode() if rank() == 0 else b""
    size = torch.tensor([len(data)])
    dist.broadcast(size, 0, group=_control_group())
    packed = torch.tensor(list(data), dtype=torch.uint8) if data else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(packed, 0, group=_control_group())
    return json.loads(bytes(packed.tolist()))


def summed(values: Tensor) -> Tensor:
    """Sum of ``values`` over the processes; ``values`` themselves without a process group."""
    if processes() == 1:
        return values
    total = values.detach().cpu().clone()
    dist.all_reduce(total, group=_control_group())
    return total.to(values.device)


def mean_over_processes(value: float, weight: int) -> float:
    """Mean of the ``value`` of every process, weighted by its ``weight``.

    Without a process group it is the value itself.
    """
    if processes() == 1:
        return value
    sums = summed(torch.tensor([value * weight, weight], dtype=torch.float64))
    return float(sums[0] / sums[1])


def columns_of_all(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(R, sum of N) array of the (R, N) ``rows`` of every process, by rank."""
    if processes() == 1:
        return rows
    counts = [count for (count,) in gathered([rows.shape[1]])]
    own = torch.zeros(len(rows), max(counts))
    own[:, : rows.shape[1]] = torch.from_numpy(rows)
    parts = [torch.empty_like(own) for _ in counts]
    dist.all_gather(parts, own, group=_control_group())
    return torch.cat([part[:, :count] for part, count in zip(parts, counts, strict=True)], dim=1).numpy()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each of ``tensors`` by its mean over the processes.

    There is one message for each type and device.
    """
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket]).div_(processes())
        dist.all_reduce(flat)
        _unpack(flat, bucket)


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Replace each of ``tensors`` by that of rank 0.

    There is one message for each type and device.
    """
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.broadcast(flat, 0)
        _unpack(flat, bucket)


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    buckets = defaultdict[tuple[torch.dtype, torch.device], list[Tensor]](list)
    for tensor in tensors:
        if tensor.numel():
            buckets[tensor.dtype, tensor.device].append(tensor.detach())
    return list(buckets.values())


def _unpack(flat: Tensor, bucket: Sequence[Tensor]) -> None:
    parts = torch.split(flat, [tensor.numel() for tensor in bucket])
    for tensor, part in zip(bucket, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def _control_group() -> Any:
    """Group on the CPU; ``None``, the default group, if that is one. The first call is collective."""
    if dist.get_backend() == "gloo":
        return None
    if _CONTROL.get("default") is not dist.group.WORLD:
        _CONTROL.update(default=dist.group.WORLD, group=dist.new_group(backend="gloo"))
    return _CONTROL["group"]

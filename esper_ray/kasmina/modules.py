"""Helpers of modules: seeded weights, parameter counts, tracing, checkpointing, tensors that repeat memory."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.utils import checkpoint as checkpoints

from esper_ray.leyline.process.locks import GLOBAL_GENERATOR


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Context that seeds the initial weights and preserves the global generator.

    Modules of other libraries initialise themselves from torch's global generator, so it is seeded for the
    construction and restored afterwards, one thread at a time.
    """
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU as well
        yield


@contextmanager
def preserved_randomness(device: torch.device) -> Iterator[None]:
    """Context whose random numbers change no later ones on CPU and ``device``. It admits one thread at a time."""
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def random_streams(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global random streams on CPU and ``device``, by device type."""
    streams = {"cpu": torch.get_rng_state()}
    return streams | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_streams(streams: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the states of :func:`random_streams`.

    Raises:
        ValueError: if they are not those of CPU and ``device``; nothing is changed then.
    """
    present = random_streams(device)
    for name in present.keys() | streams.keys():
        state = streams.get(name)
        if name not in present or state is None or (state.shape, state.dtype) != (present[name].shape, torch.uint8):
            raise ValueError(f"random stream {name} is not one of {', '.join(present)}")
    try:
        torch.set_rng_state(streams["cpu"].cpu())
        if "cuda" in streams:
            torch.cuda.set_rng_state(streams["cuda"].cpu(), device)
    except RuntimeError as error:
        torch.set_rng_state(present["cpu"])
        raise ValueError(f"random stream: {error}") from error


def count_parameters(module: nn.Module) -> int:
    """Structural number of parameters of ``module``, each tensor once, frozen or not."""
    return sum(parameter.numel() for parameter in module.parameters())


def is_symbolic(value: object) -> bool:
    """Whether ``value`` is a ``torch.fx`` proxy without readable numbers."""
    return isinstance(value, Proxy)


@contextmanager
def differentiable_checkpoints() -> Iterator[None]:
    """Context in which activation checkpointing of the reentrant kind runs as the other kind.

    The reentrant kind only serves ``backward()``: the gradients of selected tensors do not reach what it computes.
    """
    reentrant = checkpoints.CheckpointFunction
    original = reentrant.__dict__.get("apply")

    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return checkpoints.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)

    reentrant.apply = staticmethod(apply)
    try:
        yield
    finally:
        if original is None:
            del reentrant.apply
        else:
            reentrant.apply = original


def repeated_dimensions(tensor: Tensor) -> list[int]:
    """Dimensions along which ``tensor`` repeats the same memory, as after ``expand``."""
    if tensor.layout is not torch.strided:
        return []
    return [
        dim for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)) if size > 1 > stride
    ]


def once(tensor: Tensor, dimensions: list[int]) -> Tensor:
    """A view of ``tensor`` with only the first element along ``dimensions``."""
    for dim in dimensions:
        tensor = tensor.narrow(dim, 0, 1)
    return tensor


def overlaps(tensor: Tensor) -> bool:
    """Whether elements of ``tensor`` share memory in another way than by repetition along a dimension."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return False
    part = once(tensor, repeated_dimensions(tensor))
    reach = 0
    for stride, size in sorted(
        (stride, size) for stride, size in zip(part.stride(), part.shape, strict=True) if size > 1
    ):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def fits_memory(target: Tensor, value: Tensor) -> bool:
    """Whether :func:`assign` can give ``target`` exactly ``value``: equal wherever ``target`` repeats its memory."""
    dimensions = repeated_dimensions(target)
    if overlaps(target):
        return bool(_equal(target, value).all())
    return not dimensions or bool(_equal(once(value, dimensions), value).all())


def assign(target: Tensor, value: Tensor) -> None:
    """Copy ``value`` into ``target``, each place of its memory once.

    Args:
        value: of the same shape; :func:`fits_memory` holds.
    """
    if overlaps(target):
        return
    dimensions = repeated_dimensions(target)
    with torch.no_grad():
        once(target, dimensions).copy_(once(value, dimensions))


def _equal(first: Tensor, second: Tensor) -> Tensor:
    """Elements that are equal, or both not a number."""
    return (first == second) | (first.isnan() & second.isnan())

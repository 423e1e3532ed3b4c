"""Checks of a newborn seed before it enters a network."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from esper_ray.kasmina.blueprints.delta import Delta
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.process.locks import GLOBAL_GENERATOR


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Context that preserves the global generators across random draws (dropout).

    It does nothing while a CUDA graph is captured, since the graph has its own stream.
    """
    if device.type != "cuda":
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            yield
    elif torch.cuda.is_current_stream_capturing():
        yield
    else:
        with torch.random.fork_rng(devices=[device]):
            yield


def check_newborn(slot: str, seed: nn.Module, cell: SeedCell) -> None:
    """Check that ``seed`` is the identity on the features of ``slot``, not in place.

    Raises:
        ValueError: if it fails, works in place, changes the shape or the values, or mixes tokens of which the host
            keeps the earlier ones to itself.
    """
    copied = copy.deepcopy(seed)  # buffers of the body (running statistics) must not see the probe
    for batch in (2, 1):
        _check(slot, copied, cell.probe(batch), cell.change_size(batch))
        copied.eval()  # one example alone is not a batch that statistics can be learned from
    if cell.host_cache is not None and seed_mixes_tokens(copied, cell):
        raise ValueError(
            f"slot {slot}: the seed mixes tokens, but the host keeps earlier ones in {cell.host_cache!r} and it "
            "would miss them; take a blueprint that treats each token alone: lora, mlp, mlp_small or norm"
        )


def seed_mixes_tokens(seed: nn.Module, cell: SeedCell) -> bool:
    """Whether ``seed``, in evaluation mode, mixes tokens of the sequences in ``cell``."""
    if isinstance(seed, Widening):
        return any(isinstance(part, _ConvNd) for part in seed.modules())
    body = seed.body if isinstance(seed, Delta) else seed
    return mixes_tokens(body, cell.alpha, cell.shape.channels)


def mixes_tokens(body: Callable[[Tensor], Tensor], example: Tensor, width: int) -> bool:
    """Whether the last token of ``body(h)`` depends on other tokens, by a probe.

    Args:
        example: gives type and device.
        width: features of a token.
    """
    tokens = torch.linspace(-9.0, 9.0, 4 * width).sin().reshape(1, 4, width).to(example)
    others = torch.cat([tokens[:, :-1].flip(-1) + 1.0, tokens[:, -1:]], dim=1)
    with torch.no_grad():
        return not torch.allclose(body(tokens)[:, -1], body(others)[:, -1], rtol=1e-4, atol=1e-6)


def _check(slot: str, seed: nn.Module, probe: Tensor, expected: tuple[int, ...]) -> None:
    """
    Args:
        expected: shape of a change.
    """
    untouched = probe.clone()
    with torch.no_grad():
        try:
            output = seed.body(probe) if isinstance(seed, Delta) else None
            change = seed(probe) if output is None or _has_shape(output, expected) else output
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(f"slot {slot}: the seed cannot work on features {tuple(probe.shape)}: {error}") from error
    if not torch.equal(probe, untouched):
        raise ValueError(f"slot {slot}: the seed works in place, on features that belong to the host")
    if not _has_shape(change, expected):
        shape = tuple(change.shape) if isinstance(change, Tensor) else f"a {type(change).__name__}"
        raise ValueError(
            f"slot {slot}: the seed turns {tuple(probe.shape)} into {shape}; it must keep the shape of the features"
        )
    rounding = seed.rounding(probe) if isinstance(seed, Widening) else 0.0
    if not change.abs().max() <= rounding:
        raise ValueError(
            f"slot {slot}: the seed is not the identity at birth, its change reaches {change.abs().max():.3g}"
        )


def _has_shape(output: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(output, Tensor) and tuple(output.shape) == shape

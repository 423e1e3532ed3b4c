"""Caches of keys and values, under which a decoder sees new tokens alone.

A seed that treats every token alone computes the same with such a cache as without it. One that mixes tokens would miss
the earlier ones, which are not in the cache. Such a pass is refused with the remedy.
"""

import inspect
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.newborn import preserved_rng, seed_mixes_tokens
from esper_ray.leyline.blueprints import Topology

CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")
"""Names of the argument that carries a cache in libraries of decoders."""
LENGTH = "get_seq_length"
"""Method of a cache that yields the number of its tokens."""


def takes_cache(host: nn.Module) -> bool:
    """Whether ``host`` is a decoder that can be called with a cache."""
    parameters = inspect.signature(host.forward).parameters
    return hasattr(host, "generate") or any(name in parameters for name in CACHE_ARGUMENTS)


def holds_tokens(arguments: Mapping[str, Any]) -> bool:
    """Whether a cache among the named arguments of a pass holds earlier tokens."""
    for name in CACHE_ARGUMENTS:
        cache = arguments.get(name)
        try:
            if cache is not None and (not hasattr(cache, LENGTH) or int(getattr(cache, LENGTH)()) > 0):
                return True
        except ValueError:  # raised by caches of recurrent layers, which do not count tokens
            return True
    return False


def refusal(slots: str) -> str:
    """Message of a pass that is refused."""
    return (
        f"the seed in {slots} mixes tokens, and this pass has new tokens alone, with a cache of earlier ones; "
        "call the model with use_cache=False"
    )


class CacheGuard:
    """Forward pre-hook that refuses passes in which a seed would miss earlier tokens."""

    def __init__(self, cells: Mapping[str, SeedCell]) -> None:
        self.cells = dict(cells)

    def __call__(self, _module: nn.Module, _args: Any, kwargs: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: if there are earlier tokens in a cache, and a seed that mixes tokens contributes.
        """
        if any(cell.contributes for cell in self.cells.values()) and holds_tokens(kwargs):
            mixing = [slot for slot, cell in self.cells.items() if cell.contributes and cell_mixes_tokens(cell)]
            if mixing:
                raise ValueError(refusal(", ".join(mixing)))


_MIXING: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Results of probes by seed module."""


def cell_mixes_tokens(cell: SeedCell) -> bool:
    """Whether the seed of ``cell``, or its gate network, mixes tokens."""
    seed, shape = cell.seed, cell.shape
    if seed is None or shape.topology is not Topology.SEQUENCES:
        return False
    if cell.gate is not None and not shape.causal:
        return True
    if seed not in _MIXING:
        with evaluation_mode(seed), preserved_rng(cell.alpha.device):
            _MIXING[seed] = seed_mixes_tokens(seed, cell)
    return _MIXING[seed]

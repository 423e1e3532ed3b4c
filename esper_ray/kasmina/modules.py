"""Helpers of module builders: seeded initial weights, parameter counts, symbolic tracing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.fx import Proxy

from esper_ray.leyline.process_locks import GLOBAL_GENERATOR


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Context that seeds the initial weights and preserves the global generator.

    Modules of other libraries initialise themselves from torch's global generator, so it is seeded for the
    construction and restored afterwards, one thread at a time.
    """
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU as well
        yield


def count_parameters(module: nn.Module) -> int:
    """Structural number of parameters of ``module``, each tensor once, frozen or not."""
    return sum(parameter.numel() for parameter in module.parameters())


def is_symbolic(value: object) -> bool:
    """Whether ``value`` is a ``torch.fx`` proxy without readable numbers."""
    return isinstance(value, Proxy)

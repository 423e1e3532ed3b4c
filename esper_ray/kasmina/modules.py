"""What every builder of modules needs: seeded initial weights, parameter counts, symbolic tracing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.fx import Proxy

from esper_ray.leyline.process_locks import GLOBAL_GENERATOR


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Draw the initial weights of modules built inside from ``seed``, leaving the global generator as it was.

    Modules of other libraries initialise themselves from torch's global generator, so it is borrowed
    for the construction and handed back. One thread at a time.
    """
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU as well
        yield


def count_parameters(module: nn.Module) -> int:
    """Structural number of parameters of ``module``, each tensor once, frozen or not."""
    return sum(parameter.numel() for parameter in module.parameters())


def is_symbolic(value: object) -> bool:
    """Whether ``value`` is a placeholder of ``torch.fx`` tracing, whose numbers cannot be read."""
    return isinstance(value, Proxy)

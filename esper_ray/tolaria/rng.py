"""Layers that draw random numbers, such as dropout, draw them from torch's global generators: these are lent out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from esper_ray.leyline.process_locks import GLOBAL_GENERATOR


@contextmanager
def keyed_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Within it, torch's global generator for ``device`` starts from ``seed``.

    On the CPU it is as before afterwards, and only one thread at a time is let in. On a GPU, threads that
    train side by side share one stream of numbers.
    """
    if device.type == "cpu":
        with GLOBAL_GENERATOR:
            before = torch.get_rng_state()
            try:
                torch.default_generator.manual_seed(seed)
                yield
            finally:
                torch.set_rng_state(before)
    else:
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield

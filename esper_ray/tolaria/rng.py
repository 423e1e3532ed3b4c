"""Seeding of torch's global generators for layers with random draws, such as dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from esper_ray.leyline.process.locks import GLOBAL_GENERATOR


@contextmanager
def keyed_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Context in which torch's global generator of ``device`` starts from ``seed``.

    On the CPU the generator is restored afterwards, and a lock admits one thread at a time. On a GPU, threads
    that train side by side share one stream of numbers.
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

"""Tensors in which a host keeps earlier tokens, such as its own cache.

A seed that mixes tokens would miss those tokens: it sees the new ones alone, and has no such tensor itself.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from esper_ray.kasmina.network.places.outputs import tensors_in

LEAST_DIMENSIONS = 3
"""Smallest number of dimensions of features of tokens: examples, tokens, channels."""


class HeldTensors:
    """Tensors that the modules of a host hold, with at least three dimensions."""

    def __init__(self, host: nn.Module) -> None:
        self._host = host
        self._tensors = _held(host)
        self._versions = {name: tensor._version for name, tensor in self._tensors.items()}

    def kept_by(self, run: Callable[[], Any]) -> str | None:
        """Name of a tensor in which passes keep what they saw; ``None`` without one.

        It is one that the passes so far have written into, or one that a further, equal pass makes longer.

        Args:
            run: makes that further pass.
        """
        after = _held(self._host)
        for name, tensor in after.items():
            if tensor is self._tensors.get(name) and tensor._version > self._versions[name]:
                return name
        fresh = {name: tensor for name, tensor in after.items() if tensor is not self._tensors.get(name)}
        if not fresh:
            return None
        run()
        again = _held(self._host)
        longer = (name for name, tensor in fresh.items() if name in again and again[name].shape != tensor.shape)
        return next(longer, None)


def _held(host: nn.Module) -> dict[str, Tensor]:
    """Buffers of ``host`` and tensors in the attributes of its modules, by name."""
    held = {}
    for place, module in host.named_modules():
        public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        for name, value in {**public, **module._buffers}.items():
            for number, tensor in enumerate(tensors_in(value)):
                if tensor.dim() >= LEAST_DIMENSIONS and not tensor.is_inference():
                    held[".".join(filter(None, (place, name, str(number or ""))))] = tensor
    return held

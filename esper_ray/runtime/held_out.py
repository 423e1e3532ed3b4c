"""Held-out examples of a user, for measurements of a growing model, never for its training."""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from esper_ray.kasmina.network.attachment import evaluation_mode

Pairs = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
"""Inputs and targets, as two tensors or in batches."""


class HeldOut:
    """Held-out examples in memory."""

    def __init__(self, pairs: Pairs, limit: int, device: torch.device) -> None:
        """
        Args:
            limit: maximum number of examples, from the first.

        Raises:
            ValueError: if there are no examples, inputs and targets differ in number, inputs are not finite, or
                targets are not whole numbers.
        """
        is_pair = isinstance(pairs, tuple) and len(pairs) == 2 and all(isinstance(part, Tensor) for part in pairs)
        batches = cast(Iterable[tuple[Tensor, Tensor]], [pairs] if is_pair else pairs)
        inputs, targets = [], []
        for x, y in batches:
            if len(x) != len(y):
                raise ValueError(f"held-out examples: {len(x)} inputs and {len(y)} targets")
            inputs.append(x[:limit].to(device))
            targets.append(y[:limit].to(device))
            if sum(map(len, targets)) >= limit:
                break
        if not targets or not sum(map(len, targets)):
            raise ValueError("a policy needs at least 1 held-out example, got 0 in data")
        self.inputs, self.targets = torch.cat(inputs)[:limit], torch.cat(targets)[:limit]
        if self.inputs.is_floating_point() and not bool(self.inputs.isfinite().all()):
            value = self.inputs[~self.inputs.isfinite()][0].item()
            raise ValueError(f"held-out inputs must be finite, got {value}")
        if self.targets.dtype is not torch.int64:
            raise ValueError(f"held-out targets must be int64, got {self.targets.dtype}")
        self.classes = 0

    @property
    def random_guess_loss(self) -> float:
        """Cross-entropy in nats of a uniform prediction."""
        return float(np.log(self.classes))

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    def prepared(self, split: Any, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples ``start`` to ``stop``."""
        return self.inputs[start:stop], self.targets[start:stop]

    def fit_classes(self, model: nn.Module) -> None:
        """Set the number of classes to that of ``model``.

        Raises:
            ValueError: if it does not yield (B, classes) or (B, T, classes) logits for these targets.
        """
        with torch.no_grad(), evaluation_mode(model):
            logits = model(self.inputs[:2])
        expected = (*self.targets[:2].shape, "classes")
        if not isinstance(logits, Tensor) or logits.shape[:-1] != self.targets[:2].shape:
            actual = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the model must yield logits of shape {expected} for these targets, got {actual}")
        self.classes = logits.shape[-1]
        if int(self.targets.max()) >= self.classes or int(self.targets.min()) < 0:
            low, high = int(self.targets.min()), int(self.targets.max())
            raise ValueError(f"targets must lie in 0..{self.classes - 1}, the classes of the model; got {low}..{high}")

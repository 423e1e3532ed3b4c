"""A slot in the network: one seed module, its amplitude, and how its change joins the host's features."""

from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.leyline.stages import AMPLIFIED, Stage


class StraightThrough(torch.autograd.Function):
    """Forward: the features, untouched. Backward: the gradient goes to features and change alike."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, change: Tensor) -> Tensor:
        return features.clone()  # a view would forbid in-place operations in the user's next layer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        return gradient, gradient


class SeedCell(nn.Module):
    """A slot. It stays in place for the life of the model, with or without a seed.

    ``alpha`` is one 0-dim tensor that is written in place and never replaced.
    """

    alpha: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.seed: nn.Module | None = None
        self.stage = Stage.DORMANT
        self.excess: Tensor | None = None
        self.bound = 0.25
        self.register_buffer("alpha", torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, ...) features to features of the same shape.

        An empty or germinated slot returns its input. In TRAINING the output is the input, bit by bit,
        while the seed learns as if its change were added; the seed sees the features detached, so the
        host does not learn to please it. From BLENDING on the change is added at amplitude alpha, and
        the host's own path keeps its full gradient.
        """
        if self.seed is None or self.stage is Stage.GERMINATED:
            return h
        if self.stage is Stage.TRAINING:
            if not self.training:
                return h
            source = h.detach().contiguous()
            change = self.seed(source)
            self.excess = self._excess(source, change)
            passed: Tensor = StraightThrough.apply(h, change)
            return passed
        return self.blended(h)

    def blended(self, h: Tensor) -> Tensor:
        """``h + alpha * d(h)``.

        Raises:
            RuntimeError: if the slot holds no seed.
        """
        if self.seed is None:
            raise RuntimeError("an empty slot has nothing to blend")
        mixed: Tensor = h + self.alpha * self.seed(h)
        return mixed

    @property
    def contributes(self) -> bool:
        """Whether the seed changes the host's output (up to its amplitude)."""
        return self.seed is not None and self.stage in AMPLIFIED

    def _excess(self, features: Tensor, change: Tensor) -> Tensor:
        """Squared excess of RMS(change) / RMS(features) over the bound: the penalty of incubation."""
        ratio = change.pow(2).mean().add(1e-12).sqrt() / features.pow(2).mean().add(1e-8).sqrt()
        return (ratio - self.bound).clamp_min(0).pow(2)

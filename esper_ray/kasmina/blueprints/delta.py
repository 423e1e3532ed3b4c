"""Base modules of seeds: a scaled body, and a seed without effect."""

import torch
from torch import Tensor, nn


class Delta(nn.Module):
    """Body with a zero-initialised scale: ``d = scale * body(h)``. The output has the shape of h."""

    def __init__(self, body: nn.Module, channels: int, *, images: bool) -> None:
        """
        Args:
            images: channels are the second dimension of (B, C, H, W), else the last one.
        """
        super().__init__()
        self.body = body
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1) if images else torch.zeros(channels))

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.body(h) * self.scale
        return change


class Noop(nn.Module):
    """A seed without parameters whose change is zero."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.zeros_like(h)

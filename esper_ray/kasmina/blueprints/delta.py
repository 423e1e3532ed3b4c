"""Base modules of seeds: a scaled body, and a seed without effect."""

import torch
from torch import Tensor, nn

OutputLayer = nn.Linear | nn.Conv1d | nn.Conv2d
"""Layers that can start at zero."""


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

    @torch.no_grad()
    def start_at_output(self) -> bool:
        """Start with a last layer of zero and a scale of one.

        All weights of that layer then have a gradient in the first step, not one number per channel: a step of Adam
        moves the change further by about the root of the layer's inputs (Hu et al., 2022, start LoRA so).

        Returns:
            False, with nothing changed, if the body does not end with a linear layer or a convolution. A layer before
            a normalisation is never made zero.
        """
        last = output_layer(self.body)
        if last is None:
            return False
        last.weight.zero_()
        if last.bias is not None:
            last.bias.zero_()
        self.scale.fill_(1.0)
        return True


def output_layer(body: nn.Module) -> OutputLayer | None:
    """The linear layer or convolution whose output is that of ``body``.

    It is the last one of a sequence, or what the body names as its ``output_layer``.
    """
    named = getattr(body, "output_layer", None)
    last = body[-1] if named is None and isinstance(body, nn.Sequential) and len(body) else named
    return last if isinstance(last, OutputLayer) else None


class Noop(nn.Module):
    """A seed without parameters whose change is zero."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.zeros_like(h)

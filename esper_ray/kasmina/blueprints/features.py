"""Seed bodies over the last dimension of (B, D) features and (B, T, D) sequences."""

from torch import Tensor, nn
from torch.nn.functional import gelu

from esper_ray.leyline.blueprints import (
    LORA_LARGE_RANK,
    LORA_RANK,
    MLP_EXPANSION,
    MLP_SMALL_EXPANSION,
    squeeze_width,
)


class FeatureNormChange(nn.Module):
    """Layer normalisation minus identity: the change that normalising would make."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.norm(h) - h
        return change


class FeatureAttention(nn.Module):
    """Feature attention: ``h * tanh(W2 gelu(W1 h) + b)``. All features weight each one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, squeeze_width(width), bias=False)
        self.excite = nn.Linear(squeeze_width(width), width)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = h * self.excite(gelu(self.squeeze(h))).tanh()
        return change


def _low_rank(width: int, rank: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False))


def lora(width: int) -> nn.Module:
    """Linear map of rank 8."""
    return _low_rank(width, LORA_RANK)


def lora_large(width: int) -> nn.Module:
    """Linear map of rank 32."""
    return _low_rank(width, LORA_LARGE_RANK)


def _two_layers(width: int, expansion: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))


def mlp_small(width: int) -> nn.Module:
    """Two linear layers around GELU, twice as wide inside."""
    return _two_layers(width, MLP_SMALL_EXPANSION)


def mlp(width: int) -> nn.Module:
    """Two linear layers around GELU, four times as wide inside."""
    return _two_layers(width, MLP_EXPANSION)

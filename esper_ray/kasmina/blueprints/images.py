"""Seed bodies for (B, C, H, W) features. Convolutions have stride 1 and keep the size."""

from torch import Tensor, nn
from torch.nn.functional import gelu

from esper_ray.leyline.blueprints import bottleneck_width, squeeze_width


class NormChange(nn.Module):
    """Group normalisation minus identity: the change that normalising would make."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)

    def forward(self, h: Tensor) -> Tensor:
        # Up to torch 2.13, GroupNorm's backward crashes on a channels_last input without gradient.
        change: Tensor = self.norm(h.contiguous()) - h
        return change


class ChannelAttention(nn.Module):
    """Squeeze and excitation as a change: ``h * tanh(W2 gelu(W1 mean(h)) + b)``. The mean is over H and W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = squeeze_width(channels)
        self.squeeze = nn.Conv2d(channels, width, 1, bias=False)
        self.excite = nn.Conv2d(width, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        pooled = h.mean(dim=(2, 3), keepdim=True)
        # Not ReLU: one or two squeezed channels would often be negative for every image, and never learn.
        change: Tensor = h * self.excite(gelu(self.squeeze(pooled))).tanh()
        return change


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with the most groups that leave at least 16 channels each.

    The number of groups is the largest of 32, 16, 8, 4, 2 and 1 that qualifies. If none does, it is the largest
    that divides the channels: one channel per group for 1, 2, 4 and 8 channels.
    """
    divisors = [groups for groups in (32, 16, 8, 4, 2, 1) if channels % groups == 0]
    roomy = [groups for groups in divisors if channels // groups >= 16]
    return nn.GroupNorm((roomy or divisors)[0], channels)


def _conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


def conv_small(c: int) -> nn.Module:
    """1x1 convolution, norm, ReLU."""
    return nn.Sequential(_conv(c, c, 1), group_norm(c), nn.ReLU())


def conv_light(c: int) -> nn.Module:
    """3x3 convolution, norm, ReLU."""
    return nn.Sequential(_conv(c, c, 3), group_norm(c), nn.ReLU())


def conv_heavy(c: int) -> nn.Module:
    """Two 3x3 convolutions, each with norm and ReLU."""
    return nn.Sequential(*conv_light(c).children(), *conv_light(c).children())


def depthwise(c: int) -> nn.Module:
    """3x3 convolution of each channel by itself, 1x1 convolution, norm, ReLU."""
    return nn.Sequential(_conv(c, c, 3, groups=c), _conv(c, c, 1), group_norm(c), nn.ReLU())


def bottleneck(c: int) -> nn.Module:
    """1x1 convolution down, 3x3 in between, 1x1 up, norm."""
    b = bottleneck_width(c)
    return nn.Sequential(_conv(c, b, 1), nn.ReLU(), _conv(b, b, 3), nn.ReLU(), _conv(b, c, 1), group_norm(c))

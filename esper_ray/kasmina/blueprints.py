"""What a seed is made of: small modules that compute a *change* d of the features h.

Every blueprint ends in a per-channel scale that starts at zero, after its last nonlinearity. So the
change is exactly zero at birth, the scale gets gradient in the first step and everything before it
in the second. Parameter counts are closed forms in the number of channels, so that masks and rent
need no module.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.config import unknown

BOTTLENECK_REDUCTION = 4


class Delta(nn.Module):
    """A body and a zero-initialised scale: ``d = scale * body(h)``.

    Shapes: (B, C, H, W) to (B, C, H, W), any B, H and W.
    """

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.body(h) * self.scale
        return change


class NormChange(nn.Module):
    """Group normalisation minus identity: the change that normalising would make."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.norm(h) - h
        return change


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with the largest of 32, 16, 8, 4, 2, 1 groups that divides the channels into 16 or more.

    Where none does, the largest that divides them at all: one channel per group for 1, 2, 4 and 8 channels.
    """
    divisors = [groups for groups in (32, 16, 8, 4, 2, 1) if channels % groups == 0]
    roomy = [groups for groups in divisors if channels // groups >= 16]
    return nn.GroupNorm((roomy or divisors)[0], channels)


@dataclass(frozen=True, slots=True)
class BlueprintSpec:
    """How to build a blueprint, and what it costs."""

    build: Callable[[int], nn.Module]
    """Channels to module."""
    parameters: Callable[[int], int]
    """Channels to structural parameter count."""


def _norm(c: int) -> nn.Module:
    return Delta(NormChange(c), c)


def _conv_light(c: int) -> nn.Module:
    return Delta(nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), group_norm(c), nn.ReLU()), c)


def _depthwise(c: int) -> nn.Module:
    spatial = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)
    return Delta(nn.Sequential(spatial, nn.Conv2d(c, c, 1, bias=False), group_norm(c), nn.ReLU()), c)


def _bottleneck(c: int) -> nn.Module:
    b = _bottleneck_width(c)
    down, mix, up = (
        nn.Conv2d(c, b, 1, bias=False),
        nn.Conv2d(b, b, 3, padding=1, bias=False),
        nn.Conv2d(b, c, 1, bias=False),
    )
    return Delta(nn.Sequential(down, nn.ReLU(), mix, nn.ReLU(), up, group_norm(c)), c)


def _bottleneck_width(c: int) -> int:
    return max(8, c // BOTTLENECK_REDUCTION)


CNN_BLUEPRINTS: dict[Blueprint, BlueprintSpec] = {
    Blueprint.NORM: BlueprintSpec(_norm, lambda c: 3 * c),
    Blueprint.CONV_LIGHT: BlueprintSpec(_conv_light, lambda c: 9 * c * c + 3 * c),
    Blueprint.DEPTHWISE: BlueprintSpec(_depthwise, lambda c: c * c + 12 * c),
    Blueprint.BOTTLENECK: BlueprintSpec(
        _bottleneck, lambda c: 2 * c * _bottleneck_width(c) + 9 * _bottleneck_width(c) ** 2 + 3 * c
    ),
}
"""Blueprints for image features, by action index."""


def blueprint_spec(blueprint: Blueprint) -> BlueprintSpec:
    """The specification of ``blueprint`` for image features.

    Raises:
        ValueError: if it does not exist for image features.
    """
    spec = CNN_BLUEPRINTS.get(blueprint)
    if spec is None:
        raise ValueError(unknown("blueprint", blueprint.id, [known.id for known in CNN_BLUEPRINTS]))
    return spec


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Draw the initial weights of modules built inside from ``seed``, leaving the global generator as it was.

    Modules of other libraries initialise themselves from torch's global generator, so it is borrowed
    for the construction and handed back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU as well
        yield


def count_parameters(module: nn.Module) -> int:
    """Structural number of parameters of ``module``, each tensor once, frozen or not."""
    return sum(parameter.numel() for parameter in module.parameters())

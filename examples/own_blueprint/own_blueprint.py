"""Example of a blueprint package: a dilated convolution, which sees further than the built-in ones."""

from torch import Tensor, nn

from esper_ray.kasmina.blueprints import SlotShape
from esper_ray.leyline.blueprints import Topology


class Dilated(nn.Module):
    """Dilated depthwise convolution and a pointwise one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.pointwise(self.norm(self.depthwise(h)).relu())
        return change


def dilated(shape: SlotShape) -> nn.Module:
    """Body of a seed. A scale of zero after it makes the newborn seed the identity.

    Raises:
        ValueError: if the features are no images; the user sees it as an error of this blueprint.
    """
    if shape.topology is not Topology.IMAGES:
        raise ValueError(f"it works on images, got {shape.topology.value}")
    return Dilated(shape.channels)

"""Example of a host package: a small residual network for images of any size."""

from pydantic import Field
from torch import Tensor, nn

from esper_ray.kasmina.hosts import HostSpec
from esper_ray.leyline.config.base import Integer, Section


class Options(Section):
    """Section ``host.options`` of this host."""

    width: Integer = Field(8, ge=1, le=1024, description="channels of every stage")
    stages: Integer = Field(3, ge=1, le=8, description="residual stages, each with a slot at its end")


class Stage(nn.Module):
    """Residual convolution, (B, C, H, W) to (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, h: Tensor) -> Tensor:
        passed: Tensor = h + self.norm(self.convolution(h)).relu()
        return passed


def residual(input_shape: tuple[int, ...], classes: int, options: Options) -> HostSpec:
    """Residual network of equal stages, whose initial weights come from torch's global generator.

    Args:
        input_shape: (C, H, W) of one example.
        classes: number of logits.

    Raises:
        ValueError: if the examples are no images; the user sees it as an error of this host.
    """
    if len(input_shape) != 3:
        raise ValueError(f"it needs images (C, H, W), got examples of shape {input_shape}")
    stages = [Stage(options.width) for _ in range(options.stages)]
    module = nn.Sequential(
        nn.Conv2d(input_shape[0], options.width, 3, padding=1),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(options.width, classes),
    )
    return HostSpec(module, {f"r0c{index}": str(index + 1) for index in range(options.stages)})

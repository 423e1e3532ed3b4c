"""Built-in hosts. They know nothing about slots: those attach from outside, as for any module."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from esper_ray.leyline.config import HostConfig


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation, ReLU; spatial size is kept."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class CNNHost(nn.Module):
    """Convolution blocks of doubling width, the first of them pooled, then a global mean and a linear layer.

    Shapes: (B, ``in_channels``, H, W) to (B, ``classes``) logits.
    """

    def __init__(self, config: HostConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [config.base_channels * 2**i for i in range(config.blocks)]
        inputs = [in_channels, *widths[:-1]]
        blocks = zip(inputs, widths, strict=True)
        self.blocks = nn.ModuleList(ConvBlock(before, after, config.kernel_size) for before, after in blocks)
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in range(config.pools))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index < len(self.pools):
                x = self.pools[index](x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host module and where its slots are."""

    module: nn.Module
    slot_modules: "OrderedDict[str, str]"
    """Slot id to name of the submodule whose output it works on."""


def build_host(config: HostConfig, in_channels: int, classes: int) -> HostSpec:
    """The host that ``config`` describes: slot ``r0c<i>`` after block i, ``r1c<i>`` after pool i.

    Initial weights come from torch's global generator; wrap the call in ``seeded_initialisation``.
    """
    module = CNNHost(config, in_channels, classes)
    names = OrderedDict((f"r0c{i}", f"blocks.{i}") for i in range(config.blocks))
    names.update((f"r1c{i}", f"pools.{i}") for i in range(config.pools))
    return HostSpec(module, names)

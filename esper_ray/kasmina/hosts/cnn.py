"""Convolutional hosts for images."""

import torch
from torch import Tensor, nn

from esper_ray.leyline.config.host import CNNHostConfig


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation, ReLU; spatial size is kept."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class CNNHost(nn.Module):
    """CNN of pooled convolution blocks of doubling width, global mean and linear layer.

    Shapes: (B, ``in_channels``, H, W) to (B, ``classes``) logits.
    """

    def __init__(self, config: CNNHostConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [config.base_channels * 2**i for i in range(config.blocks)]
        inputs = [in_channels, *widths[:-1]]
        blocks = zip(inputs, widths, strict=True)
        self.blocks = nn.ModuleList(ConvBlock(before, after, config.kernel_size) for before, after in blocks)
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in range(config.pools))
        self.head = nn.Linear(widths[-1], classes)
        self.channels_last = config.memory_format == "channels_last"

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index < len(self.pools):
                x = self.pools[index](x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits

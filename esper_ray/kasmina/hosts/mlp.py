"""Residual multi-layer perceptron for inputs of any shape."""

from torch import Tensor, nn

from esper_ray.leyline.config.host import MLPHostConfig


class ResidualBlock(nn.Module):
    """``h + dropout(W2 relu(W1 LN(h)))``, (B, D) to (B, D)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.Dropout(dropout)
        )

    def forward(self, h: Tensor) -> Tensor:
        passed: Tensor = h + self.branch(h)
        return passed


class MLPHost(nn.Module):
    """A linear stem, residual blocks, layer normalisation and a linear head.

    Shapes: (B, ...) with ``inputs`` numbers per example to (B, ``classes``) logits.
    """

    def __init__(self, config: MLPHostConfig, inputs: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(
            ResidualBlock(config.width, config.expansion * config.width, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.flatten(1))
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits

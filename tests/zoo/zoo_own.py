"""Architectures without a library: layouts, sharing, checkpointing and normalisations of all kinds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper_ray.kasmina.hosts import build_host
from esper_ray.leyline.config.host import CNNHostConfig, MLPHostConfig, TransformerHostConfig


class Signal(nn.Module):
    """One-dimensional convolutions, (B, C, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv1d(2, 8, 3, padding=1), nn.Conv1d(8, 8, 5, padding=2, stride=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x).relu()).relu().mean(-1))


class Recurrent(nn.Module):
    """An LSTM, whose output is the first entry of a tuple."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.lstm, self.head, self.time = nn.LSTM(6, 8, batch_first=batch_first), nn.Linear(8, 3), int(batch_first)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm(x)
        return self.head(output.select(self.time, -1))


class Encoder(nn.Module):
    """torch's own encoder on (T, B, D) or (B, T, D), from (B, T) tokens."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.token, self.batch_first = nn.Embedding(20, 16), batch_first
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.token(tokens)
        if self.batch_first:
            return self.head(self.encoder(h).mean(1))
        return self.head(self.encoder(h.transpose(0, 1)).mean(0))


class Checkpointed(nn.Module):
    """Activation checkpointing in both modes."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.block, self.stem(x).relu(), use_reentrant=self.reentrant)
        return self.head(h.relu().mean((2, 3)))


class Tied(nn.Module):
    """A language model with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.mixer, self.norm = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True), nn.LayerNorm(16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.mixer(self.token(tokens))[0]))


class Unet(nn.Module):
    """A U-shaped network with a shortcut by concatenation, whose output is a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.head = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        h = self.down(image).relu()
        both = torch.cat([h, self.up(self.deep(h).relu()).relu()], 1)
        return {"mask": self.head(both) * scale, "features": both}


class Last(nn.Module):
    """Images with channels at the end, fixed in size by its head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.block = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.head = nn.Linear(8 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x.permute(0, 2, 3, 1)))
        return self.head((h + self.block(h)).flatten(1))


class Starred(nn.Module):
    """A block with ``*args, **kwargs`` that returns a tuple, called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(6, 8), StarredBlock(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, scale = self.block(hidden=self.stem(x), scale=2.0)
        return self.head(h * scale)


class StarredBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, float]:
        return self.inner(kwargs["hidden"]).relu(), kwargs["scale"]


class Shared(nn.Module):
    """One block that is passed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.block(self.stem(x)).relu()).relu())


def _weight_norm() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old form, which hosts still have
        stem = nn.utils.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
    block = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
    return nn.Sequential(stem, nn.ReLU(), block, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def _spectral_norm() -> nn.Module:
    block = nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), block, nn.Flatten(), nn.Linear(8 * 36, 3))


def _batch_statistics() -> nn.Module:
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 3))


def _built_in(config: Any, shape: tuple[int, ...], classes: int) -> nn.Module:
    return build_host(config, shape, classes).module


def _tokens() -> Tensor:
    return torch.randint(0, 20, (2, 9))


def _image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


_CNN = CNNHostConfig(base_channels=4, blocks=3, pools=2, kernel_size=3)
_MLP = MLPHostConfig(width=16, blocks=2, expansion=2)
_GPT = TransformerHostConfig(layers=2, heads=2, embedding=16, context=16, segments=2, dropout=0.0)

OWN: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "cnn": (lambda: _built_in(_CNN, (3, 8, 8), 3), _image),
    "mlp": (lambda: _built_in(_MLP, (3, 8, 8), 3), _image),
    "transformer": (lambda: _built_in(_GPT, (9,), 20), _tokens),
    "signal": (Signal, lambda: torch.randn(2, 2, 32)),
    "lstm": (lambda: Recurrent(True), lambda: torch.randn(2, 7, 6)),
    "lstm with time first": (lambda: Recurrent(False), lambda: torch.randn(7, 2, 6)),
    "encoder": (lambda: Encoder(True), _tokens),
    "encoder with time first": (lambda: Encoder(False), _tokens),
    "checkpointing": (lambda: Checkpointed(False), _image),
    "reentrant checkpointing": (lambda: Checkpointed(True), _image),
    "tied weights": (Tied, _tokens),
    "u-net": (Unet, lambda: {"image": _image()}),
    "channels last": (Last, _image),
    "starred arguments": (Starred, lambda: torch.randn(2, 6)),
    "weight norm": (_weight_norm, _image),
    "spectral norm": (_spectral_norm, _image),
    "batch statistics": (_batch_statistics, _image),
    "shared block": (Shared, lambda: torch.randn(2, 6)),
}
"""Builder and example by name."""

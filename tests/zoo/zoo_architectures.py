"""The architectures of ``zoo.yaml`` as builders of hosts."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from zoo_life import Architecture
from zoo_own import OWN

TABLE = Path(__file__).parent / "zoo.yaml"
TASKS = {"fcn_resnet50": "segmentation", "deeplabv3_mobilenet_v3_large": "segmentation", "r3d_18": "video"}
"""Packages of torchvision's models that do not classify images."""
CLASSES = 5


def architectures() -> list[Architecture]:
    """All architectures, in the order of the file."""
    table = yaml.safe_load(TABLE.read_text())
    return [
        _architecture(library, name, entry) for library, entries in table.items() for name, entry in entries.items()
    ]


def _architecture(library: str, name: str, entry: Mapping[str, Any]) -> Architecture:
    build, example = SOURCES[library](name, entry)
    return Architecture(
        f"{library} {name}",
        build,
        example,
        tuple(entry["places"]),
        refused=entry.get("refused"),
        layout=entry.get("layout"),
        causal=entry.get("causal", False),
    )


Source = tuple[Callable[[], nn.Module], Callable[[], Any]]


def _timm(name: str, entry: Mapping[str, Any]) -> Source:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **entry.get("options", {}))

    return build, partial(_images, entry.get("size", 64))


def _torchvision(name: str, entry: Mapping[str, Any]) -> Source:
    def build() -> nn.Module:
        from torchvision import models

        package = getattr(models, TASKS[name]) if name in TASKS else models
        weights = {"weights": None} | ({"weights_backbone": None} if TASKS.get(name) == "segmentation" else {})
        return getattr(package, name)(**weights, num_classes=CLASSES, **entry.get("options", {}))

    if TASKS.get(name) == "video":
        return build, partial(torch.randn, 2, 3, 4, 32, 32)
    return build, partial(_images, entry.get("size", 64))


def _transformers(name: str, entry: Mapping[str, Any]) -> Source:
    def build() -> nn.Module:
        import transformers

        config = transformers.AutoConfig.for_model(name, **entry["options"])
        return getattr(transformers, entry["head"])._from_config(config)

    return build, EXAMPLES[entry.get("example", "tokens")]


def _own(name: str, _entry: Mapping[str, Any]) -> Source:
    return OWN[name]


def _images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size)


def _tokens(name: str = "input_ids", length: int = 10) -> dict[str, Any]:
    return {name: torch.randint(3, 60, (2, length))}


def _pixels(size: int = 32) -> dict[str, Any]:
    return {"pixel_values": _images(size)}


SOURCES = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers, "own": _own}
EXAMPLES: Mapping[str, Callable[[], Any]] = {
    "tokens": _tokens,
    "pair": lambda: _tokens() | _tokens("decoder_input_ids", 7),
    "text_and_image": lambda: _tokens() | _pixels(),
    "small_image": _pixels,
    "image": partial(_pixels, 64),
    "speech": lambda: {"input_features": torch.randn(2, 16, 40)} | _tokens("decoder_input_ids", 7),
    "waves": lambda: {"input_values": torch.randn(2, 800)},
}

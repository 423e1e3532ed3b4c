"""Hosts, data and plain training for benchmarks of growth in width."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from statistics import mean, stdev

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.networks.growth import CIFAR
from esper_ray.kasmina import SeedMeasurements
from esper_ray.kasmina.hosts.transformer import TransformerHost
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.config.host import TransformerHostConfig
from esper_ray.tolaria.sources.cifar import CLASSES, read_cifar10

WIDTH_PAIRS, WIDTH_BATCH = 8, 64
STUDENT = {8: 2.365, 4: 3.182, 3: 4.303, 2: 12.706}
"""97.5 % quantile of Student's distribution, by the number of pairs."""
TEXT = CIFAR.parent / "tinyshakespeare" / "input.txt"
CONTRIBUTES = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=1.0)


@dataclass(frozen=True)
class ExampleSplits:
    """Inputs and targets of three splits."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A host, its data, and what it grows to."""

    build: Callable[[], nn.Module]
    examples: Callable[[], ExampleSplits]
    epochs: int
    parameters: int
    """Parameters that growth leads to."""
    lr: float


@lru_cache
def digits() -> ExampleSplits:
    """1,797 digits of scikit-learn: 1,000 to train, 300 held out, the rest to test."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(y)))
    return _split(x[order], y[order], 1000, 300)


@lru_cache
def cifar() -> ExampleSplits:
    """5,000 images of CIFAR-10 to train, 1,000 held out, all 10,000 to test."""
    train, test = read_cifar10(CIFAR, "train", 6000), read_cifar10(CIFAR, "test", 10_000)
    images = torch.cat([torch.from_numpy(part.images) for part in (train, test)]).float() / 255.0
    labels = torch.cat([torch.from_numpy(part.labels) for part in (train, test)])
    return _split((images - 0.45) / 0.25, labels, 5000, 1000)


@lru_cache
def text() -> ExampleSplits:
    """Characters of Shakespeare in rows of 32: 2,000 to train, 300 held out, 500 to test."""
    raw = TEXT.read_text()
    places = {character: index for index, character in enumerate(sorted(set(raw)))}
    tokens = torch.tensor([places[character] for character in raw])
    rows = tokens[: len(tokens) // 33 * 33].reshape(-1, 33)
    chosen = torch.cat([rows[:2000], rows[-800:]])
    return _split(chosen[:, :-1], chosen[:, 1:], 2000, 300)


def _split(x: Tensor, y: Tensor, train: int, held_out: int) -> ExampleSplits:
    parts = [slice(0, train), slice(train, train + held_out), slice(train + held_out, None)]
    splits = [(x[part].contiguous(), y[part].contiguous()) for part in parts]
    return ExampleSplits(*splits)


def digits_cnn() -> nn.Module:
    """Two convolutions of 4 and 8 channels."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def digits_mlp() -> nn.Module:
    """An MLP 64-16-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def cifar_cnn() -> nn.Module:
    """Convolutions of 8, 16 and 16 channels with batch normalisation and pools."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


def text_transformer() -> nn.Module:
    """Two decoder blocks of width 32, their MLPs narrowed to 32 hidden units."""
    sizes = TransformerHostConfig(embedding=32, heads=2, layers=2, segments=1, context=32, dropout=0.0)
    host = TransformerHost(sizes, 65)
    for block in host.blocks:
        block.mlp = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32))
    return host


WIDTH_CASES: Mapping[str, Case] = {
    "digits_cnn": Case(digits_cnn, digits, 40, 1000, 5e-3),
    "digits_mlp": Case(digits_mlp, digits, 30, 2400, 3e-3),
    "cifar_cnn": Case(cifar_cnn, cifar, 12, 8000, 3e-3),
    "text": Case(text_transformer, text, 16, 40_000, 3e-3),
}


def available(name: str) -> bool:
    """Whether the data of a case are there."""
    return (name != "cifar_cnn" or CIFAR.is_dir()) and (name != "text" or TEXT.is_file())


def fresh(case: Case, seed: int) -> nn.Module:
    """The host with first weights from ``seed``."""
    with seeded_initialisation(seed):
        return case.build()


def batches(case: Case, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Training batches of an epoch, the same for every arm."""
    x, y = case.examples().train
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(x)))
    return [(x[rows], y[rows]) for rows in order.split(WIDTH_BATCH)]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy over all predictions."""
    logits = model(batch[0])
    return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1))


def accuracy(model: nn.Module, examples: tuple[Tensor, Tensor]) -> float:
    """Share of right predictions in points."""
    with torch.no_grad():
        right = [
            (model.eval()(x).argmax(-1) == y).float()
            for x, y in zip(examples[0].split(500), examples[1].split(500), strict=True)
        ]
    return 100.0 * torch.cat(right).mean().item()


def trained(model: nn.Module, case: Case, seed: int, epochs: float) -> float:
    """Test accuracy of ``model`` after plain training.

    Args:
        epochs: the last one may be a part.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.lr)
    schedule = CosineAnnealingLR(optimizer, epochs)  # type: ignore[arg-type]  # a part of an epoch is allowed
    for epoch in range(ceil(epochs)):
        model.train()
        parts = batches(case, seed, epoch)
        for batch in parts[: ceil((epochs - epoch) * len(parts))]:
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
    return accuracy(model, case.examples().test)


def from_scratch(model: nn.Module, seed: int, host: nn.Module | None = None) -> nn.Module:
    """The topology of ``model`` with fresh weights.

    Args:
        host: untrained network whose first weights it shares. The bound of usual initial weights falls with the square
            root of a layer's inputs; so do those that are shared.
    """
    twin = copy.deepcopy(model)
    with seeded_initialisation(1000 + seed):
        for module in twin.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    for name, module in [] if host is None else host.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _share(module, twin.get_submodule(name))
    return twin


@torch.no_grad()
def _share(layer: nn.Linear | nn.Conv2d, wide: nn.Module) -> None:
    """Give ``wide`` the weights of ``layer``, at its own scale."""
    scale = (layer.weight[0].numel() / wide.weight[0].numel()) ** 0.5  # type: ignore[index, operator]  # of the same kind
    for name, values in layer.named_parameters():
        wide.get_parameter(name)[tuple(slice(size) for size in values.shape)] = scale * values


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval.

    Raises:
        KeyError: with a number of values that :data:`STUDENT` does not have.
    """
    return mean(values), STUDENT[len(values)] * stdev(values) / len(values) ** 0.5

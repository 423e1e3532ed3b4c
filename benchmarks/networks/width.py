"""Growth in width on honest small hosts, against controls.

The controls are the host alone, and the same topology from scratch. All arms of a pair have the same first weights of
the host, the same batches and equal epochs; figures are test accuracies in points, paired over eight seeds, with 95 %
intervals. The speed of a folded network is compared with one that is built wide. Hosts whose data are absent are left
out.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks.growth import CIFAR
from benchmarks.networks.width_picture import draw
from benchmarks.report import Bar, Measurements, paired_seconds
from esper_ray import grow
from esper_ray.growing.session import GrowthSession
from esper_ray.kasmina import GateRules, GrowingOptimizer, MorphogeneticModel, Rules, SeedMeasurements, find_spans
from esper_ray.kasmina.hosts.transformer import TransformerHost
from esper_ray.kasmina.modules import count_parameters, seeded_initialisation
from esper_ray.leyline.config.host import TransformerHostConfig
from esper_ray.tolaria.sources.cifar import CLASSES, read_cifar10

SEEDS, BATCH = 8, 64
STUDENT = {8: 2.365, 4: 3.182, 3: 4.303, 2: 12.706}
"""97.5 % quantile of Student's distribution, by the number of pairs."""
TEXT = CIFAR.parent / "tinyshakespeare" / "input.txt"
WORTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=1.0)


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
    """5,000 images of CIFAR-10 to train, 1,000 held out, 2,000 to test."""
    train, test = read_cifar10(CIFAR, "train", 6000), read_cifar10(CIFAR, "test", 2000)
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


CASES: Mapping[str, Case] = {
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
    return [(x[rows], y[rows]) for rows in order.split(BATCH)]


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


def trained(model: nn.Module, case: Case, seed: int, epochs: int) -> float:
    """Test accuracy of ``model`` after plain training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.lr)
    schedule = CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        model.train()
        for batch in batches(case, seed, epoch):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
    return accuracy(model, case.examples().test)


def grown(case: Case, seed: int, policy: str = "heuristic", **options: Any) -> tuple[GrowthSession, float]:
    """A finished growth in width, and its floating-point operations."""
    host = fresh(case, seed)
    slots = {f"r0c{index}": span for index, span in enumerate(find_spans(host, case.examples().train[0][:2]))}
    settings: dict[str, Any] = {"epochs": case.epochs, "slots": slots, "parameters": case.parameters, "lr": case.lr}
    session = grow(host, case.examples().held_out, policy=policy, seed=seed, report=len, **(settings | options))
    schedule = CosineAnnealingLR(session.optimizer, case.epochs)
    flops, known = 0.0, dict[Any, float]()
    for step in session:
        parts = batches(case, seed, step.epoch)
        key = session.model.host_parameters, session.model.growth.structure()[1:]
        if key not in known:
            with FlopCounterMode(display=False) as counter:
                session.train_step(parts[0])
            known[key] = float(counter.get_total_flops())
            parts = parts[1:]
        flops += known[key] * (len(batches(case, seed, step.epoch)))
        for batch in parts:
            session.train_step(batch)
        schedule.step()
    return session, flops


def from_scratch(model: nn.Module, seed: int) -> nn.Module:
    """The topology of ``model`` with fresh weights."""
    twin = copy.deepcopy(model)
    with seeded_initialisation(1000 + seed):
        for module in twin.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return twin


def step_flops(model: nn.Module, case: Case) -> float:
    """Floating-point operations of a training epoch of ``model``."""
    parts = batches(case, 0, 0)
    with FlopCounterMode(display=False) as counter:
        loss_of(model.train(), parts[0]).backward()
    model.zero_grad()
    return float(counter.get_total_flops()) * len(parts)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval.

    Raises:
        KeyError: with a number of values that :data:`STUDENT` does not have.
    """
    return mean(values), STUDENT[len(values)] * stdev(values) / len(values) ** 0.5


def compared(name: str, seeds: int = SEEDS) -> dict[str, float]:
    """Figures of one case."""
    case = CASES[name]
    arms: dict[str, list[float]] = {"alone": [], "widened": [], "scratch_epochs": [], "scratch_flops": []}
    parameters, costs = [], []
    for seed in range(seeds):
        session, flops = grown(case, seed)
        plain = session.plain()
        arms["widened"].append(accuracy(plain, case.examples().test))
        arms["alone"].append(trained(fresh(case, seed), case, seed, case.epochs))
        wide = from_scratch(plain, seed)
        epoch = step_flops(wide, case)
        arms["scratch_flops"].append(trained(wide, case, seed, max(1, round(flops / epoch))))
        arms["scratch_epochs"].append(trained(from_scratch(plain, seed), case, seed, case.epochs))
        parameters.append(float(count_parameters(plain)))
        costs.append(flops / (epoch * case.epochs))
    figures = {f"{name}_{arm}_pp": mean(values) for arm, values in arms.items()}
    for other in ("alone", "scratch_epochs", "scratch_flops"):
        gains = [new - old for new, old in zip(arms["widened"], arms[other], strict=True)]
        center, half = interval(gains)
        figures |= {f"{name}_over_{other}_pp": center, f"{name}_over_{other}_lower_pp": center - half}
    share = mean(parameters) / case.parameters
    return figures | {f"{name}_of_target": share, f"{name}_flops_of_wide": mean(costs)}


def folded_speed() -> dict[str, float]:
    """Step time of a folded network over one built wide; birth and fold.

    The latter are ratios to a training step of the host.
    """
    with seeded_initialisation(0):
        host = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
        )
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    alone = copy.deepcopy(host)
    model = MorphogeneticModel.wrap(host, {"r0c0": "0 -> 3"}, x[:2], rules=Rules(GateRules(min_training_epochs=0)))
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.01, momentum=0.9)
    plain_optimizer = torch.optim.SGD(alone.parameters(), lr=0.01, momentum=0.9)

    def step(network: nn.Module, its: torch.optim.Optimizer) -> None:
        its.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        its.step()

    def timed(action: Callable[[], object]) -> float:
        began = perf_counter()
        action()
        return perf_counter() - began

    host_step = min(timed(lambda: step(alone, plain_optimizer)) for _ in range(15))
    births, folds = [], []
    for _ in range(3):
        births.append(timed(lambda: model.germinate("r0c0", "widen", channels=8, tempo=1)))
        for _ in range(2):
            model.advance("r0c0", WORTHY)
        model.tick()
        model.advance("r0c0", WORTHY)
        model.fossilize("r0c0", WORTHY)
        step(model, optimizer)
        folds.append(timed(lambda: model.fold("r0c0")))
    wide = from_scratch(model.plain(), 0)
    wide_optimizer = torch.optim.SGD(wide.parameters(), lr=0.01, momentum=0.9)
    _, _, ratio = paired_seconds(lambda: step(model, optimizer), lambda: step(wide, wide_optimizer), 15)
    memory = sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in wide.parameters())
    return {
        "folded_step_over_wide": ratio,
        "folded_parameters_over_wide": memory,
        "birth_over_step": min(births) / host_step,
        "fold_over_step": min(folds) / host_step,
    }


def measure(seeds: int = SEEDS) -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    figures = folded_speed()
    bars = {
        "folded_step_over_wide": Bar(1.02),
        "folded_parameters_over_wide": Bar(1.02),
        "birth_over_step": Bar(5.0),
        "fold_over_step": Bar(10.0),
    }
    for name in CASES:
        if available(name):
            figures |= compared(name, seeds)
    if available("cifar_cnn"):
        bars["cifar_cnn_over_alone_lower_pp"] = Bar(0.0, at_least=True)
        bars["cifar_cnn_over_scratch_epochs_lower_pp"] = Bar(-1.0, at_least=True)
        bars["cifar_cnn_over_scratch_flops_lower_pp"] = Bar(0.0, at_least=True)
    draw(figures)
    return Measurements("width", figures, bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

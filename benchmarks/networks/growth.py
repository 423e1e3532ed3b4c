"""Quality of seeds after incubation, and gain of a gradient-informed start.

Incubation: on CIFAR-10 a seed is trained for ten epochs behind the untrained host of
``cifar_baseline``; then the validation loss with the seed fully on is compared with that of the host
alone. Initialisation: a seed is incubated and blended in from either start; compared are the accuracy
after a fixed number of epochs, and the gradient at birth. CIFAR-10 is skipped without its Parquet
files beside the repository (../shared/data/cifar10) or in the folder ESPER_CIFAR10.
"""

import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.networks.host_epoch import CPU
from benchmarks.report import Bar, Measurements
from esper_ray.kasmina import Organism
from esper_ray.kasmina.hosts import CNN_VARIANTS
from esper_ray.kasmina.network.gradmax import birth_gradient, features_and_gradient
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.tolaria.assembly import build_organism, build_trainer
from esper_ray.tolaria.data import ImageData, image_dataset
from esper_ray.tolaria.sources.cifar import CLASSES, read_cifar10
from esper_ray.tolaria.tasks import load_task
from esper_ray.tolaria.validation import measure as measure_accuracy

CIFAR = Path(os.environ.get("ESPER_CIFAR10", Path(__file__).parents[3] / "shared/data/cifar10"))
TRAIN_IMAGES, HELD_OUT = 4000, 1000
INCUBATION_EPOCHS, INCUBATION_SEEDS = 10, 3
WORTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=1.0)
SLOT = "r0c1"


def cifar() -> ImageData:
    """4,000 training and 1,000 validation images of CIFAR-10."""
    train, test = read_cifar10(CIFAR, "train", TRAIN_IMAGES), read_cifar10(CIFAR, "test", HELD_OUT)
    held = (test.images, test.labels)
    return image_dataset((train.images, train.labels), held, held, classes=CLASSES, device=CPU)


def cifar_config(**overrides: object) -> RunConfig:
    """Preset ``digits`` with the host of ``cifar_baseline``.

    An epoch is one pass over the images.
    """
    host = {f"host.{key}": value for key, value in CNN_VARIANTS["cifar_baseline"].model_dump().items()}
    steps = {"training.batch_size": 128, "training.steps_per_epoch": TRAIN_IMAGES // 128}
    return build(read_preset("digits"), host | steps | overrides)


class IncubationCase:
    """Training of one organism, epoch by epoch."""

    def __init__(self, config: RunConfig, data: ImageData, seed: int) -> None:
        self.config, self.data, self.seed, self.epoch = config, data, seed, 0
        self.organism: Organism = build_organism(config, data, CPU, seed)
        self.model = self.organism.model
        self.trainer = build_trainer(config, self.organism, data)

    def train(self, epochs: int, tick: bool = False) -> None:
        """Train for ``epochs``; amplitudes move before each if ``tick``."""
        c = self.config.training
        for _ in range(epochs):
            if tick:
                self.model.tick()
            self.trainer.train(self.data.plan(self.seed, self.epoch, c.batch_size, c.steps_per_epoch))
            self.model.growth.count_epoch()
            self.epoch += 1

    def advance(self) -> None:
        """Advance through the next gate, which must pass."""
        outcome = self.model.advance(SLOT, WORTHY)
        if not outcome:
            raise RuntimeError(f"the seed of the benchmark does not advance: {outcome.message}")

    def loss(self) -> Tensor:
        """Loss on 512 training images."""
        images = self.data.normalised(self.data.train.images[:512])
        return cross_entropy(self.model(images), self.data.train.labels[:512])

    def validation_loss(self) -> float:
        """Validation loss in the present mode of the model."""
        with torch.no_grad():
            logits = self.model(self.data.normalised(self.data.validation.images))
        return cross_entropy(logits, self.data.validation.labels).item()


def incubation_ratio(data: ImageData, blueprint: str, method: str, lr: float) -> float:
    """Validation loss with a seed fully on over that of the host, mean over seeds.

    The seed was trained behind the host for ten epochs. At the greater rate one such ratio varies by 0.07.
    """
    return mean(_incubated(data, blueprint, method, lr, seed) for seed in range(INCUBATION_SEEDS))


def _incubated(data: ImageData, blueprint: str, method: str, lr: float, seed: int) -> float:
    rates = {"training.lr": lr, "training.seed_lr": lr, "growth.incubation.method": method}
    trial = IncubationCase(cifar_config(**rates), data, seed)
    trial.model.germinate(SLOT, blueprint)
    trial.advance()
    trial.train(INCUBATION_EPOCHS)
    host_loss = trial.model.eval() and trial.validation_loss()
    with trial.model.shadow():
        return trial.validation_loss() / host_loss


def grown_accuracy(config: RunConfig, data: ImageData, seed: int, epochs: tuple[int, int, int]) -> tuple[float, float]:
    """Validation accuracy after host-only, incubating and blended ``epochs``, and the gradient norm at birth."""
    trial = IncubationCase(config, data, seed)
    trial.train(epochs[0])
    trial.model.germinate(SLOT, "conv_light", style="linear_add", closure=trial.loss)
    cell = trial.model.cell(SLOT)
    trial.model.eval()
    features, gradient = features_and_gradient(cell, trial.loss)
    birth = birth_gradient(cell.seed.body, cell, features, gradient).norm().item()
    trial.advance()
    trial.train(epochs[1])
    trial.advance()
    trial.train(epochs[2], tick=True)
    return measure_accuracy(trial.model, data, data.validation).accuracy_pp, birth


def compare_starts(
    name: str, config: Callable[[str], RunConfig], data: ImageData, seeds: int, epochs: tuple[int, int, int]
) -> dict[str, float]:
    """Accuracies, their paired difference with its standard error, ratio of mean birth gradients."""
    results = {
        start: [grown_accuracy(config(start), data, seed, epochs) for seed in range(seeds)]
        for start in ("zero_scale", "gradmax")
    }
    gains = [new[0] - old[0] for old, new in zip(results["zero_scale"], results["gradmax"], strict=True)]
    births = {start: mean(birth for _, birth in pairs) for start, pairs in results.items()}
    return {
        f"{name}_zero_scale_pp": mean(accuracy for accuracy, _ in results["zero_scale"]),
        f"{name}_gradmax_pp": mean(accuracy for accuracy, _ in results["gradmax"]),
        f"{name}_gain_pp": mean(gains),
        f"{name}_gain_error_pp": stdev(gains) / len(gains) ** 0.5,
        f"{name}_birth_gradient_ratio": births["gradmax"] / births["zero_scale"],
    }


def measure() -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    key = "growth.initialisation.linear_add"
    digits = build(read_preset("digits"))
    data = load_task(digits.task, CPU)
    figures = compare_starts("digits", lambda start: build(digits.model_dump(), {key: start}), data, 16, (5, 4, 25))
    bars = {}
    if CIFAR.is_dir():
        data = cifar()
        figures |= compare_starts("cifar", lambda start: cifar_config(**{key: start}), data, 3, (3, 4, 6))
        for method, prefix in (("shadow", "incubated"), ("straight_through", "straight_through")):
            for lr in (0.01, 0.05):
                for blueprint in ("conv_light", "depthwise", "norm"):
                    figure = f"{prefix}_{blueprint}_lr_{lr}"
                    figures[figure] = incubation_ratio(data, blueprint, method, lr)
                    bars[figure] = Bar(1.10)
    return Measurements("growth", figures, bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

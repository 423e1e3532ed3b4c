"""Epochs per second of ``cifar_baseline`` on one GPU, eager, compiled and captured.

The numbers of environments are 1, 4 and 8.


Each environment trains in a thread and on a CUDA stream of its own; all share one copy of the data.
Images are random numbers. Without a GPU there is nothing to measure.
"""

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import torch

from benchmarks.networks.host_epoch import host_config, random_images
from benchmarks.report import Bar, Measurements
from esper_ray.leyline.config.loading import build
from esper_ray.tolaria.assembly import build_organism, build_trainer
from esper_ray.tolaria.data import ImageData, ImageSplit
from esper_ray.tolaria.training import Trainer

MODES = ("off", "default", "captured")
ENVIRONMENTS = (1, 4, 8)
EPOCHS = 10
"""Number of timed epochs for each environment, after two that compile or capture."""
STEPS = 24


def on_device(data: ImageData, device: torch.device) -> ImageData:
    """A copy of ``data`` on ``device``."""

    def copied(split: ImageSplit) -> ImageSplit:
        return ImageSplit(split.images.to(device), split.labels.to(device))

    return ImageData(
        train=copied(data.train),
        validation=copied(data.validation),
        test=copied(data.test),
        classes=data.classes,
        mean=data.mean.to(device),
        deviation=data.deviation.to(device),
    )


def epochs_per_second(data: ImageData, mode: str, count: int) -> float:
    """Epochs per second of all environments together."""
    device = data.device
    config = build(
        host_config("cifar_baseline").model_dump(),
        {"training.compile_mode": mode, "training.steps_per_epoch": STEPS},
    )
    organisms = [build_organism(config, data, device, seed) for seed in range(count)]
    trainers = [build_trainer(config, organism, data) for organism in organisms]
    streams = [torch.cuda.Stream(device) for _ in trainers]
    torch.cuda.synchronize(device)

    def train_epochs(task: tuple[Trainer, torch.cuda.Stream, int]) -> None:
        trainer, stream, epochs = task
        with torch.cuda.stream(stream):
            for epoch in range(epochs):
                trainer.train(data.plan(0, epoch, config.training.batch_size, STEPS))

    for trainer, stream in zip(trainers, streams, strict=True):
        train_epochs((trainer, stream, 2))
    with ThreadPoolExecutor(count) as pool:
        torch.cuda.synchronize(device)
        began = perf_counter()
        list(pool.map(train_epochs, [(t, s, EPOCHS) for t, s in zip(trainers, streams, strict=True)]))
        torch.cuda.synchronize(device)
        return count * EPOCHS / (perf_counter() - began)


def measure() -> Measurements:
    """Run the benchmark; no figures and no bars without a GPU."""
    if not torch.cuda.is_available():
        return Measurements("gpu", {}, {})
    data = on_device(random_images(), torch.device("cuda:0"))
    figures = {
        f"{mode}_{count}_environments_epochs_per_second": epochs_per_second(data, mode, count)
        for mode in MODES
        for count in ENVIRONMENTS
    }
    captured = figures["captured_1_environments_epochs_per_second"]
    figures["captured_over_eager"] = captured / figures["off_1_environments_epochs_per_second"]
    figures["eight_over_one_captured"] = figures["captured_8_environments_epochs_per_second"] / captured
    bars = {"captured_over_eager": Bar(2.0, at_least=True), "eight_over_one_captured": Bar(4.0, at_least=True)}
    return Measurements("gpu", figures, bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

"""Cost of an epoch over a plain loop and over a DataLoader loop.

All loops train the same host on the same images, with random crops and flips. The plain loop is ordinary
PyTorch with the same batches and variations, so both reach the same weights. The DataLoader loop does
not decode either: its data set holds decoded pictures, and torchvision crops, flips and normalises them
one by one, in this process or in two workers; the faster one counts. Images are random numbers, because
speed does not depend on their content.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as PictureSet

from benchmarks.report import Bar, Measurements, paired_seconds
from esper_ray.kasmina.hosts import CNN_VARIANTS, build_host
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.tolaria.assembly import build_organism, build_trainer, derived_seed
from esper_ray.tolaria.data import EpochPlan, ImageData, image_dataset

HOSTS = ("cifar_baseline", "cifar_impaired")
BATCH, STEPS = 512, 6
IMAGES = BATCH * STEPS
PAIRS = 7
WORKERS = (0, 2)
CPU = torch.device("cpu")


def random_images(count: int = IMAGES) -> ImageData:
    """Images of CIFAR's shape."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(0, 10, count)
    held = (pixels[:64], labels[:64])
    return image_dataset((pixels, labels), held, held, classes=10, device=CPU, augment=True)


def host_config(host: str) -> RunConfig:
    """The digits preset with a CIFAR host, in the layout that is faster on CPUs."""
    section = {f"host.{key}": value for key, value in CNN_VARIANTS[host].model_dump().items()}
    section["host.memory_format"] = "channels_last"
    return build(read_preset("digits"), section | {"training.batch_size": BATCH, "training.steps_per_epoch": STEPS})


class PlainEpochs:
    """A host in an ordinary PyTorch loop over tensors."""

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        with seeded_initialisation(derived_seed(0, 0)):
            self.host = build_host(config.host, (3, 32, 32), 10).module
        training = config.training
        self.data, self.clip = data, training.host_grad_clip
        self.optimizer = torch.optim.SGD(
            self.host.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )

    def train(self, batches: Callable[[], Any]) -> float:
        """One epoch over ``batches``, which yield images and labels; the mean loss."""
        self.host.train()
        total = 0.0
        for images, labels in batches():
            loss = cross_entropy(self.host(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(self.host.parameters(), self.clip)
            self.optimizer.step()
            total += loss.item()
        return total / STEPS

    def augmented_batches(self, plan: EpochPlan) -> Any:
        """The batches of ``plan``: gathered, padded, cropped, flipped and normalised on tensors."""
        data = self.data
        steps = torch.arange(32)
        for rows, draws in zip(plan.rows, plan.draws, strict=True):
            padded = pad(data.train.images[rows], (4, 4, 4, 4))
            down = draws[:, 0, None] + steps
            right = draws[:, 1, None] + steps
            right = torch.where(draws[:, 2, None] == 1, right.flip(1), right)
            every = torch.arange(len(rows))[:, None, None, None]
            images = padded[every, torch.arange(3)[:, None, None], down[:, None, :, None], right[:, None, None, :]]
            yield (images.float() - data.mean) / data.deviation, data.train.labels[rows]


class Pictures(PictureSet[tuple[Tensor, int]]):
    """Data set like ``torchvision.datasets.CIFAR10``: arrays in memory, one picture and transform per item."""

    def __init__(self, data: ImageData) -> None:
        from torchvision.transforms import v2

        self.pixels: NDArray[np.uint8] = data.train.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.train.labels.tolist()
        mean, deviation = ((values / 255.0).flatten().tolist() for values in (data.mean, data.deviation))
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, deviation),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def host_figures(host: str, data: ImageData) -> dict[str, float]:
    """Images per second of our epoch, and the ratios to the other loops."""
    config = host_config(host)
    usual = build(config.model_dump(), {"host.memory_format": "contiguous"})
    organism = build_organism(config, data, CPU, seed=0)
    trainer, plain, conventional = (
        build_trainer(config, organism, data),
        PlainEpochs(config, data),
        PlainEpochs(usual, data),
    )
    plan = data.plan(0, 0, BATCH, STEPS)
    _check_equal_losses(trainer.train(plan).loss, plain.train(lambda: plain.augmented_batches(plan)))
    ours, plain_s, ratio = paired_seconds(
        lambda: trainer.train(plan), lambda: plain.train(lambda: plain.augmented_batches(plan)), PAIRS
    )
    loaders = [
        DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=count, persistent_workers=count > 0)
        for count in WORKERS
    ]
    seconds = min(_loader_seconds(conventional, loader) for loader in loaders)  # in PyTorch's usual layout
    return {
        f"{host}_images_per_second": IMAGES / ours,
        f"{host}_plain_images_per_second": IMAGES / plain_s,
        f"{host}_loader_images_per_second": IMAGES / seconds,
        f"{host}_over_plain_loop": ratio,
        f"{host}_over_dataloader": seconds / ours,
    }


def _check_equal_losses(first: float, second: float) -> None:
    """Check that two compared loops have equal losses."""
    if abs(first - second) > 1e-4 * abs(second):
        raise RuntimeError(f"the loops differ: losses {first} and {second}")


def _loader_seconds(loop: PlainEpochs, loader: Any) -> float:
    """Seconds of an epoch, the minimum of three after one that starts the workers."""
    times = []
    for _ in range(4):
        began = perf_counter()
        loop.train(lambda: iter(loader))
        times.append(perf_counter() - began)
    return min(times[1:])


def measure() -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    data = random_images()
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for host in HOSTS:
        figures |= host_figures(host, data)
        bars[f"{host}_over_plain_loop"] = Bar(1.05)
    bars[f"{HOSTS[-1]}_over_dataloader"] = Bar(3.0, at_least=True)
    return Measurements("host_epoch", figures, bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

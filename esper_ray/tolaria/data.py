"""Data sets that live on the device as uint8 tensors, one copy per process."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Split:
    """Images and labels on one device."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64."""

    def __len__(self) -> int:
        return int(self.labels.shape[0])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Three disjoint splits and the statistics that normalise them."""

    train: Split
    validation: Split
    test: Split
    classes: int
    mean: Tensor
    """(C, 1, 1) float32, of the training images."""
    deviation: Tensor
    """(C, 1, 1) float32, of the training images."""

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.train.images.shape[1])

    @property
    def random_guess_loss(self) -> float:
        """Cross-entropy in nats of a uniform prediction."""
        return float(np.log(self.classes))

    def normalised(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 to float32 with zero mean and unit deviation per channel."""
        return images.float().sub_(self.mean).div_(self.deviation)


def split_dataset(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    validation: int,
    test: int,
    seed: int,
    device: torch.device,
) -> Dataset:
    """Shuffle once by ``seed`` and cut into train, validation and test.

    Args:
        images: (N, C, H, W).
        labels: (N,) in ``0..classes-1``.
        validation: images of the validation split.
        test: images of the test split.

    Raises:
        ValueError: if no training image would be left, or shapes or labels do not fit.
    """
    total = len(labels)
    if images.ndim != 4 or len(images) != total:
        raise ValueError(f"images must be (N, C, H, W) with one label each, got {images.shape} and {labels.shape}")
    if validation + test >= total:
        raise ValueError(f"{validation} validation and {test} test images leave none of {total} to train on")
    if labels.min() < 0:
        raise ValueError(f"labels must be >= 0, got {labels.min()}")
    order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(total)
    test_rows, validation_rows, train_rows = np.split(order, [test, test + validation])

    parts = ((images[rows], labels[rows]) for rows in (train_rows, validation_rows, test_rows))
    return dataset_of(*parts, classes=int(labels.max()) + 1, device=device)


def dataset_of(
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    *,
    classes: int,
    device: torch.device,
) -> Dataset:
    """Three pairs of (N, C, H, W) images and (N,) labels on ``device``, with the statistics of the first."""
    mean, deviation = _statistics(train[0])

    def split(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
        return Split(
            torch.from_numpy(np.ascontiguousarray(images)).to(device),
            torch.from_numpy(labels.astype(np.int64)).to(device),
        )

    return Dataset(
        train=split(*train),
        validation=split(*validation),
        test=split(*test),
        classes=classes,
        mean=torch.tensor(mean, dtype=torch.float32, device=device)[:, None, None],
        deviation=torch.tensor(np.maximum(deviation, 1e-6), dtype=torch.float32, device=device)[:, None, None],
    )


def _statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel, from the counts of its 256 levels: exact, and small in memory."""
    levels = np.arange(256, dtype=np.float64)
    counts = np.stack([np.bincount(images[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])])
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    return mean, np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total)


def epoch_batches(seed: int, epoch: int, rows: int, batch_size: int, steps: int) -> Tensor:
    """(steps, batch_size) int64 row indices of one epoch, a pure function of ``seed`` and ``epoch``.

    Rows are drawn without replacement; when a pass over the data is used up, the next one is shuffled anew.

    Raises:
        ValueError: if a batch is larger than the data.
    """
    if batch_size > rows:
        raise ValueError(f"batch size {batch_size} exceeds the {rows} training images")
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
    needed = steps * batch_size
    passes = -(-needed // rows)
    order = torch.cat([torch.randperm(rows, generator=generator) for _ in range(passes)])
    return order[:needed].reshape(steps, batch_size)

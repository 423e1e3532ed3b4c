"""Image data sets in uint8 on the device, normalised and augmented there."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from esper_ray.tolaria.data.dataset import Dataset
from esper_ray.tolaria.data.splitting import equal_images, split_rows

LabelledArrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""(N, C, H, W) images and (N,) labels."""

MOST_CLASSES = 1 << 20
"""Maximum number of classes that are inferred from labels."""
PADDING = 4
"""Width of the black frame in pixels from which random crops are cut."""


@dataclass(frozen=True, slots=True)
class ImageSplit:
    """Images and labels on one device."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64."""

    def __len__(self) -> int:
        return int(self.labels.shape[0])


@dataclass(frozen=True, eq=False)
class ImageData(Dataset[ImageSplit]):
    """Three disjoint splits of images and the statistics that normalise them."""

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    classes: int
    mean: Tensor
    """(C, 1, 1) float32, of the training images."""
    deviation: Tensor
    """(C, 1, 1) float32, of the training images."""
    windows: Tensor | None = None
    """(N, C, 9, 9, H, W) uint8 view: every window of each padded training image; ``None`` without augmentation."""

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self.train.labels.device

    @property
    def example_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])

    def contents(self) -> tuple[Tensor, ...]:
        """See :meth:`Dataset.contents`."""
        return tuple(t for split in (self.train, self.validation, self.test) for t in (split.images, split.labels))

    def normalised(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 to float32 with zero mean and unit deviation per channel."""
        return images.float().sub_(self.mean).div_(self.deviation)

    def prepared(self, split: ImageSplit, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See :meth:`Dataset.prepared`."""
        return self.normalised(split.images[start:stop]), split.labels[start:stop]

    def training_batch(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Dataset.training_batch`; draws are the crop's offset (two numbers) and its mirroring."""
        return self.normalised(self._varied(rows, draws)), self.train.labels[rows]

    def draw(self, generator: torch.Generator, steps: int, batch_size: int) -> Tensor:
        """See :meth:`Dataset.draw`."""
        shape = (steps, batch_size)
        if self.windows is None:
            return torch.empty((*shape, 0), dtype=torch.int64)
        places = torch.randint(2 * PADDING + 1, (*shape, 2), generator=generator)
        return torch.cat([places, torch.randint(2, (*shape, 1), generator=generator)], dim=2)

    def _varied(self, rows: Tensor, draws: Tensor) -> Tensor:
        if self.windows is None:
            return self.train.images[rows]
        down, right, mirrored = draws.unbind(1)
        images = self.windows[rows, :, down, right]
        return torch.where(mirrored.bool()[:, None, None, None], images.flip(3), images)


def split_dataset(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    validation: int,
    test: int,
    train: int = 0,
    seed: int,
    device: torch.device,
    augment: bool = False,
) -> ImageData:
    """Shuffle once by ``seed`` and cut into train, validation and test.

    Equal images get into the same split: see :func:`~esper_ray.tolaria.data.splitting.split_rows`.

    Args:
        images: (N, C, H, W).
        labels: (N,) in ``0..classes-1``.
        validation: images of the validation split.
        test: images of the test split.
        train: images of the training split; 0 for all others.

    Raises:
        ValueError: if the images do not suffice, shapes or labels do not fit, or equal images do not add up to a split.
    """
    _check_arrays("all", images, labels)
    total = len(labels)
    if validation + test >= total:
        raise ValueError(f"{validation} validation and {test} test images leave none of {total} to train on")
    if validation + test + train > total:
        raise ValueError(
            f"{train} training, {validation} validation and {test} test images exceed the {total} there are"
        )
    if not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
        raise ValueError(f"labels must lie in 0..{MOST_CLASSES - 1}, got {labels.min()}..{labels.max()}")
    test_rows, validation_rows, train_rows = split_rows(equal_images(images), (test, validation), seed)
    train_rows = train_rows[: train or None]
    parts = ((images[rows], labels[rows]) for rows in (train_rows, validation_rows, test_rows))
    return image_dataset(*parts, classes=int(labels.max()) + 1, device=device, augment=augment)


def image_dataset(
    train: LabelledArrays,
    validation: LabelledArrays,
    test: LabelledArrays,
    *,
    classes: int,
    device: torch.device,
    augment: bool = False,
) -> ImageData:
    """Data set of three (images, labels) pairs, with the statistics of the first.

    Args:
        augment: cut training images at random out of a black frame of :data:`PADDING` pixels, and mirror every other.

    Raises:
        ValueError: if a split is empty, images or labels have another shape or type, or a label lies outside
            ``0..classes-1``.
    """
    for name, (images, labels) in {"training": train, "validation": validation, "test": test}.items():
        _check_arrays(name, images, labels)
        if images.shape[1:] != train[0].shape[1:]:
            raise ValueError(
                f"{name} images must be uint8 of shape (N, C, H, W), alike in all splits; got {images.dtype} "
                f"{images.shape} beside {train[0].shape}"
            )
        if not len(images):
            raise ValueError(f"the {name} split is empty; it needs at least one image")
        if not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"{name} labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
    mean, deviation = _statistics(train[0])

    def split(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> ImageSplit:
        # NumPy leaves the strides of single channels open, and convolutions read their layout from them
        pixels = torch.from_numpy(np.ascontiguousarray(images)).clone(memory_format=torch.contiguous_format)
        return ImageSplit(pixels.to(device), torch.from_numpy(labels.astype(np.int64)).to(device))

    training = split(*train)
    return ImageData(
        train=training,
        validation=split(*validation),
        test=split(*test),
        classes=classes,
        mean=torch.tensor(mean, dtype=torch.float32, device=device)[:, None, None],
        deviation=torch.tensor(np.maximum(deviation, 1e-6), dtype=torch.float32, device=device)[:, None, None],
        windows=_windows(training.images) if augment else None,
    )


def _check_arrays(name: str, images: Any, labels: Any) -> None:
    """Check the types and shapes of images and their labels.

    Raises:
        ValueError: naming the array, its type and shape, and the constraint.
    """
    for kind, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} {kind} must be a NumPy array, got {type(array).__name__}")
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"{name} images must be uint8 of shape (N, C, H, W), got {images.dtype} {images.shape}")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} labels must be {len(images)} whole numbers, one for each image; got {labels.dtype} {labels.shape}"
        )


def _windows(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    return pad(images, [PADDING] * 4).unfold(2, height, 1).unfold(3, width, 1)


def _statistics(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact mean and standard deviation of each channel, from counts of its 256 levels."""
    levels = np.arange(256, dtype=np.float64)
    counts = np.stack([np.bincount(images[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])])
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    return mean, np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total)

"""Synthetic textures that differ only in pixel arrangement, with a known optimum.

Images come in groups of four, one of each class, with the same 64 pixel values in different places. So a network
that treats pixels one by one and averages them (1x1 convolutions without pooling) cannot distinguish the four and is
right for one in four, exactly; one 3x3 convolution before the average can be right for all.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import ImageData, image_dataset

PATTERN_CLASSES = 4
"""Rows, columns, a checkerboard and diagonals."""
SIZE = 8
TRAIN_SIZE = 1024
MAX_IMAGES = 100_000
"""Most images of all splits, which are generated one by one in some seconds."""
BRIGHTNESS = (120, 137)
CONTRAST = (32, 97)
NOISE_SHARE = 8
"""Contrast divided by the largest noise; bright and dark pixels stay separate."""


def load_patterns(config: TaskConfig, device: torch.device) -> ImageData:
    """Images of 8x8 pixels, 4 classes, generated from ``split_seed`` (default: 1,024 to train on).

    Raises:
        ValueError: if a size is not a multiple of 4, there are more than ``MAX_IMAGES`` images, or augmentation is on.
    """
    if config.augment:
        raise ValueError("the patterns are not augmented: frames give classes away; set task.augment to false")
    sizes = {
        "train_size": config.train_size or TRAIN_SIZE,
        "validation_size": config.validation_size,
        "test_size": config.test_size,
    }
    for name, size in sizes.items():
        if size % PATTERN_CLASSES:
            raise ValueError(
                f"task.{name} must be a multiple of {PATTERN_CLASSES}, one image of each class, got {size}"
            )
    total = sum(sizes.values())
    if total > MAX_IMAGES:
        terms = " + ".join(f"task.{name} {size:,}" for name, size in sizes.items())
        raise ValueError(f"{terms} = {total:,} images exceed the {MAX_IMAGES:,} that are generated")
    splits = [
        textures(np.random.default_rng(np.random.SeedSequence([config.split_seed, part])), size // PATTERN_CLASSES)
        for part, size in enumerate(sizes.values())
    ]
    train, validation, test = splits
    return image_dataset(train, validation, test, classes=PATTERN_CLASSES, device=device)


def textures(generator: np.random.Generator, groups: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``4 * groups`` images and labels, with classes in turn.

    Half of an image's pixels are bright and half dark, by a contrast that the group shares, with some noise.
    The phase of each texture is random.

    Returns:
        (4 * groups, 1, 8, 8) and (4 * groups,).
    """
    half = SIZE * SIZE // 2
    images = np.empty((groups, PATTERN_CLASSES, SIZE, SIZE), dtype=np.uint8)
    for group in images:
        brightness, contrast = generator.integers(*BRIGHTNESS), generator.integers(*CONTRAST)
        noise = generator.integers(-(contrast // NOISE_SHARE), contrast // NOISE_SHARE, (2, half), endpoint=True)
        dark, bright = brightness - contrast + noise[0], brightness + contrast + noise[1]
        for image, mask in zip(group, _masks(generator), strict=True):
            image[mask], image[~mask] = generator.permutation(bright), generator.permutation(dark)
    return images.reshape(-1, 1, SIZE, SIZE), np.tile(np.arange(PATTERN_CLASSES, dtype=np.int64), groups)


def _masks(generator: np.random.Generator) -> list[NDArray[np.bool_]]:
    """(8, 8) masks of bright pixels by class: half of the pixels in every phase."""
    y, x = np.indices((SIZE, SIZE))
    phases = generator.integers((2, 2, 2, 4))
    waves = [(y, 2), (x, 2), (y + x, 2), (y + x, 4)]
    return [(wave + phase) % period < period // 2 for (wave, period), phase in zip(waves, phases, strict=True)]

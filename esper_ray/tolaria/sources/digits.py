"""Handwritten digits of scikit-learn, which need no download."""

import numpy as np
import torch

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import ImageData, split_dataset


def load_digits(config: TaskConfig, device: torch.device) -> ImageData:
    """1,797 images of 8x8 pixels with 17 grey levels, 10 classes.

    Raises:
        ValueError: if the images do not suffice for the configured sizes.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    return split_dataset(
        bunch.images.astype(np.uint8)[:, None, :, :],
        bunch.target.astype(np.int64),
        train=config.train_size,
        validation=config.validation_size,
        test=config.test_size,
        seed=config.split_seed,
        device=device,
        augment=config.augment,
    )

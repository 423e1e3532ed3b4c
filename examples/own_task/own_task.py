"""Example of a task package: images and labels in two NumPy files."""

import numpy as np
import torch

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import ImageData, split_dataset


def load_arrays(config: TaskConfig, device: torch.device) -> ImageData:
    """Images and their classes, from two files in --data-dir.

    They are images.npy, (N, C, H, W) uint8, and labels.npy, (N,).

    Raises:
        ValueError, OSError: if a file is missing or not valid; the user sees them as errors of this task.
    """
    if config.data_dir is None:
        raise ValueError("reads images.npy and labels.npy; give their folder as task.data_dir (--data-dir)")
    images = np.load(config.data_dir / "images.npy", allow_pickle=False)  # files may come from anywhere
    labels = np.load(config.data_dir / "labels.npy", allow_pickle=False)
    if images.dtype != np.uint8:
        raise ValueError(f"images.npy must hold uint8 pixels, got {images.dtype}")
    return split_dataset(
        images,
        labels,
        train=config.train_size,
        validation=config.validation_size,
        test=config.test_size,
        seed=config.split_seed,
        device=device,
        augment=config.augment,
    )

"""Data sets that live on the device, one copy per process."""

from esper_ray.tolaria.data.dataset import Dataset, EpochPlan, epoch_batches, keyed_generator
from esper_ray.tolaria.data.images import ImageData, ImageSplit, image_dataset, split_dataset
from esper_ray.tolaria.data.tokens import TokenData, TokenSplit

__all__ = [
    "Dataset",
    "EpochPlan",
    "ImageData",
    "ImageSplit",
    "TokenData",
    "TokenSplit",
    "epoch_batches",
    "image_dataset",
    "keyed_generator",
    "split_dataset",
]

"""Tasks by name. Each loads a data set once per process and device."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from esper_ray.leyline.config import TaskConfig, unknown
from esper_ray.tolaria.cifar import CLASSES, read_cifar10
from esper_ray.tolaria.data import Dataset, dataset_of, split_dataset

Loader = Callable[[TaskConfig, torch.device], Dataset]

_LOADERS: dict[str, Loader] = {}


class TaskError(ValueError):
    """A task that cannot be had. The message says how to get it."""


def register_task(name: str, loader: Loader) -> None:
    """Make ``loader`` available as the task ``name``.

    Raises:
        ValueError: if the name is taken.
    """
    if name in _LOADERS:
        raise ValueError(f"task {name!r} is already registered")
    _LOADERS[name] = loader


def task_names() -> list[str]:
    """Names of the registered tasks."""
    return sorted(_LOADERS)


def check_task(config: TaskConfig) -> None:
    """Raise what :func:`load_task` would raise for reasons that can be seen without loading.

    Raises:
        TaskError: if the task is unknown, or its data directory does not exist or is not wanted.
    """
    if config.name not in _LOADERS:
        raise TaskError(unknown("task", config.name, task_names()))
    if config.data_dir is not None and not config.data_dir.is_dir():
        raise TaskError(f"data directory {config.data_dir} does not exist")
    if config.data_dir is None and config.name == "cifar10":
        raise TaskError("task 'cifar10' is read from Parquet files; give their folder as task.data_dir (--data-dir)")
    if config.data_dir is not None and config.name == "digits":
        raise TaskError(f"task 'digits' carries its own data (scikit-learn) and reads none from {config.data_dir}")


def load_task(config: TaskConfig, device: torch.device) -> Dataset:
    """The data set of ``config`` on ``device``, shared by everyone in this process who asks for the same.

    Raises:
        TaskError: see :func:`check_task`; also if the data does not allow the splits that are asked for.
    """
    check_task(config)
    try:
        return _load(config, device)
    except (ValueError, FileNotFoundError) as error:
        raise TaskError(f"task {config.name!r}: {error}") from error


@lru_cache(maxsize=4)
def _load(config: TaskConfig, device: torch.device) -> Dataset:
    return _LOADERS[config.name](config, device)


def _digits(config: TaskConfig, device: torch.device) -> Dataset:
    """1,797 real handwritten digits, 8x8 pixels of 17 grey levels, 10 classes (scikit-learn)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None, :, :]
    return split_dataset(
        images,
        bunch.target.astype(np.int64),
        validation=config.validation_images,
        test=config.test_images,
        seed=config.split_seed,
        device=device,
    )


def _cifar10(config: TaskConfig, device: torch.device) -> Dataset:
    """60,000 photographs of 32x32 pixels, 10 classes; validation images are cut from the training files."""
    assert config.data_dir is not None  # check_task has seen to it
    train, test = read_cifar10(config.data_dir, "train"), read_cifar10(config.data_dir, "test", config.test_images)
    if len(test.labels) < config.test_images:
        raise ValueError(f"task.test_images is {config.test_images}, but the test files hold {len(test.labels)}")
    if config.validation_images >= len(train.labels):
        raise ValueError(f"{config.validation_images} validation images leave none of {len(train.labels)} to train on")
    order = np.random.default_rng(np.random.SeedSequence([config.split_seed])).permutation(len(train.labels))
    held, rest = np.split(order, [config.validation_images])
    return dataset_of(
        (train.images[rest], train.labels[rest]),
        (train.images[held], train.labels[held]),
        (test.images, test.labels),
        classes=CLASSES,
        device=device,
    )


register_task("digits", _digits)
register_task("cifar10", _cifar10)

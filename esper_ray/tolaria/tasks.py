"""Registry of tasks. Each loads a data set once per process and device.

An external package adds a task by an entry point of the group ``esper_ray.tasks``: the name of the task, and a
loader. It is imported when the task is used.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import torch

from esper_ray.kasmina.hosts import CNN_VARIANTS
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.run import TaskConfig
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.plugins.entry_points import TASK_PLUGINS
from esper_ray.tolaria.data import Dataset
from esper_ray.tolaria.data.checks import check_dataset
from esper_ray.tolaria.sources.cifar import find_cifar10, load_cifar10
from esper_ray.tolaria.sources.digits import load_digits
from esper_ray.tolaria.sources.patterns import load_patterns
from esper_ray.tolaria.sources.text import find_text, load_text
from esper_ray.tolaria.sources.tinystories import find_tinystories, load_tinystories

Loader = Callable[[TaskConfig, torch.device], Dataset[Any]]


class TaskError(UserError, ValueError):
    """An unknown task, or missing or invalid data. The message says how to get the data."""

    remedy = "Put the data into the folder that the message names, or choose another task."


TASK_PACKAGES = replace(TASK_PLUGINS, error=TaskError)
"""Tasks of installed packages."""


@dataclass(frozen=True, slots=True)
class Task:
    """A data set that is selected by name."""

    name: str
    load: Loader
    about: str
    """Description in one line."""
    files: str = "may read task.data_dir"
    """Files that it reads from ``task.data_dir``."""
    data_dir: Literal["needed", "refused", "optional"] = "optional"
    find: Callable[[Path], object] | None = None
    """Function that raises if the files are missing in a folder."""
    shares: str | None = None
    """Name of another task with the same data, if any."""


_TASKS: dict[str, Task] = {}
_LOADING = RLock()
"""Lock of data loading, so that threads share one copy; reentrant for nested loaders."""


def register_task(name: str, loader: Loader, about: str = "") -> None:
    """Make ``loader`` available as the task ``name`` in this process.

    Args:
        about: description for ``esper tasks``; default: the first line of the loader's docstring.

    Raises:
        ValueError: if the name is taken.
    """
    _register(Task(name, loader, about or _first_line(loader)))


def task_names() -> list[str]:
    """Names of the registered tasks and those of installed packages.

    Raises:
        TaskError: if an installed package offers a name that is taken.
    """
    return sorted([*_TASKS, *_offered()])


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        TaskError: if there is none, or the package that offers it cannot be imported or offers a taken name.
    """
    if name in _TASKS:
        return _TASKS[name]
    offered = _offered()
    if name not in offered:
        raise TaskError(unknown_name_message("task", name, task_names()))
    plugin = TASK_PACKAGES.imported(offered[name])
    return Task(name, plugin.part, plugin.about)


def check_task(config: TaskConfig) -> None:
    """Check a task configuration without loading its data.

    Raises:
        TaskError: if the task is unknown, its data directory does not exist, is not wanted, or lacks files.
    """
    task, folder = find_task(config.name), config.data_dir
    if folder is not None and not folder.is_dir():
        raise TaskError(f"data directory {folder} {'is not a folder' if folder.exists() else 'does not exist'}")
    if folder is None and task.data_dir == "needed":
        raise TaskError(f"task {task.name!r} reads {task.files}; give their folder as task.data_dir (--data-dir)")
    if folder is not None and task.data_dir == "refused":
        raise TaskError(f"task {task.name!r} {task.files} and reads none from {folder}")
    if folder is not None and task.find is not None:
        try:
            task.find(folder)
        except (ValueError, OSError) as error:
            raise TaskError(f"task {task.name!r}: {error}") from error


def load_task(config: TaskConfig, device: torch.device) -> Dataset[Any]:
    """The data set of ``config`` on ``device``, shared within this process.

    Tasks that differ in their host alone, like ``cifar_baseline`` and ``cifar_scale``, share one too.

    Raises:
        TaskError: see :func:`check_task`; also if the files are broken, the data does not allow the configured
        splits, the memory is exhausted, or a loader of another package fails or returns invalid examples.
    """
    check_task(config)
    task = find_task(config.name)
    update: dict[str, Any] = {} if task.shares is None else {"name": task.shares}
    if config.data_dir is not None:
        update["data_dir"] = config.data_dir.resolve()
    try:
        with _LOADING:
            return _load(task.load, config.model_copy(update=update), device)
    except TaskError:
        raise
    except torch.OutOfMemoryError as error:
        raise TaskError(f"task {config.name!r}: the data does not fit on {device}; lower task.train_size") from error
    except MemoryError as error:
        raise TaskError(f"task {config.name!r}: the data does not fit into memory; lower task.train_size") from error
    except (ValueError, OSError) as error:
        raise TaskError(f"task {config.name!r}: {error}") from error
    except Exception as error:  # a loader of another package can raise anything
        raise TaskError(f"task {config.name!r}: its loader failed with {type(error).__name__}: {error}") from error


@lru_cache(maxsize=4)
def _load(loader: Loader, config: TaskConfig, device: torch.device) -> Dataset[Any]:
    data: object = loader(config, device)
    if not isinstance(data, Dataset):
        raise TaskError(f"task {config.name!r}: its loader must return a Dataset, got {type(data).__name__}")
    if all(task.load is not loader for task in _BUILT_IN):
        check_dataset(data)
    return data


def _register(task: Task) -> None:
    if task.name in _TASKS:
        raise ValueError(f"task {task.name!r} is already registered")
    _TASKS[task.name] = task


def _offered() -> dict[str, EntryPoint]:
    """Entry points of tasks in installed packages, not imported."""
    return TASK_PACKAGES.offered(_TASKS)


def _first_line(loader: Loader) -> str:
    return next(iter((loader.__doc__ or "").strip().splitlines()), "")


_CIFAR10 = Task(
    "cifar10",
    load_cifar10,
    "60,000 colour photographs of 32x32 pixels, 10 classes",
    "train*.parquet and test*.parquet, or cifar-10-python.tar.gz, or the folder cifar-10-batches-py",
    "needed",
    find_cifar10,
)
_BUILT_IN = (
    Task(
        "digits", load_digits, "1,797 handwritten digits of 8x8 pixels, 10 classes", "carries its own data", "refused"
    ),
    Task(
        "patterns",
        load_patterns,
        "made-up 8x8 textures, 4 classes: 1x1 convolutions are right for 25 %, a 3x3 convolution for 100 %",
        "makes its own data",
        "refused",
    ),
    Task(
        "text",
        load_text,
        "the next character (or byte) of a text",
        "one UTF-8 file, input.txt or the only *.txt",
        "needed",
        find_text,
    ),
    Task(
        "tinystories",
        load_tinystories,
        "the next GPT-2 token of a short story",
        "TinyStories-train.txt, TinyStories-valid.txt and GPT-2's tokenizer.json",
        "needed",
        find_tinystories,
    ),
    _CIFAR10,
    *(
        replace(_CIFAR10, name=name, about="CIFAR-10, for the host of that name", shares="cifar10")
        for name in CNN_VARIANTS
    ),
)
for _task in _BUILT_IN:
    _register(_task)

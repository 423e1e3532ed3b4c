"""Checks of a configuration before a run starts or writes anything."""

import os
from pathlib import Path

import torch

from esper_ray.kasmina.modules import preserved_randomness
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.config.host import OwnHostConfig
from esper_ray.leyline.config.memory import GIB
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.system import DEVICE
from esper_ray.leyline.config.task_mix import members, mixed_growth
from esper_ray.leyline.errors import UsageError, UserError, shortened
from esper_ray.leyline.plugins.rewards import own_reward
from esper_ray.tolaria.assembly import AnyData, build_organism, growth_limits, shortest_decision
from esper_ray.tolaria.data import keyed_generator
from esper_ray.tolaria.device_memory import is_out_of_memory
from esper_ray.tolaria.own_hosts import check_own_host
from esper_ray.tolaria.tasks import load_task

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the memory limit of a container, in bytes, or ``max``."""


def check_devices(config: RunConfig, *, on_cluster: bool = False) -> None:
    """Refuse devices and amounts of memory that this machine does not have. A cluster checks its own.

    Raises:
        UsageError: if a device does not exist, with the number of GPUs, or memory is too small, with the arithmetic.
    """
    devices = (config.system.device, *config.system.devices)
    if config.training.compile_mode == "captured" and "cpu" in config.system.devices:
        raise UsageError("--compile-mode captured needs CUDA devices for the environments, got cpu")
    if on_cluster:
        return
    for device in devices:
        _check_exists("device", device)
    if set(devices) == {"cpu"}:
        _check_memory(config)


def check_environment_device(config: RunConfig, device: str) -> None:
    """Refuse a device on which no environment of ``config`` can run.

    Raises:
        UsageError: if the device does not exist here, or captured steps are to run on the CPU.
    """
    checked_device("device", device)
    if config.training.compile_mode == "captured" and device == "cpu":
        raise UsageError("training.compile_mode captured needs a CUDA device, got cpu")


def checked_device(what: str, name: str) -> str:
    """The device ``name`` of this machine; ``what`` begins the message.

    Raises:
        UsageError: if it is not a device, or this machine does not have it.
    """
    if not DEVICE.fullmatch(name):
        raise UsageError(f"{what} {shortened(name)}: it must be cpu or cuda:<index>")
    _check_exists(what, name)
    return name


def _check_exists(what: str, device: str) -> None:
    count = torch.cuda.device_count()
    if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        raise UsageError(f"{what} {device!r} does not exist: this machine has {count} CUDA devices")


def machine_bytes() -> int:
    """Memory of this machine, or of this container, in bytes."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in CGROUP_LIMITS:
        try:
            limits.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return min(limits)


def _check_memory(config: RunConfig, pixels: int = 1) -> None:
    """
    Args:
        pixels: of an image of the task; 1 if it is unknown.

    Raises:
        UsageError: if the parts of the run together exceed the memory of this machine.
    """
    demands, limit = config.memory_demands(pixels), machine_bytes()
    total = sum(demand.size for demand in demands)
    if total > limit:
        largest = max(demands, key=lambda demand: demand.size)
        raise UsageError(
            f"the run needs {total / GIB:,.1f} GiB, this machine has {limit / GIB:,.1f} GiB; {largest.describe()}"
        )


def check_run(config: RunConfig) -> tuple[str, ...]:
    """Refuse data, growth options, hosts and rewards that cannot run, before anything starts.

    Of a mix, every task is checked.

    Returns:
        Notes on what the run cannot show.

    Raises:
        TaskError: if the task or its data is not available.
        GrowthError: see ``growth_limits`` and ``build_organism``.
        PluginError: if a part of another package is missing or does not work.
        ConfigError: if its options are not valid, or tasks do not go together.
        UsageError: if a batch is larger than the data, or the host cannot work on its images.
    """
    if config.task_mix:
        mixed_growth(config)
        return tuple(dict.fromkeys(note for member in members(config) for note in check_run(member.config)))
    data = load_task(config.task, torch.device("cpu"))
    elsewhere = config.system.workers == "ray" and "RAY_ADDRESS" in os.environ
    if len(data.example_shape) == 3 and set(config.system.devices) == {"cpu"} and not elsewhere:
        _check_memory(config, pixels=data.example_shape[1] * data.example_shape[2])
    if config.reward.is_own:
        own_reward(config.reward)
    if isinstance(config.host, OwnHostConfig):
        check_own_host(config.host, data, len(config.growth.slots))
    try:
        organism = build_organism(config, data, torch.device("cpu"), seed=0)
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:
        raise _impossible_host(data, error) from error
    check_training_batch(config, organism, data)
    growth_limits(config.growth, organism.model, config.episode_length)
    needed = shortest_decision(organism.model)
    if config.episode_length >= needed:
        return ()
    return (f"episodes of {config.episode_length} epochs are too short to commit a seed, which needs {needed}",)


def check_training_batch(config: RunConfig, organism: Organism, data: AnyData) -> None:
    """Refuse a batch that the data cannot fill or the host cannot train on.

    A forward pass tests it. It changes the running statistics of ``organism``, and no random generator.

    Raises:
        UsageError: with the batch size and the constraint.
        RuntimeError: if memory is exhausted.
    """
    size = config.training.batch_size
    if size > len(data.train):
        raise UsageError(f"training.batch_size {size} exceeds the {len(data.train)} training examples")
    rows = torch.arange(size, device=data.device)
    draws = data.draw(keyed_generator(0), 1, size)[0].to(data.device)
    try:
        with torch.no_grad(), preserved_randomness(data.device):
            organism.model.train()(data.training_batch(rows, draws)[0])
    except (ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(f"the host cannot train on batches of training.batch_size {size}: {error}") from error


def _impossible_host(data: AnyData, error: Exception) -> UsageError:
    shape = "x".join(map(str, data.example_shape))
    return UsageError(f"the host cannot work on examples of shape {shape}: {error}")

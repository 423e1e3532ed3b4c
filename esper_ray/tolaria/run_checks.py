"""Checks of a configuration before a run starts or writes anything."""

import torch

from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UsageError
from esper_ray.tolaria.assembly import build_organism, growth_limits
from esper_ray.tolaria.tasks import load_task


def check_devices(config: RunConfig, *, on_cluster: bool = False) -> None:
    """Refuse devices that this machine does not have. A cluster checks its devices itself.

    Raises:
        UsageError: if a device does not exist; the message has the number of GPUs.
    """
    devices = (config.system.device, *config.system.devices)
    if config.training.compile_mode == "captured" and "cpu" in config.system.devices:
        raise UsageError("--compile-mode captured needs CUDA devices for the environments, got cpu")
    if on_cluster:
        return
    count = torch.cuda.device_count()
    for device in devices:
        if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
            raise UsageError(f"device {device!r} does not exist: this machine has {count} CUDA devices")


def check_run(config: RunConfig) -> None:
    """Refuse data, growth options and hosts that cannot run, before anything starts or is written.

    Raises:
        TaskError: if the task or its data is not available.
        GrowthError: see ``growth_limits``.
        UsageError: if a batch is larger than the data, or the host cannot work on its images.
    """
    data = load_task(config.task, torch.device("cpu"))
    if config.training.batch_size > len(data.train):
        raise UsageError(
            f"training.batch_size {config.training.batch_size} exceeds the {len(data.train)} training examples"
        )
    try:
        organism = build_organism(config, data, torch.device("cpu"), seed=0)
    except (ValueError, RuntimeError) as error:
        shape = "x".join(map(str, data.example_shape))
        raise UsageError(f"the host cannot work on examples of shape {shape}: {error}") from error
    growth_limits(config.growth, organism.model)

"""From flags to a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from esper_ray.leyline.config.loading import build, preset_names, read_file, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UsageError

DEFAULT_PRESET = "digits"

Preset = Annotated[str | None, typer.Option(help=f"preset by name ('esper config presets'); default {DEFAULT_PRESET}")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any configuration key, for example ppo.lr=1e-3")
]
ConfigJson = Annotated[Path | None, typer.Option(help="configuration file (JSON or YAML) instead of a preset")]
Task = Annotated[str | None, typer.Option(help="task by name")]
DataDir = Annotated[Path | None, typer.Option(help="folder with the data, for tasks that read files")]
Seed = Annotated[int | None, typer.Option(help="seed of the run")]
Device = Annotated[str | None, typer.Option(help="device of the learner: cpu or cuda:<index>")]
Devices = Annotated[list[str] | None, typer.Option(help="devices of the environments, dealt out in turn")]
EpisodeLength = Annotated[int | None, typer.Option(help="environment steps per episode")]
RewardMode = Annotated[str | None, typer.Option(help="what is rewarded")]
Slots = Annotated[list[str] | None, typer.Option(help="slots that may grow, for example r0c0 r0c1")]
MaxSeeds = Annotated[int | None, typer.Option(help="most seeds at a time, fossils included; 0: no limit")]
TelemetryDir = Annotated[Path | None, typer.Option(help="folder in which the run directory is made; default runs")]
NumWorkers = Annotated[int | None, typer.Option(help="not available: data lives on the device, no loader workers run")]
GpuPreload = Annotated[bool, typer.Option("--gpu-preload", help="the data set lives on the device; always the case")]
CompileMode = Annotated[
    str | None,
    typer.Option(help="how hosts are trained: off, a mode of torch.compile, or captured (a CUDA graph of each step)"),
]
ForceCompile = Annotated[bool, typer.Option("--force-compile", help="not needed: see --compile-mode")]


def configuration(
    preset: str | None,
    config_json: Path | None,
    flags: Mapping[str, Any],
    settings: list[str] | None,
    base: RunConfig | None = None,
) -> RunConfig:
    """The configuration that the flags ask for.

    Args:
        flags: dotted configuration keys to values; ``None`` means that the flag was not given.
        settings: further ``key=value`` pairs.
        base: what the flags refer to if neither preset nor file is given, instead of the default preset.

    Raises:
        UsageError: if both a preset and a file are given, or a setting is no pair.
        ConfigError: if the result is not valid.
    """
    if preset is not None and config_json is not None:
        raise UsageError(f"--preset {preset} and --config-json {config_json} exclude each other")
    task = flags.get("task.name")
    if config_json is not None:
        tree = read_file(config_json)
    elif preset is not None:
        tree = read_preset(preset)
    elif base is not None:
        tree = base.model_dump(mode="json")
    else:
        tree = read_preset(task if task in preset_names() else DEFAULT_PRESET)
    overrides = {key: value for key, value in flags.items() if value is not None}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes KEY=VALUE, got {setting!r}")
        overrides[key] = _value(value)
    return build(tree, overrides)


def _value(text: str) -> Any:
    """``text`` as YAML reads it, except that numbers like 1e-3 are numbers."""
    try:
        return float(text) if "e" in text.lower() and text[0] in "+-.0123456789" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text


def refuse_unavailable(num_workers: int | None, force_compile: bool) -> None:
    """Refuse flags whose machinery does not exist, naming what to use instead.

    Raises:
        UsageError: naming the flag.
    """
    if num_workers not in (None, 0):
        raise UsageError(
            f"--num-workers {num_workers} is not available yet: the data set lives on the device and needs no "
            "loader workers; leave the flag out"
        )
    if force_compile:
        raise UsageError("--force-compile is not available: --compile-mode is followed wherever a run is started")


def check_devices(config: RunConfig, *, on_cluster: bool) -> None:
    """Refuse devices that this machine does not have. A cluster knows its own.

    Raises:
        UsageError: with the number of GPUs that there are.
    """
    import torch

    devices = (config.system.device, *config.system.devices)
    if config.training.compile_mode == "captured" and "cpu" in config.system.devices:
        raise UsageError("--compile-mode captured needs CUDA devices for the environments, got cpu")
    if on_cluster:
        return
    has = torch.cuda.device_count()
    for device in devices:
        if device != "cpu" and int(device.partition(":")[2] or 0) >= has:
            raise UsageError(f"device {device!r} does not exist: this machine has {has} CUDA devices")


def check_run(config: RunConfig) -> None:
    """Refuse what cannot be run, before anything is started or written: data, growth options, host.

    Raises:
        TaskError: if the task or its data cannot be had.
        GrowthError: see ``growth_limits``.
        UsageError: if a batch is larger than the data, or the host cannot work on its images.
    """
    import torch

    from esper_ray.tolaria.assembly import build_organism, growth_limits
    from esper_ray.tolaria.tasks import load_task

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


def checked_storage(place: str) -> str:
    """``place`` as every node finds it.

    Raises:
        StorageError: if files cannot be written there.
    """
    from esper_ray.nissa.runs.storage import Storage

    full = place if "://" in place else str(Path(place).absolute())
    Storage(full).check()
    return full

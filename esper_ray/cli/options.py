"""Options of the command line that set configuration keys, and their resolution.

:data:`FLAGS` is the one table of flags and configuration keys. ``@configured(...)`` adds the options
``--preset``, ``--config-json``, ``--set`` and the named flags to a command; the command receives one
:class:`ConfigRequest`. This module does not import torch, Ray or Gymnasium before a run is checked.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml
from pydantic import BaseModel

from esper_ray.leyline.config.loading import build, preset_names, read_file, read_preset
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UsageError

DEFAULT_PRESET = "digits"
TASK, LEARNING, MACHINE = "Task, reward and growth", "Learning", "Machine"
"""Titles of the panels in the help."""


@dataclass(frozen=True)
class Flag:
    """Option that sets one configuration key.

    ``name`` is the name of the parameter; the option is ``--name`` with hyphens.
    """

    name: str
    key: str
    type: Any
    help: str
    panel: str
    value: Callable[[Any], Any] = lambda given: given
    """Conversion from the value on the command line to that of the configuration."""

    @property
    def option(self) -> str:
        """The option as a user writes it."""
        return f"--{self.name.replace('_', '-')}"


FLAGS = {
    flag.name: flag
    for flag in (
        Flag("task", "task.name", str, "task by name (`esper tasks` lists them)", TASK),
        Flag("data_dir", "task.data_dir", Path, "folder with the data, for tasks that read files", TASK, str),
        Flag("episode_length", "episode_length", int, "environment steps per episode", TASK),
        Flag("seed", "seed", int, "seed of the run", TASK),
        Flag("reward_mode", "reward.mode", str, f"reward mode: {', '.join(REWARD_MODES)}", TASK),
        Flag("slots", "growth.slots", list[str], "slots in which seeds may grow, for example r0c0 r0c1", TASK),
        Flag("max_seeds", "growth.max_seeds", int, "most seeds at a time, fossils included; 0: no limit", TASK),
        Flag("rounds", "ppo.rounds", int, "rounds of collecting episodes and updating the policy", LEARNING),
        Flag("envs", "system.envs", int, "episodes per round", LEARNING),
        Flag("ppo_epochs", "ppo.epochs", int, "passes over the episodes of each round", LEARNING),
        Flag("memory_size", "policy.memory_size", int, "width of the policy's LSTM", LEARNING),
        Flag("device", "system.device", str, "device of the learner: cpu or cuda:<index>", MACHINE),
        Flag("devices", "system.devices", list[str], "devices of the environments, assigned in turn", MACHINE),
        Flag("envs_per_actor", "system.envs_per_actor", int, "environments per Ray actor", MACHINE),
        Flag(
            "gpus_per_actor",
            "system.gpus_per_actor",
            float,
            "share of a GPU for each environment actor; default: an equal share",
            MACHINE,
        ),
        Flag(
            "compile_mode",
            "training.compile_mode",
            str,
            "how hosts are compiled: off, a mode of torch.compile, or captured (a CUDA graph of each step)",
            MACHINE,
        ),
        Flag(
            "serial",
            "system.workers",
            bool,
            "run in one process, without Ray (system.workers=local); the results are equal",
            MACHINE,
            lambda _: "local",
        ),
        Flag("telemetry", "telemetry.level", str, "amount of telemetry: off, normal or debug", "Telemetry"),
    )
}
"""Every flag of a configuration key, by its name. A key without a flag is set by ``--set``."""

TRIAL_SERIAL = Flag(
    "serial",
    "system.workers",
    bool,
    "run each trial in one process instead of one per actor (system.workers=local); the results are equal",
    MACHINE,
    lambda _: "local",
)
PLAYER_DEVICE = Flag(
    "device", "system.devices", str, "device of the environment: cpu or cuda:<index>", MACHINE, lambda name: [name]
)
"""Flag ``--device`` of commands without a learner."""

NO_OPS = {
    "num_workers": (int | None, None, "the data set lives on the device, so there are no loader workers"),
    "gpu_preload": (bool, False, "the data set always lives on the device"),
    "force_compile": (bool, False, "--compile-mode alone decides how hosts are compiled"),
}
"""Flags of the reference without effect: type, value if absent, reason. The help omits them."""


def _complete_preset(incomplete: str) -> list[str]:
    return [name for name in preset_names() if name.startswith(incomplete)]


Preset = Annotated[
    str | None,
    typer.Option(
        help=f"preset by name (`esper config presets` lists them); default: {DEFAULT_PRESET}",
        autocompletion=_complete_preset,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="any configuration key, for example ppo.lr=1e-3; repeatable"),
]
ConfigJson = Annotated[Path | None, typer.Option(help="configuration file (JSON or YAML) instead of a preset")]
DataDir = Annotated[Path | None, typer.Option(help=FLAGS["data_dir"].help)]


@dataclass(frozen=True)
class ConfigRequest:
    """Unresolved configuration of a command line."""

    preset: str | None
    config_json: Path | None
    flags: Mapping[str, Any]
    """Configuration keys to values, for the flags on the command line."""
    settings: list[str] | None

    @property
    def has_source(self) -> bool:
        """Whether a preset or a file is named, which replaces the configuration of an earlier run."""
        return self.preset is not None or self.config_json is not None

    def configuration(self, base: RunConfig | None = None) -> RunConfig:
        """The valid configuration; see :func:`configuration`."""
        return configuration(self.preset, self.config_json, self.flags, self.settings, base)


def configured(*flags: str | Flag, no_ops: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that replaces the first parameter, a :class:`ConfigRequest`, by its options.

    Args:
        flags: names in :data:`FLAGS`, or flags of this command alone.
        no_ops: also accept the flags of :data:`NO_OPS`, with a note about each on standard error.
    """
    configured_flags = [FLAGS[flag] if isinstance(flag, str) else flag for flag in flags]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        positional = [p for p in signature.parameters.values() if p.default is p.empty][1:]
        optional = [p for p in signature.parameters.values() if p.default is not p.empty]
        parameters = [*positional, *_source_parameters(), *map(_parameter, configured_flags), *optional]
        parameters += _no_op_parameters() if no_ops else []

        @functools.wraps(command)
        def call(**given: Any) -> None:
            if no_ops:
                note_no_ops({name: given.pop(name) for name in NO_OPS})
            source = [given.pop(name) for name in ("preset", "config_json", "settings")]
            values = {flag: given.pop(flag.name) for flag in configured_flags}
            keys = {flag.key: flag.value(value) for flag, value in values.items() if _is_given(value)}
            command(ConfigRequest(source[0], source[1], keys, source[2]), **given)

        keyword = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
        call.__signature__ = inspect.Signature(keyword, return_annotation=None)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate


def _is_given(value: Any) -> bool:
    """Whether an option was on the command line. 0 is a value; False and an empty list mean absence."""
    return value is not None and value is not False and value != []


def _source_parameters() -> list[inspect.Parameter]:
    annotations = {"preset": Preset, "config_json": ConfigJson, "settings": Settings}
    return [_keyword(name, annotation, None) for name, annotation in annotations.items()]


def _parameter(flag: Flag) -> inspect.Parameter:
    names = [flag.option] if flag.type is bool else []  # an explicit name avoids a --no-... option
    option = typer.Option(*names, help=flag.help, rich_help_panel=flag.panel)
    return _keyword(flag.name, Annotated[flag.type | None, option], None)


def _no_op_parameters() -> list[inspect.Parameter]:
    parameters = []
    for name, (kind, absent, _) in NO_OPS.items():
        option = typer.Option(f"--{name.replace('_', '-')}", hidden=True)
        parameters.append(_keyword(name, Annotated[kind, option], absent))
    return parameters


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def note_no_ops(given: Mapping[str, Any]) -> None:
    """Print one line for each flag without effect, with the reason.

    Raises:
        UsageError: if the number of loader workers is not 0.
    """
    if given["num_workers"] not in (None, 0):
        raise UsageError(
            f"--num-workers {given['num_workers']} is not possible: it must be 0, because the data set lives on the "
            "device without loader workers; leave the flag out"
        )
    for name, value in given.items():
        _, absent, reason = NO_OPS[name]
        if value != absent:
            typer.echo(f"esper: note: --{name.replace('_', '-')} has no effect: {reason}", err=True)


class ConfiguredCommand(typer.core.TyperCommand):
    """Command whose error for an unknown option suggests the configuration key of that name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if type(error).__name__ != "NoSuchOption":  # by name, because typer may vendor its own click
                raise
            option = str(getattr(error, "option_name", ""))
            options = {name for parameter in self.params for name in parameter.opts}
            suggestions = suggested_options(option, words, options)
            if not suggestions:
                raise
            raise UsageError(
                f"{ctx.command_path} has no option {option}; did you mean {' or '.join(suggestions)}?"
            ) from None


def suggested_options(option: str, words: list[str], options: set[str]) -> list[str]:
    """Options for the configuration keys whose last part is ``option``, those of the learner first.

    Args:
        option: as written, ``--lr``.
        words: the command line, for the value that follows the option.
        options: options of the command; a flag among them is preferred to ``--set``.
    """
    name = option.lstrip("-").replace("-", "_")
    flags = {flag.key: flag.option for flag in FLAGS.values() if flag.option in options}
    keys = [key for key in configuration_keys() if name in (key, key.rpartition(".")[2])]
    value = _option_value(option, words)
    return [
        f"{flags[key]} {value}" if key in flags else f"--set {key}={value}"
        for key in sorted(keys, key=lambda key: not key.startswith("ppo."))
    ]


def configuration_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Dotted names of all configuration keys, including those of all host families."""
    keys: dict[str, None] = {}
    for name, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        inner = [key for model in models for key in configuration_keys(model, f"{prefix}{name}.")]
        keys |= dict.fromkeys(inner or [prefix + name])
    return list(keys)


def _option_value(option: str, words: list[str]) -> str:
    """The value after ``option``, or ``VALUE`` without one."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and following and not following.startswith("--"):
            return following
    return "VALUE"


def configuration(
    preset: str | None,
    config_json: Path | None,
    flags: Mapping[str, Any],
    settings: list[str] | None,
    base: RunConfig | None = None,
) -> RunConfig:
    """The valid configuration of a command line.

    Args:
        flags: dotted configuration keys to values; ``None`` means that the flag was not given.
        settings: further ``key=value`` pairs.
        base: configuration that replaces the default preset if neither preset nor file is given.

    Raises:
        UsageError: if both a preset and a file are given, or a setting is not a ``key=value`` pair.
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

"""Options of the command line that set configuration keys, and their resolution.

:data:`FLAGS` is the one table of flags and configuration keys. ``@configured(...)`` adds the options
``--preset``, ``--config``, ``--set`` and the named flags to a command; the command receives one
:class:`ConfigRequest`. This module does not import torch, Ray or Gymnasium before a run is checked.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel

from esper_ray.leyline.config.documents import DocumentError, read_value
from esper_ray.leyline.config.layers import PRESET, LayeredConfig, layered
from esper_ray.leyline.config.loading import build_complete, layer, nested, preset_names
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.run import RunConfig, flatten
from esper_ray.leyline.errors import UsageError, shortened
from esper_ray.leyline.process.credentials import without_credentials

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


def own_host(build: str) -> dict[str, Any]:
    """Keys of an own host without options, by their dotted names."""
    return {"host.family": "own", "host.build": build, "host.options": {}, "host.slots": {}}


FLAGS = {
    flag.name: flag
    for flag in (
        Flag("task", "task.name", str, "task by name (`esper tasks` lists them)", TASK),
        Flag("host", "host.build", str, "own host: an entry point of esper_ray.hosts, or MODULE:FUNCTION", TASK),
        Flag("data_dir", "task.data_dir", Path, "folder with the data, for tasks that read files", TASK, str),
        Flag("episode_length", "episode_length", int, "environment steps per episode", TASK),
        Flag("seed", "seed", int, "seed of the run", TASK),
        Flag("reward_mode", "reward.mode", str, f"reward mode: {', '.join(REWARD_MODES)}, or an own one", TASK),
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
            "compilation of hosts: off, a mode of torch.compile, or captured (CUDA graphs of steps)",
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
    "run each trial in one process (system.workers=local); the results are equal",
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
"""Flags of the reference without effect: type, value if absent, reason. Help and suggestions omit them."""

SYNONYMS = {"learning_rate": "lr"}
"""Common names of settings, with the last part of our keys."""


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
ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "--config-json",
        help="configuration file (YAML or JSON): complete, or the differences from a preset",
    ),
]
DataDir = Annotated[Path | None, typer.Option(help=FLAGS["data_dir"].help)]


@dataclass(frozen=True)
class ConfigRequest:
    """Unresolved configuration of a command line."""

    preset: str | None
    config: Path | None
    flags: Mapping[str, Any]
    """Configuration keys to values, for the flags on the command line."""
    settings: list[str] | None

    @property
    def has_source(self) -> bool:
        """Whether a preset or a file is named. It replaces the configuration of an earlier run."""
        return self.preset is not None or self.config is not None

    def keys(self) -> dict[str, Any]:
        """Dotted configuration keys to values, of the flags and of ``--set``.

        Raises:
            UsageError: if a setting is not a ``key=value`` pair, or a key has two different values.
        """
        return key_values(self.flags, self.settings or [])

    def configuration(self, base: RunConfig | None = None, below: Mapping[str, Any] | None = None) -> RunConfig:
        """The valid configuration; see :meth:`layered`."""
        return self.layered(base, below).config

    def layered(self, base: RunConfig | None = None, below: Mapping[str, Any] | None = None) -> LayeredConfig:
        """The valid configuration, and the preset below it.

        Args:
            base: configuration that replaces the default preset if neither preset nor file is given.
            below: dotted keys to values, below those of the command line.

        Raises:
            UsageError: see :meth:`keys`.
            ConfigError: if the result is not valid.
        """
        keys = self.keys()
        over = layer(nested(below or {}), nested(keys))
        if not self.has_source and base is not None:
            return LayeredConfig(build_complete(base.model_dump(mode="json"), None, over), None)
        task = self.flags.get("task.name")
        default = task if isinstance(task, str) and task in preset_names() else DEFAULT_PRESET
        preset = default if not self.has_source else self.preset
        return layered(preset, self.config, over)


def echo_differences(layered: LayeredConfig) -> None:
    """Print what is in effect, as differences from the preset."""
    for line in layered.describe():
        typer.echo(line)


def echo_loading(config: RunConfig) -> None:
    """Print that data files are loaded. The first time takes up to a minute."""
    if config.task.data_dir is not None:
        typer.echo(without_credentials(f"loading the data of {config.task.name} from {config.task.data_dir}"))


def echo_notes(notes: Sequence[str]) -> None:
    """Print what a run cannot show."""
    for note in notes:
        typer.echo(f"note: {note}")


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
            source = [given.pop(name) for name in ("preset", "config", "settings")]
            values = {flag: given.pop(flag.name) for flag in configured_flags}
            keys = {flag.key: flag.value(value) for flag, value in values.items() if _is_given(value)}
            keys |= own_host(keys["host.build"]) if "host.build" in keys else {}
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
    annotations = {"preset": Preset, "config": ConfigPath, "settings": Settings}
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
                hidden = {name for p in self.params if getattr(p, "hidden", False) for name in p.opts}
                error.possibilities = [  # type: ignore[attr-defined]
                    name for name in getattr(error, "possibilities", None) or () if name not in hidden
                ]
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
    name = SYNONYMS.get(name, name)
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


def key_values(flags: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """Configuration keys to values, of flags and of ``KEY=VALUE`` settings. A mapping is split into its keys.

    Args:
        flags: dotted configuration keys to values; ``None`` means that the flag was not given.

    Raises:
        UsageError: if a setting is not a ``key=value`` pair or cannot be read, or a key has two different values.
    """
    values = {key: value for key, value in flags.items() if value is not None}
    origins = {key: next((flag.option for flag in FLAGS.values() if flag.key == key), key) for key in values}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes KEY=VALUE, got {shortened(setting)}")
        if key == PRESET:
            raise UsageError(f"--set {shortened(setting)}: a preset is named by --preset")
        try:
            value = read_value(text)
        except DocumentError as error:
            raise UsageError(f"--set {key}: {error}") from None
        for leaf, content in (flatten(value, f"{key}.") if isinstance(value, dict) and value else {key: value}).items():
            if leaf in values and repr(values[leaf]) != repr(content):
                first = f"{shortened(values[leaf])} by {origins[leaf]}"
                raise UsageError(f"{leaf} is given twice: {first}, {shortened(content)} by --set")
            values[leaf], origins[leaf] = content, "--set"
    return values

"""Configuration of a sweep, and its expansion into trials.

A sweep is expanded to the configurations of all its trials before any trial starts. All functions are pure.
"""

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from esper_ray.leyline.config.base import (
    Fraction,
    Integer,
    Name,
    Number,
    Rounds,
    Section,
    Seed,
    Version,
    check_names,
    problem_message,
    unknown_name_message,
    with_value,
)
from esper_ray.leyline.config.loading import (
    ConfigError,
    ConfigFile,
    build_complete,
    data_folder,
    explained,
    preset_names,
    read_file,
)
from esper_ray.leyline.config.reward import RECORDED, REWARD_MODES, RewardMode, checked_mode
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import shortened

Scheduler = Literal["none", "asha", "pbt", "pb2"]
SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)
POPULATION_SCHEDULERS = ("pbt", "pb2")
FLAGS_OF_KEYS = {"seed": "--seeds", "reward.mode": "--reward-modes"}
"""Keys that a grid may not hold, and the flags for them."""
NEVER_SWEPT = ("name", "schema_version")
PER_TRIAL = ("ppo.rounds", "ppo.checkpoints_kept")
"""Keys of the learner that affect the length or the files of a trial, not its learning."""
MAX_NAME_LENGTH = 100
MAX_TRIALS = 10_000


SeedCount = Annotated[Integer, Field(ge=1, le=MAX_TRIALS)]


class HalvingConfig(Section):
    """Successive halving (ASHA), which stops the worst trials at a few milestones."""

    grace_rounds: Rounds = Field(0, description="rounds that every trial gets; 0: a quarter")
    reduction: Number = Field(3.0, gt=1, le=1000, description="about one trial in so many passes a milestone")


class PopulationConfig(Section):
    """Population-based training, in which the worst trials copy the best and change settings."""

    interval_rounds: Rounds = Field(0, description="rounds between changes; 0: a tenth")
    quantile: Number = Field(0.25, gt=0, le=0.5, description="share that copies, and is copied")
    resample: Fraction = Field(0.25, description="pbt: probability of a fresh value instead of a neighbouring one")


def _modes(value: Any, info: ValidationInfo) -> Any:
    if value in ("all", ["all"], ("all",)):
        return REWARD_MODES
    is_list = isinstance(value, list | tuple) and value and all(isinstance(mode, str) for mode in value)
    return check_names("reward mode", tuple(value), _checked_modes(value, info)) if is_list else value


def _checked_modes(modes: Sequence[str], info: ValidationInfo) -> list[str]:
    return [checked_mode(mode, recorded=info.context == RECORDED) for mode in modes]


class SweepConfig(Section):
    """Configuration of a sweep. Each file in ``configs/sweeps`` holds one."""

    schema_version: Version = Field(1, description="version of these keys")
    name: Name = Field("sweep", description="label of the sweep")
    preset: str = Field("digits", description="configuration that all trials share")
    settings: dict[str, Any] = Field(
        {}, description="configuration keys to values that override the preset, for all trials"
    )
    reward_modes: Annotated[tuple[RewardMode, ...], BeforeValidator(_modes)] = Field(
        (), description="reward modes to try, or all built-in ones; none: that of the preset"
    )
    seeds: SeedCount | Annotated[tuple[Seed, ...], Field(max_length=MAX_TRIALS)] = Field(
        3, description="run seeds: their number, from the seed of the preset on, or a list"
    )
    grid: dict[str, tuple[Any, ...]] = Field(
        {}, description="configuration keys to lists of values; all combinations are tried"
    )
    scheduler: Scheduler = Field("none", description="none, or how trials that are behind are stopped or changed")
    asha: HalvingConfig = HalvingConfig()
    population: PopulationConfig = PopulationConfig()
    window: Integer = Field(
        5, ge=1, le=1_000_000, description="last rounds of a trial whose mean objective is its score"
    )
    concurrent: Integer = Field(0, ge=0, le=MAX_TRIALS, description="trials at a time; 0: as many as fit")
    retries: Integer = Field(2, ge=0, le=1000, description="restarts of a trial after errors")

    @field_validator("reward_modes")
    @classmethod
    def _distinct_modes(cls, modes: tuple[RewardMode, ...]) -> tuple[RewardMode, ...]:
        return _distinct("reward mode", modes)

    @field_validator("seeds")
    @classmethod
    def _some_seeds(cls, seeds: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if seeds == ():
            raise ValueError("at least one seed is needed, got none")
        return seeds if isinstance(seeds, int) else _distinct("seed", seeds)

    @field_validator("grid")
    @classmethod
    def _full_grid(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in grid.items():
            if key in FLAGS_OF_KEYS:
                raise ValueError(f"{key!r} has an option of its own, {FLAGS_OF_KEYS[key]}")
            if key in NEVER_SWEPT:
                raise ValueError(f"{key!r} cannot be swept: it does not change what a run computes")
            if not values:
                raise ValueError(f"{key!r} has no values to try")
            _distinct(f"value of {key!r}", values)
        return grid

    @model_validator(mode="after")
    def _scheduler_fits(self) -> Self:
        if self.scheduler != "none" and "ppo.rounds" in self.grid:
            raise ValueError(
                f"scheduler {self.scheduler!r} compares trials round by round; take ppo.rounds out of grid"
            )
        if self.scheduler not in POPULATION_SCHEDULERS:
            return self
        if self.concurrent:
            raise ValueError(f"the trials of scheduler {self.scheduler!r} take turns; leave concurrent at 0")
        if not any(len(values) > 1 for values in self.grid.values()):
            raise ValueError(f"scheduler {self.scheduler!r} changes settings: grid needs a key with two values or more")
        for key, values in self.grid.items():
            _check_changeable(self.scheduler, key, values)
        return self


def _distinct(kind: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{kind} {shortened(value)} is listed twice")
    return values


def _check_changeable(scheduler: str, key: str, values: Sequence[Any]) -> None:
    """Check that ``key`` may change while a policy learns.

    Raises:
        ValueError: if it may not, or the scheduler is PB2 and its values are not two numbers or more.
    """
    if not key.startswith(("ppo.", "reward.")) or key in (*PER_TRIAL, "reward.family"):
        raise ValueError(
            f"scheduler {scheduler!r} changes settings while a policy learns; {key!r} cannot change then: "
            f"keys of ppo and reward can, without {', '.join((*PER_TRIAL, 'reward.family'))}"
        )
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if scheduler == "pb2" and not (numbers and len(values) > 1):
        raise ValueError(
            f"scheduler 'pb2' searches between the values of {key!r}: two numbers or more, got {shortened(values)}"
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """Trial of a sweep: one run."""

    name: str
    """Name of its folder; a function of the sweep."""
    settings: Mapping[str, Any]
    """Varied settings by configuration key: reward mode and seed first, then the grid."""
    config: RunConfig

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.seed

    @property
    def choice(self) -> dict[str, Any]:
        """The settings without the seed."""
        return {key: value for key, value in self.settings.items() if key != "seed"}


def expand(sweep: SweepConfig, base: RunConfig, *, recorded: bool = False) -> list[Trial]:
    """All trials of a sweep, by seed, grid point and reward mode.

    Seeds are outermost, so that an interrupted sweep has covered every choice with its first seeds.

    Args:
        base: the configuration that all trials share; its seed is the first if ``sweep.seeds`` is a number.
        recorded: whether the sweep was recorded; packages of its parts may be missing here then.

    Raises:
        ConfigError: if there are too many trials, or the configuration of one is not valid, with each problem and its
            trials.
    """
    _refuse_too_many(sweep)
    modes = sweep.reward_modes or (base.reward.mode,)
    seeds = range(base.seed, base.seed + sweep.seeds) if isinstance(sweep.seeds, int) else sweep.seeds
    points = list(itertools.product(seeds, *sweep.grid.values(), modes))
    tree = base.model_dump(mode="json")
    digits = len(str(len(points) - 1))
    trials: list[Trial] = []
    problems: dict[str, list[str]] = {}
    for index, (seed, *values, mode) in enumerate(points):
        settings = {"reward.mode": mode, "seed": seed} | dict(zip(sweep.grid, values, strict=True))
        name = trial_name(index, digits, settings)
        try:
            config = build_complete(tree, None, settings, recorded=recorded)
        except ConfigError as error:
            for line in str(error).splitlines():
                problems.setdefault(line, []).append(name)
            continue
        flat = config.flat()
        trials.append(Trial(name, {key: flat.get(key, value) for key, value in settings.items()}, config))
    if problems:
        raise ConfigError(explained(_trial_message(line, names, len(points)) for line, names in problems.items()))
    return trials


def _refuse_too_many(sweep: SweepConfig) -> None:
    """
    Raises:
        ConfigError: if there are more than ``MAX_TRIALS`` trials; the message has the product.
    """
    counts = {"seeds": sweep.seeds if isinstance(sweep.seeds, int) else len(sweep.seeds)}
    counts |= {key: len(values) for key, values in sweep.grid.items()}
    counts["reward modes"] = len(sweep.reward_modes) or 1
    total = math.prod(counts.values())
    if total > MAX_TRIALS:
        product = " x ".join(f"{count:,} {shortened(key).strip(chr(39))}" for key, count in counts.items())
        raise ConfigError(f"{product} = {total:,} trials exceed {MAX_TRIALS:,}")


def trial_name(index: int, digits: int, settings: Mapping[str, Any]) -> str:
    """Name of a trial and of its folder: number, reward mode, grid, seed."""
    parts = [f"{index:0{digits}d}", str(settings["reward.mode"])]
    parts += [
        f"{key.rpartition('.')[2]}={value}" for key, value in settings.items() if key not in ("seed", "reward.mode")
    ]
    parts.append(f"s{settings['seed']}")
    name = re.sub(r"[^A-Za-z0-9._=+-]+", "_", "-".join(parts))
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - len(parts[-1]) - 1]}-{parts[-1]}"


def _trial_message(line: str, names: Sequence[str], total: int) -> str:
    if len(names) == total:
        return line
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"trial {names[0]}{more}: {line}"


def sweep_config(
    tree: Mapping[str, Any],
    file: ConfigFile | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    recorded: bool = False,
) -> SweepConfig:
    """The validated sweep.

    Args:
        file: what the tree was read from; problems have its places.
        options: keys that override the file, whose problems have no place.
        recorded: whether a sweep has recorded the tree; packages of its parts may be missing here then.

    Raises:
        ConfigError: with the place, the key, the value and the constraint of every problem.
    """
    try:
        return SweepConfig.model_validate(tree, context=RECORDED if recorded else None)
    except ValidationError as error:
        lines = [
            _explain(dict(problem))
            if file is None or set(problem["loc"][:1]) & (options or {}).keys()
            else f"{file.place('.'.join(_key_parts(problem)))}: {_explain(dict(problem))}"
            for problem in error.errors()
        ]
        raise ConfigError(explained(lines)) from None


def sweep_names() -> list[str]:
    """Names of the shipped sweeps."""
    return sorted(path.stem for path in (data_folder("configs") / "sweeps").glob("*.yaml"))


def read_sweep(name: str) -> ConfigFile:
    """A shipped sweep by name, or a file by path.

    Raises:
        ConfigError: if neither exists, the file cannot be read, or it names no preset of this installation.
    """
    if name in sweep_names():
        return read_file(data_folder("configs") / "sweeps" / f"{name}.yaml")
    if Path(name).suffix not in (".yaml", ".yml", ".json") and not os.path.exists(name):
        raise ConfigError(f"{unknown_name_message('sweep', name, sweep_names())}, or the path of a file")
    file = read_file(Path(name))
    preset = file.tree.get("preset")
    if isinstance(preset, str) and preset not in preset_names():
        raise ConfigError(f"{file.place('preset')}: {unknown_name_message('preset', preset, preset_names())}")
    return file


def _key_parts(problem: Mapping[str, Any]) -> list[str]:
    """Parts of a problem's key, without the names of the types among which pydantic chose."""
    return [str(part) for part in problem["loc"] if part != "constrained-int" and "[" not in str(part)]


def _explain(problem: Mapping[str, Any]) -> str:
    *parents, leaf = _key_parts(problem) or [""]
    key = ".".join([*parents, leaf])
    if problem["type"] == "extra_forbidden":
        section = SweepConfig.model_fields[parents[0]].annotation if parents else SweepConfig
        fields = section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else {}
        return unknown_name_message("key of a sweep", key, [".".join([*parents, name]) for name in fields])
    message = problem_message(problem, [*parents, leaf])
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else str(message)  # the message has the value
    return with_value(f"{key}: {message}", problem["input"])

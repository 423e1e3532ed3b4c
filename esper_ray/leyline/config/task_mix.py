"""A mix of tasks: presets whose episodes are played by weight, for one policy.

A preset gives task, host, growth, training, measurement and governor. Everything else is that of the run: length of an
episode, reward, policy, learner and machine.
"""

from dataclasses import dataclass

from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.config.blueprint_names import split_blueprint
from esper_ray.leyline.config.growth import GrowthConfig
from esper_ray.leyline.config.layers import load_preset
from esper_ray.leyline.config.loading import ConfigError
from esper_ray.leyline.config.run import RunConfig

OF_THE_RUN = ("seed", "episode_length", "gamma", "reward", "policy", "ppo", "system", "telemetry")
"""Keys of a member that are those of the run."""


@dataclass(frozen=True, slots=True)
class MixMember:
    """One task of a mix."""

    share: float
    """Probability that an episode is one of this task."""
    config: RunConfig


def members(config: RunConfig) -> tuple[MixMember, ...]:
    """The tasks of a run: those of its mix, or its own one.

    Raises:
        ConfigError: if a preset does not exist, is a mix, or has another number of slots than the run.
    """
    if not config.task_mix:
        return (MixMember(1.0, config),)
    total = sum(config.task_mix.values())
    of_run = {key: getattr(config, key) for key in OF_THE_RUN}
    found = []
    for name, weight in config.task_mix.items():
        folder = config.task_mix_dirs.get(name)
        preset = load_preset(name, {} if folder is None else {"task.data_dir": folder})
        if preset.task_mix:
            raise ConfigError(f"task_mix.{name}: it is a mix itself; name its tasks")
        if len(preset.growth.slots) != len(config.growth.slots):
            raise ConfigError(
                f"task_mix.{name}: it has {len(preset.growth.slots)} slots, growth.slots of the run has "
                f"{len(config.growth.slots)}; the tasks of a mix need the same number"
            )
        found.append(MixMember(weight / total, preset.model_copy(update=of_run)))
    return tuple(found)


def mixed_growth(config: RunConfig) -> GrowthConfig:
    """Rules of growth that a policy of this run has learned: those of its first task, with the blueprints of all.

    Raises:
        ConfigError: as of :func:`members`, or if two tasks have different own blueprints in one place.
    """
    rules = [member.config.growth for member in members(config)]
    named: dict[Blueprint, tuple[str, str]] = {}
    for growth in rules:
        for entry in growth.blueprints:
            place, own = split_blueprint(entry)
            name = own or place.id
            if named.setdefault(place, (name, entry))[0] != name:
                raise ConfigError(f"task_mix: {place.id} is {named[place][0]!r} in one task and {name!r} in another")
    entries = tuple(entry for _, entry in named.values())
    return rules[0].model_copy(update={"blueprints": entries})


def described(config: RunConfig) -> str:
    """The task of a run in words, or its mix with the share of each."""
    if not config.task_mix:
        return f"task {config.task.name}"
    total = sum(config.task_mix.values())
    shares = ", ".join(f"{name} {weight / total:.0%}" for name, weight in config.task_mix.items())
    return f"tasks {shares}"

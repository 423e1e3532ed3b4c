"""Mixes of tasks: members, their shares, what they share with the run, and what is refused."""

import pytest

from esper_ray.leyline.config.growth import GrowthConfig
from esper_ray.leyline.config.layers import load_preset
from esper_ray.leyline.config.loading import ConfigError
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.task_mix import described, members, mixed_growth

MIX = {"digits_long": 1, "patterns": 3}


def mixed(**changes):
    return load_preset("digits", {"task_mix": MIX} | {key.replace("__", "."): value for key, value in changes.items()})


def test_a_run_without_a_mix_is_its_own_member():
    config = load_preset("digits")
    assert [(member.share, member.config) for member in members(config)] == [(1.0, config)]
    assert mixed_growth(config) == config.growth
    assert described(config) == "task digits"


def test_members_have_the_task_of_their_preset_and_the_learner_of_the_run():
    config = mixed(episode_length=33, seed=9, ppo__lr=0.004, reward__mode="basic")
    digits, patterns = members(config)
    assert (digits.share, patterns.share) == (0.25, 0.75)
    for name, member in (("digits_long", digits), ("patterns", patterns)):
        preset = load_preset(name)
        for key in ("task", "host", "growth", "training", "measurement", "governor"):
            assert getattr(member.config, key) == getattr(preset, key)
        for key in ("seed", "episode_length", "gamma", "reward", "policy", "ppo", "system"):
            assert getattr(member.config, key) == getattr(config, key)
        assert not member.config.task_mix
    assert described(config) == "tasks digits_long 25%, patterns 75%"


def test_folders_of_data_are_those_of_the_mix(tmp_path):
    config = mixed(task_mix={"text": 1, "digits": 1}, task_mix_dirs={"text": str(tmp_path)})
    text, digits = members(config)
    assert text.config.task.data_dir == tmp_path
    assert digits.config.task.data_dir is None
    assert mixed(task_mix={"text": 1, "digits": 1}).digest() == config.digest()
    assert mixed(task_mix={"text": 2, "digits": 1}).digest() != config.digest()


def test_the_growth_of_a_mix_has_the_blueprints_of_all_tasks():
    config = mixed(task_mix={"digits": 1, "text": 1})
    growth = mixed_growth(config)
    first, second = (load_preset(name).growth for name in ("digits", "text"))
    assert growth.allowed_blueprints == first.allowed_blueprints | second.allowed_blueprints
    assert growth.model_copy(update={"blueprints": first.blueprints}) == first
    assert GrowthConfig.model_validate(growth.model_dump()) == growth


def test_a_mix_does_not_change_the_digests_of_other_runs():
    assert RunConfig().digest() == RunConfig(task_mix={}, task_mix_dirs={}).digest()
    assert mixed().environment_digest() == load_preset("digits").environment_digest()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"task_mix": {"digitz": 1}}, "unknown preset 'digitz'; did you mean 'digits'"),
        ({"task_mix": {"cifar_scale": 1}}, r"task_mix\.cifar_scale: it has 5 slots, growth\.slots of the run has 3"),
        ({"task_mix": {"digits": 0}}, r"task_mix\.digits: Input should be greater than 0"),
        ({"task_mix": {"digits": float("nan")}}, r"task_mix\.digits"),
        ({"task_mix": ["digits"]}, "task_mix: Input should be a valid dictionary"),
        ({"task_mix_dirs": {"text": "."}}, "task_mix_dirs names 'text', which is not in task_mix"),
    ],
)
def test_an_impossible_mix_is_refused(changes, match):
    with pytest.raises(ConfigError, match=match):
        members(mixed(**changes))

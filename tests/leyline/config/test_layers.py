"""Preset, file and keys in layers; files that are not complete; differences from the preset."""

import json

import pytest
import yaml

from esper_ray.leyline.config.layers import MAX_CHANGES, LayeredConfig, layered, load_config, load_preset
from esper_ray.leyline.config.loading import ConfigError, build, data_folder, preset_names, read_preset
from esper_ray.leyline.config.run import RunConfig

DIGITS, TEXT = read_preset("digits"), read_preset("text")


@pytest.fixture
def written(tmp_path):
    """``written(text)`` is the path of a file with it."""

    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_short_file_with_a_preset_changes_only_what_it_holds(written):
    config = load_config(written("preset: digits\nppo: {lr: 0.001}\n"))
    assert config == build(DIGITS, {"ppo.lr": 0.001})
    assert config.ppo.rounds == 10


@pytest.mark.parametrize("name", preset_names())
def test_a_file_with_a_preset_alone_is_the_preset(written, name):
    assert load_config(written(f"preset: {name}\n")) == load_preset(name) == build(read_preset(name))


def test_a_preset_by_name_lies_below_a_file_without_one(written):
    path = written("ppo: {lr: 0.001}")
    assert load_config(path, preset="text") == build(TEXT, {"ppo.lr": 0.001})
    assert layered("text", path, {}).preset == "text"


def test_the_order_is_preset_file_keys(written):
    path = written("preset: digits\nppo: {lr: 0.5, rounds: 7}\nseed: 3\n")
    config = load_config(path, {"ppo.rounds": 9})
    assert (config.ppo.lr, config.ppo.rounds, config.seed, config.ppo.epochs) == (0.5, 9, 3, 4)


def test_the_same_preset_twice_is_accepted_and_two_presets_are_refused(written):
    path = written("seed: 1\npreset: digits\n")
    assert load_config(path, preset="digits") == build(DIGITS, {"seed": 1})
    with pytest.raises(ConfigError) as caught:
        load_config(path, preset="text")
    assert str(caught.value) == f"{path}:2: preset 'digits' and --preset 'text' differ: leave one of them out"


def test_a_file_without_a_preset_must_be_complete(written):
    with pytest.raises(ConfigError) as caught:
        load_config(written("ppo: {lr: 0.001}"))
    message = str(caught.value)
    assert "\n" not in message
    expected = "mine.yaml is not complete: schema_version, name, seed, episode_length, gamma, task.name and "
    assert expected in message
    assert "say `preset: NAME` in it, or --preset NAME" in message
    assert "digits, digits_long" in message


def test_an_unknown_host_family_is_refused_before_keys_of_its_hosts_are_missed():
    with pytest.raises(ConfigError, match=r"^host\.family: unknown .* did you mean 'transformer'"):
        load_preset("digits", {"host.family": "transformr"})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("growth.blueprints", "conv_light", "it must be a list, such as [a, b] (got 'conv_light')"),
        ("growth.auto_forward", "g1", "it must be a list, such as [a, b] (got 'g1')"),
        ("reward", 3, "it must be a section, with keys of its own (got 3)"),
        ("host", 3, "it must be a section, with keys of its own (got 3)"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_words(key, value, expected):
    with pytest.raises(ConfigError) as caught:
        load_preset("digits", {key: value})
    assert str(caught.value) == f"{key}: {expected}"


def test_keys_over_an_incomplete_file_do_not_complete_it(written):
    tree = {key: value for key, value in DIGITS.items() if key != "seed"}
    path = written(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="is not complete: seed is missing"):
        load_config(path, {"seed": 1})


@pytest.mark.parametrize("name", preset_names())
def test_a_shipped_preset_is_a_complete_file(name):
    layers = layered(None, data_folder("configs") / f"{name}.yaml", {})
    assert (layers.preset, layers.config) == (None, build(read_preset(name)))


def test_a_complete_json_file_needs_no_preset(written):
    path = written(json.dumps(RunConfig().model_dump(mode="json")), "mine.json")
    assert load_config(path) == RunConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("preset: digts", "mine.yaml:1: unknown preset 'digts'; did you mean 'digits'?"),
        ("preset: 5", "mine.yaml:1: preset must be the name of a preset, got 5"),
        ("preset: [digits]", "mine.yaml:1: preset must be the name of a preset, got ['digits']"),
        ("preset:", "mine.yaml:1: preset must be the name of a preset, got None"),
        ("preset: digits\nppo:", "mine.yaml:2: ppo: "),
        ("preset: digits\nppo: 5", "mine.yaml:2: ppo: "),
        ("preset: digits\nseed: {low: 1}", "mine.yaml: 'seed' must hold a mapping to set 'seed.low', got"),
        ("preset: digits\nppo:\n  lrr: 5", "mine.yaml:3: unknown key 'ppo.lrr'; did you mean 'ppo.lr'?"),
        (
            "preset: digits\nhost: {family: mlp}",
            "is not complete: host.width, host.blocks, host.expansion, host.dropout",
        ),
        ("preset: digits\nhost: {blocks: 2}", "mine.yaml: host has no slot 'r0c2'; it offers r0c0, r0c1, r1c0, r1c1"),
    ],
)
def test_a_short_file_with_a_mistake_is_refused_with_its_place(written, text, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(written(text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_differences_from_the_preset_are_one_line_each():
    config = build(DIGITS, {"ppo.lr": 0.5, "system.workers": "local"})
    lines = ["  ppo.lr: 0.0003 -> 0.5", "  system.workers: 'ray' -> 'local'"]
    assert LayeredConfig(config, "digits").describe() == ["configuration: preset digits with 2 differences", *lines]
    assert LayeredConfig(build(DIGITS), "digits").describe() == ["configuration: preset digits without differences"]


def test_without_a_preset_the_one_of_the_same_name_is_compared():
    assert LayeredConfig(build(DIGITS, {"seed": 7}), None).describe() == [
        "configuration: preset digits with 1 difference",
        "  seed: 42 -> 7",
    ]
    other = build(DIGITS, {"name": "mine"})
    assert LayeredConfig(other, None).describe() == ["configuration mine: complete, without a preset"]


def test_the_number_and_length_of_differences_are_bounded():
    lines = LayeredConfig(build(TEXT, {"task.data_dir": "d" * 4000}), "digits").describe()
    assert len(lines) == MAX_CHANGES + 2
    assert all(len(line) <= 162 for line in lines)
    assert lines[-1].startswith("  and ")


def test_neither_preset_nor_file_is_an_error_of_the_program():
    with pytest.raises(ValueError, match="a preset or a file is needed"):
        layered(None, None, {})

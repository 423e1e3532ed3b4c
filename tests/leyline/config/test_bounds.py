"""Bounds and strictness of every number and boolean of runs and sweeps."""

import pytest
from pydantic import ValidationError

from esper_policies.baselines import ScriptLine
from esper_ray.leyline.config.layers import file_schema
from esper_ray.leyline.config.loading import ConfigError, build, preset_names, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import SweepConfig, sweep_config

LOWER, UPPER = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
DEFAULTS = RunConfig().flat()
INTEGERS = sorted(key for key, value in DEFAULTS.items() if type(value) is int and key != "reward.param_budget")
FLOATS = sorted([key for key, value in DEFAULTS.items() if type(value) is float] + ["reward.param_budget"])
SWITCHES = sorted(key for key, value in DEFAULTS.items() if type(value) is bool)
DEVICES = ["mps", "meta", "cpu:3", "cpu:0", "cuda:1000", "cuda:01", "cuda:٣", "cuda:1 ", "cuda:0x1", "xla", "auto"]


def numbers(schema, node=None, path=""):
    """Every number of a JSON schema that has no list of choices: its path and its node."""
    node = schema if node is None else node
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    if node.get("type") in ("integer", "number") and not {"enum", "const"} & node.keys():
        yield path, node
    for choice in [*node.get("oneOf", []), *node.get("anyOf", [])]:
        yield from numbers(schema, choice, path)
    if isinstance(node.get("items"), dict):
        yield from numbers(schema, node["items"], f"{path}[]")
    for key, child in node.get("properties", {}).items():
        yield from numbers(schema, child, f"{path}.{key}" if path else key)


@pytest.mark.parametrize("model", [RunConfig, SweepConfig, ScriptLine])
def test_every_number_of_the_schema_has_both_bounds(model):
    found = dict(numbers(model.model_json_schema()))
    assert found
    assert [path for path, node in found.items() if not (LOWER & node.keys() and UPPER & node.keys())] == []


def test_the_walk_finds_the_numbers_of_every_host_family_and_of_lists():
    found = dict(numbers(file_schema()))
    assert {"host.base_channels", "host.heads", "host.expansion", "reward.loss.max_loss_delta", "gamma"} <= found.keys()
    assert "seeds[]" in dict(numbers(SweepConfig.model_json_schema()))
    assert len(found) > 130


def not_refused(keys, value):
    """Those of ``keys`` that accept ``value``, or refuse it without their name."""
    wrong = []
    for key in keys:
        try:
            build({}, {key: value})
        except ConfigError as error:
            if str(error).startswith(f"{key}: "):
                continue
        wrong.append(key)
    return wrong


def test_a_key_that_accepts_a_value_or_is_not_named_is_found():
    assert not_refused(["system.envs", "ppo.lr"], 1) == ["system.envs", "ppo.lr"]
    assert not_refused(["system.envs", "no.such"], None) == ["no.such"]


@pytest.mark.parametrize("value", [True, "1", 1.0, None, [1], 10**40, -(10**40)], ids=str)
def test_an_integer_is_neither_true_nor_text_nor_a_float_nor_enormous(value):
    assert len(INTEGERS) > 50
    assert not_refused(INTEGERS, value) == []


@pytest.mark.parametrize("value", [True, "1.0", None, [1.0], 1e300, -1e300], ids=str)
def test_a_float_is_neither_true_nor_text_nor_enormous(value):
    assert len(FLOATS) > 90
    assert not_refused(FLOATS, value) == []


@pytest.mark.parametrize("value", [1, 0, "yes", "true", "off", None], ids=str)
def test_a_switch_is_true_or_false_only(value):
    assert len(SWITCHES) > 5
    assert not_refused(SWITCHES, value) == []


@pytest.mark.parametrize("value", [True, 1.0, "1"], ids=str)
def test_an_enumerated_integer_is_an_integer(value):
    assert not_refused(["host.kernel_size", "schema_version"], value) == []


def test_an_integer_is_a_valid_float():
    assert build({}, {"ppo.lr": 1}).ppo.lr == 1.0
    assert type(build({}, {"ppo.lr": 1}).ppo.lr) is float


@pytest.mark.parametrize("name", preset_names())
def test_presets_keep_their_values_bit_for_bit(name):
    tree = read_preset(name)
    assert build(tree).model_dump(mode="json") == tree


def test_the_defaults_are_within_the_bounds():
    assert build(RunConfig().model_dump(mode="json")).flat() == DEFAULTS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("episode_length", 100_001),
        ("system.envs", 10_001),
        ("system.threads", 1025),
        ("policy.memory_size", 8193),
        ("policy.feature_size", 8193),
        ("host.blocks", 17),
        ("host.base_channels", 4097),
        ("ppo.rounds", 1_000_001),
        ("ppo.lr", 100.5),
        ("training.batch_size", 1_000_001),
        ("seed", 2**32),
        ("task.split_seed", 2**32),
        ("task.train_size", 10_000_001),
        ("system.straggler_s", 604_801),
        ("growth.max_seeds", 513),
        ("task.validation_size", 0),
        ("task.test_size", 0),
        ("governor.window", 2),
        ("governor.min_history", 1),
    ],
)
def test_a_number_beyond_its_bound_is_refused_with_the_bound(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}: Input should be (less|greater) than .* \(got {value}\)$"):
        build({}, {key: value})


@pytest.mark.parametrize("device", DEVICES)
def test_devices_of_other_kinds_and_spellings_are_refused(device):
    for key, value in (("system.device", device), ("system.devices", [device])):
        with pytest.raises(ConfigError, match=f"{key}: device .* is not one of 'cpu', 'cuda', 'cuda:<index>'"):
            build({}, {key: value})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("growth.blueprints", ["norm", "norm"], "blueprint 'norm' is listed twice"),
        ("growth.styles", ["linear_add", "linear_add"], "style 'linear_add' is listed twice"),
        ("growth.auto_forward", ["g1", "g1"], "gate 'g1' is listed twice"),
        ("task.data_dir", "a\0b", "a path has at most 4,096 printable characters"),
        ("task.cache_dir", "a" * 4097, "a path has at most 4,096 printable characters"),
    ],
)
def test_doubled_list_items_and_unprintable_paths_are_refused(key, value, expected):
    with pytest.raises(ConfigError, match=expected):
        build({}, {key: value})


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "x" * 100, "0.5"])
def test_names_of_letters_digits_dots_and_dashes_are_accepted(name):
    assert build({}, {"name": name}).name == sweep_config({"name": name}).name == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "a b", "x" * 101, "é", "a\n", "..", "~", "a:b", "a*"])
def test_other_names_are_refused_in_runs_and_sweeps(name):
    for refused in (lambda: build({}, {"name": name}), lambda: sweep_config({"name": name})):
        with pytest.raises(ConfigError, match="name: a name has at most 100 letters"):
            refused()


def test_a_line_of_a_script_is_bounded():
    for line in (
        {"epoch": -1, "op": "prune"},
        {"epoch": True, "op": "prune"},
        {"epoch": 1, "op": "prune", "slot": 999},
    ):
        with pytest.raises(ValidationError):
            ScriptLine.model_validate(line)

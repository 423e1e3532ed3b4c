"""Validation, digest and difference of run configurations."""

import hashlib
import json
import math

import pytest
from pydantic import ValidationError

from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.host import HOST_FAMILIES, CNNHostConfig
from esper_ray.leyline.config.loading import ConfigError, build, difference
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.run import RunConfig, flatten
from esper_ray.leyline.config.system import FREE

FLOATS = [key for key, value in RunConfig().flat().items() if isinstance(value, float)]

OUT_OF_RANGE = [
    ("seed", -1),
    ("seed", 2**32),
    ("episode_length", 0),
    ("gamma", 0.0),
    ("gamma", 1.5),
    ("task.validation_size", 0),
    ("host.blocks", 1),
    ("host.base_channels", 0),
    ("host.kernel_size", 2),
    ("host.family", "resnet"),
    ("growth.max_seeds", -1),
    ("growth.min_gradient_health", 1.01),
    ("growth.gates", "lenient"),
    ("growth.incubation.bound", 0.0),
    ("growth.incubation.weight", -0.5),
    ("training.lr", 0.0),
    ("training.momentum", 1.0),
    ("training.weight_decay", -0.001),
    ("governor.window", 2),
    ("reward.basic_fossilize_invalid_penalty", 0.25),
    ("ppo.clip", 1.0),
    ("ppo.gae_lambda", -0.1),
    ("ppo.epsilon_start", 1.25),
    ("policy.critic", "none"),
    ("system.envs", 0),
    ("schema_version", 2),
]


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sead", "seed"),
        ("growht", "growth"),
        ("training.momentun", "training.momentum"),
        ("growth.incubation.wieght", "growth.incubation.weight"),
        ("ppo.target_kll", "ppo.target_kl"),
        ("host.momentum", "training.momentum"),
    ],
)
def test_an_unknown_key_is_refused_with_its_nearest_neighbour(key, nearest):
    with pytest.raises(ConfigError) as caught:
        build({}, {key: 1})
    assert str(caught.value) == f"unknown key {key!r}; did you mean {nearest!r}?"


def test_an_unknown_key_without_a_neighbour_lists_the_valid_keys():
    with pytest.raises(
        ConfigError, match=r"unknown key 'host\.qqq' \(known here: family, base_channels, blocks, pools"
    ):
        build({}, {"host.qqq": 1})


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE, ids=[f"{key}={value}" for key, value in OUT_OF_RANGE])
def test_a_value_out_of_range_is_refused_with_key_and_value(key, value):
    with pytest.raises(ConfigError) as caught:
        build({}, {key: value})
    assert str(caught.value).startswith(f"{key}: ")
    assert str(caught.value).count(f"got {value!r}") == (not isinstance(value, str))
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("key", FLOATS)
def test_nan_and_infinite_numbers_are_refused(key):
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match=key):
            build({}, {key: value})


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        build({}, {"training.lr": -1.0, "sead": 3, "host.blocks": 1})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for key in ("training.lr", "sead", "host.blocks"):
        assert any(key in line for line in lines)


def test_more_pools_than_blocks_are_refused():
    with pytest.raises(ConfigError, match=r"host: pools \(4\) must not exceed blocks \(3\)"):
        build({}, {"host.pools": 4})


def test_a_host_has_slots_in_row_0_after_blocks_and_row_1_after_pools():
    assert CNNHostConfig(blocks=3, pools=2).available_slots() == ("r0c0", "r0c1", "r0c2", "r1c0", "r1c1")
    assert CNNHostConfig(blocks=2, pools=0).available_slots() == ("r0c0", "r0c1")


@pytest.mark.parametrize("slot", ["r0c3", "r1c2", "r2c3", "r3c0"])
def test_a_slot_that_the_host_lacks_is_refused_with_its_slots(slot):
    with pytest.raises(ConfigError) as caught:
        build({}, {"growth.slots": ["r0c0", slot]})
    assert (
        str(caught.value)
        == f"host has no slot {slot!r}; it offers r0c0, r0c1, r0c2, r1c0, r1c1, and to widen its layers r2c0 to r2c2"
    )


def test_slots_are_put_in_row_major_order():
    assert build({}, {"growth.slots": ["r1c0", "r0c2", "r0c0"]}).growth.slots == ("r0c0", "r0c2", "r1c0")


@pytest.mark.parametrize(
    ("slots", "message"),
    [([], "at least one slot"), (["r0c0", "r0c0"], "'r0c0' is listed twice"), (["early"], "'early'")],
)
def test_bad_slot_lists_are_refused(slots, message):
    with pytest.raises(ConfigError, match=message):
        build({}, {"growth.slots": slots})


def test_an_unknown_reward_mode_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown reward mode 'spares'; did you mean 'sparse'"):
        build({}, {"reward.mode": "spares"})


@pytest.mark.parametrize(
    ("key", "value", "kind", "nearest"),
    [
        ("reward.mode", "basik", "reward mode", "basic"),
        ("reward.family", "los", "reward family", "loss"),
        ("policy.critic", "qop", "policy critic", "q_op"),
        ("training.compile_mode", "capture", "training compile mode", "captured"),
        ("training.optimizer", "adam", "training optimizer", "adamw"),
        ("growth.gates", "permisive", "growth gates", "permissive"),
        ("growth.incubation.method", "shadows", "growth incubation method", "shadow"),
        ("growth.initialisation.gated_gate", "grad_max", "growth initialisation gated gate", "gradmax"),
        ("system.placement", "strict-pack", "system placement", "strict_pack"),
        ("system.workers", "loca", "system workers", "local"),
        ("telemetry.level", "debg", "telemetry level", "debug"),
        ("host.family", "ccn", "host family", "cnn"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_nearest_and_all_choices(key, value, kind, nearest):
    with pytest.raises(ConfigError) as caught:
        build({}, {key: value})
    message = str(caught.value)
    assert message.startswith(f"{key}: unknown {kind} {value!r}; did you mean {nearest!r}? (known: ")
    assert message.count(repr(value)) == 1


def test_an_unknown_choice_in_a_list_is_refused_with_the_nearest():
    expected = r"growth\.auto_forward\.1: unknown growth auto forward 'g22'; did you mean 'g2'"
    with pytest.raises(ConfigError, match=expected):
        build({}, {"growth.auto_forward": ["g1", "g22"]})


def enumerated(schema, node=None, path=""):
    """Every key of a JSON schema with a closed list of texts, and the list."""
    node = schema if node is None else node
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    for choice in (*node.get("oneOf", []), *node.get("anyOf", [])):
        yield from enumerated(schema, choice, path)
    if "enum" in node:
        yield path, tuple(node["enum"])
    if "items" in node:
        yield from enumerated(schema, node["items"], path)
    for key, child in node.get("properties", {}).items():
        yield from enumerated(schema, child, f"{path}.{key}" if path else key)


def test_the_schema_lists_the_choices_of_every_closed_key():
    choices = dict(enumerated(RunConfig.model_json_schema()))
    starts = ("zero_scale", "zero_output", "gradmax")
    assert choices == {
        "host.kernel_size": (1, 3, 5, 7),
        "host.memory_format": ("contiguous", "channels_last"),
        "growth.blueprints": tuple(blueprint.id for blueprint in Blueprint),
        "growth.styles": ("linear_add", "linear_multiply", "sigmoid_add", "gated_gate"),
        "growth.gates": ("permissive", "strict"),
        "growth.auto_forward": ("g1", "g2", "g3"),
        "growth.incubation.method": ("shadow", "straight_through"),
        **{f"growth.initialisation.{style.id}": starts for style in GerminationStyle},
        "growth.initialisation.widen": ("paired", "random", "gradmax", "tiny"),
        "growth.widening_births": ("live", "hidden"),
        "training.newborn_schedule": ("host", "restart", "rescaled"),
        "growth.unfinished_births": ("allow", "refuse"),
        "ppo.entropy_bonus": ("joint", "per_head"),
        "training.optimizer": ("sgd", "adamw"),
        "training.schedule": ("constant", "cosine"),
        "training.precision": ("float32", "bfloat16"),
        "training.compile_mode": ("off", "default", "reduce-overhead", "max-autotune", "captured"),
        "reward.mode": REWARD_MODES,
        "reward.family": ("contribution", "loss"),
        "reward.attribution_formula": ("harmonic", "minimum"),
        "policy.critic": ("q_op", "v"),
        "system.workers": ("ray", "local"),
        "system.placement": ("pack", "spread", "strict_pack", "strict_spread"),
        "telemetry.level": ("off", "normal", "debug"),
    }
    families = [
        section["properties"]["family"]["const"]
        for section in RunConfig.model_json_schema()["$defs"].values()
        if "const" in section.get("properties", {}).get("family", {})
    ]
    assert sorted(families) == sorted(HOST_FAMILIES)


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_the_available_reward_modes_are_accepted(mode):
    assert build({}, {"reward.mode": mode}).reward.mode == mode


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("growth.blueprints", ["conv_lite"], "unknown blueprint 'conv_lite'; did you mean 'conv_light'"),
        ("growth.blueprints", [], "at least one blueprint"),
        ("growth.styles", ["sigmoid_ad"], "unknown style 'sigmoid_ad'; did you mean 'sigmoid_add'"),
        ("growth.styles", [], "at least one style"),
    ],
)
def test_unknown_or_missing_blueprints_and_styles_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build({}, {key: value})


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:12"])
def test_known_devices_are_accepted(device):
    system = build({}, {"system.device": device, "system.devices": [device, "cpu"]}).system
    full = "cuda:0" if device == "cuda" else device
    assert (system.device, system.devices) == (full, (full, "cpu"))


@pytest.mark.parametrize("device", ["tpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "", "cpu "])
def test_unknown_devices_are_refused_with_the_value(device):
    for key, value in (("system.device", device), ("system.devices", ["cpu", device])):
        with pytest.raises(ConfigError, match=f"{key}: device {device!r} is not one of"):
            build({}, {key: value})


def test_an_empty_device_list_is_refused():
    with pytest.raises(ConfigError, match="at least one device is needed"):
        build({}, {"system.devices": []})


def test_a_configuration_cannot_be_edited():
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.lr = 1.0


def test_the_digest_is_the_hash_of_sorted_compact_json():
    config = RunConfig()
    tree = config.model_dump(mode="json", exclude={"telemetry"})
    del tree["reward"]["options"], tree["task_mix"]  # empty: runs without them keep their digest
    del tree["task_mix_dirs"]
    decisive = {"envs": 2, "threads": 1, "learner_threads": 1, "staleness": 0, "device": "cpu", "devices": ["cpu"]}
    ppo = tree["ppo"] | {"rounds": None, "schedule_rounds": 100}
    text = json.dumps(tree | {"system": decisive, "ppo": ppo}, sort_keys=True, separators=(",", ":"))
    assert config.digest() == hashlib.sha256(text.encode()).hexdigest()


def test_runs_of_different_lengths_with_equal_schedules_have_equal_digests():
    short, extended, long = (
        build({"ppo": {"rounds": rounds, "schedule_rounds": schedule}})
        for rounds, schedule in ((5, None), (9, 5), (9, None))
    )
    assert short.digest() == extended.digest() != long.digest()


def test_the_digest_does_not_depend_on_the_order_of_keys_or_on_stating_defaults():
    tree = RunConfig().model_dump(mode="json")
    backwards = {key: tree[key] for key in reversed(tree)}
    assert build(backwards).digest() == build({}).digest() == RunConfig().digest()


def test_the_digest_changes_with_every_leaf():
    changes = {
        "name": "other",
        "seed": 43,
        "gamma": 0.99,
        "task.split_seed": 1,
        "host.base_channels": 3,
        "growth.slots": ["r0c0"],
        "growth.incubation.bound": 0.5,
        "training.lr": 0.06,
        "governor.penalty": 9.0,
        "reward.mode": "sparse",
        "policy.critic": "v",
        "ppo.rounds": 99,
        "system.devices": ["cpu", "cuda"],
        "system.envs": 7,
        "system.staleness": 1,
    }
    digests = {build({}, {key: value}).digest() for key, value in changes.items()}
    assert len(digests | {RunConfig().digest()}) == len(changes) + 1


def test_the_digest_does_not_depend_on_the_placement_of_the_work():
    changes = {
        "workers": "local",
        "envs_per_actor": 2,
        "gpus_per_actor": 0.5,
        "gpus_for_learner": 0.25,
        "placement": "spread",
        "wait_for_resources_s": 60,
        "snapshot_every": 1,
        "tries": 9,
        "straggler_s": 5.0,
        "devices": ["cpu", "cpu"],
    }
    assert changes.keys() - {"devices"} | {"slots_per_actor"} == set(FREE)
    moved = build({}, {f"system.{key}": value for key, value in changes.items()})
    assert moved != RunConfig()
    assert moved.digest() == RunConfig().digest()
    gpus, gpu_lists = (build({}, {"system.devices": names}) for names in (["cuda"], ["cuda:2", "cuda:1"]))
    assert gpus.digest() == gpu_lists.digest() != moved.digest()


def test_neither_digest_nor_difference_depend_on_telemetry_settings():
    changes = {"telemetry.level": "debug", "telemetry.wait_every": 1, "telemetry.control_episodes": 0}
    watched = build({}, changes)
    assert watched != RunConfig()
    assert watched.digest() == RunConfig().digest()
    assert watched.environment_digest() == RunConfig().environment_digest()
    assert difference(RunConfig(), watched) == []


def test_difference_is_one_readable_line_for_each_changed_leaf():
    before = build({}, {"seed": 42})
    after = build({}, {"seed": 7, "ppo.lr": 0.001, "growth.slots": ["r0c1"], "task.data_dir": "data"})
    assert difference(before, after) == [
        "growth.slots: ['r0c0', 'r0c1', 'r0c2'] -> ['r0c1']",
        "ppo.lr: 0.0003 -> 0.001",
        "seed: 42 -> 7",
        "task.data_dir: None -> 'data'",
    ]
    assert difference(before, before) == []


def test_flatten_names_leaves_by_their_path():
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}


def test_an_unknown_name_without_neighbour_has_no_suggestion():
    assert unknown_name_message("thing", "qqq", ["alpha", "beta"]) == "unknown thing 'qqq' (known: alpha, beta)"

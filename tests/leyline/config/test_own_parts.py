"""Own parts in a configuration: names, places, and what built-in runs keep."""

import pytest
from plugin_builders import install_examples

from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.config.host import host_name
from esper_ray.leyline.config.loading import ConfigError, build, build_complete, merged, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import expand, sweep_config

OWN_HOST = {"family": "own", "build": "my_package:build"}


def test_runs_of_built_in_parts_keep_their_digests():
    assert RunConfig().digest() == "da75ec39ca87cfed6d33076e7f1fef9ee70859488a58a4f09f00808552814987"
    assert RunConfig().environment_digest() == "ef30210f24e65debdd749db94a0fe341abf5f468e6f6a2dcabfda4cbed18441b"


def test_options_change_the_digest():
    digests = {build({}, {"reward.mode": "m:pay", "reward.options": options}).digest() for options in ({}, {"a": 1})}
    assert len(digests) == 2


# Blueprints


def test_a_mapping_puts_own_blueprints_in_the_places_of_a_list():
    config = build_complete(read_preset("digits"), None, {"growth.blueprints": {"conv_light": "mine"}})
    names = read_preset("digits")["growth"]["blueprints"]
    assert config.growth.blueprints == tuple(f"{n}=mine" if n == "conv_light" else n for n in names)
    assert config.growth.own_blueprints == {Blueprint.CONV_LIGHT: "mine"}
    assert Blueprint.CONV_LIGHT in config.growth.allowed_blueprints


def test_a_mapping_restores_and_appends_places():
    tree = {"growth": {"blueprints": ["norm", "conv_light=mine"]}}
    over = {"growth.blueprints": {"conv_light": "conv_light", "attention": "package:other"}}
    assert merged(tree, over)["growth"]["blueprints"] == ["norm", "conv_light", "attention=package:other"]


def test_a_mapping_alone_is_the_list_of_its_places():
    assert build({}, {"growth": {"blueprints": {"norm": "norm", "lora": "mine"}}}).growth.blueprints == (
        "norm",
        "lora=mine",
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["conv_lite=mine"], "unknown blueprint 'conv_lite'; did you mean 'conv_light'"),
        (["norm", "norm=mine"], "blueprint 'norm' is listed twice"),
        (["norm=lora"], "'lora' is built in and cannot take the place of 'norm'"),
        (["norm=mine", "lora=mine"], "own blueprint 'mine' has 2 places; it can have one"),
        (["norm="], "'' is neither the name of an entry point"),
        ({"norm": 3}, "growth.blueprints"),
    ],
)
def test_impossible_places_are_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        build({"growth": {"blueprints": names}})


def test_a_widening_blueprint_needs_a_place():
    with pytest.raises(
        ConfigError, match="'widen_half' takes the place of a built-in blueprint, as conv_light=widen_half"
    ):
        build({}, {"growth.blueprints": ["widen_half"]})


# Rewards


def test_an_installed_reward_is_a_mode_and_its_typo_names_it(tmp_path, monkeypatch):
    install_examples(tmp_path / "site", monkeypatch, ("own_reward",))
    assert build({}, {"reward.mode": "frugal"}).reward.is_own
    with pytest.raises(ConfigError, match="unknown reward mode 'frugl'; did you mean 'frugal'"):
        build({}, {"reward.mode": "frugl"})


def test_options_of_a_built_in_mode_are_refused():
    with pytest.raises(ConfigError, match=r"the built-in mode 'sparse' has no options, got \['rent'\]"):
        build({}, {"reward.mode": "sparse", "reward.options.rent": 1})


@pytest.mark.parametrize("value", [float("nan"), [1, {"deep": float("inf")}]])
def test_options_that_are_not_finite_are_refused(value):
    with pytest.raises(ConfigError, match=r"reward\.options: a.* it must be finite"):
        build({}, {"reward.mode": "m:pay", "reward.options": {"a": value}})


def test_a_sweep_varies_own_modes_and_their_options(tmp_path, monkeypatch):
    install_examples(tmp_path / "site", monkeypatch, ("own_reward",))
    base = build({}, {"reward.mode": "frugal"})
    sweep = sweep_config({"seeds": [1], "reward_modes": ["frugal"], "grid": {"reward.options.rent": [0.1, 0.2]}})
    trials = expand(sweep, base)
    assert [trial.config.reward.options for trial in trials] == [{"rent": 0.1}, {"rent": 0.2}]
    assert trials[1].choice == {"reward.mode": "frugal", "reward.options.rent": 0.2}
    with pytest.raises(ConfigError, match="unknown reward mode 'frugl'; did you mean 'frugal'"):
        sweep_config({"reward_modes": ["frugl"]})


# Hosts


def test_an_own_host_leaves_its_slots_to_the_builder_unless_they_are_named():
    config = build({}, {"host": OWN_HOST, "growth.slots": ["r7c3"]})
    assert (config.host.available_slots(), host_name(config.host)) == (None, "my_package:build")
    assert [demand.part for demand in config.memory_demands()] == [
        "the policy",
        "a minibatch of the policy",
        "the episodes of a round",
    ]
    named = {"host": OWN_HOST | {"slots": {"r0c1": "b", "r0c0": "a"}}}
    assert build({}, named | {"growth.slots": ["r0c0"]}).host.available_slots() == ("r0c0", "r0c1")
    with pytest.raises(ConfigError, match=r"host has no slot 'r0c2'; it offers r0c0, r0c1"):
        build({}, named)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"family": "own"}, r"host\.build: Field required"),
        ({"family": "own", "build": "two words"}, r"host\.build: 'two words' is neither the name"),
        (OWN_HOST | {"slots": {"first": "a"}}, r"host\.slots: slot id 'first' is not of the form"),
        (OWN_HOST | {"width": 3}, r"unknown key 'host\.width'"),
    ],
)
def test_impossible_own_hosts_are_refused(host, message):
    with pytest.raises(ConfigError, match=message):
        build({}, {"host": host})

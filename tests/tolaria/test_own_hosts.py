"""Hosts of other packages: built, checked and refused before a run starts."""

import sys
import types

import pytest
import torch
from plugin_builders import install_examples
from torch import nn

from esper_ray.kasmina.hosts import HostSpec
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.loading import ConfigError, build, read_preset
from esper_ray.leyline.plugins.entry_points import PluginError
from esper_ray.tolaria.assembly import GrowthError, build_organism, slot_topologies
from esper_ray.tolaria.run_checks import check_run
from esper_ray.tolaria.tasks import load_task

CPU = torch.device("cpu")


def network(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, classes))


def run(host, **more):
    """The digits preset with an own host."""
    return build(read_preset("digits"), {"host": {"family": "own", "options": {}, "slots": {}} | host, **more})


@pytest.fixture
def offered(monkeypatch):
    """A function that makes a builder importable as ``hosting:build``."""

    def make(builder):
        module = types.ModuleType("hosting")
        module.build = builder
        monkeypatch.setitem(sys.modules, "hosting", module)
        return {"build": "hosting:build"}

    return make


def organism(config, seed=0):
    return build_organism(config, load_task(config.task, CPU), CPU, seed)


def test_the_example_has_the_slots_and_the_width_of_its_options(tmp_path, monkeypatch):
    install_examples(tmp_path / "site", monkeypatch, ("own_host",))
    config = run({"build": "residual", "options": {"width": 4, "stages": 2}}, **{"growth.slots": ["r0c0", "r0c1"]})
    check_run(config)
    grown = organism(config).model
    assert grown.slot_ids == ("r0c0", "r0c1")
    # 3 x 3 x 4 + 4 of the stem, 2 stages of 9 x 16 + 8, 4 x 10 + 10 of the head
    assert grown.host_parameters == 40 + 2 * 152 + 50
    assert slot_topologies(config, load_task(config.task, CPU)) == (Topology.IMAGES,)


def test_weights_are_a_function_of_the_seed(tmp_path, monkeypatch):
    install_examples(tmp_path / "site", monkeypatch, ("own_host",))
    config = run({"build": "residual"})
    before = torch.random.get_rng_state()
    first, again, other = (organism(config, seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["host.0.weight"], other["host.0.weight"])


def test_slots_are_found_in_a_module_that_names_none(offered):
    config = run(offered(lambda shape, classes: network(classes)), **{"growth.blueprints": ["lora"]})
    config = config.model_copy(update={"growth": config.growth.model_copy(update={"slots": ("r0c0",)})})
    check_run(config)
    assert organism(config).model.slot_ids == ("r0c0",)


def test_slots_of_the_configuration_replace_those_of_the_builder(offered):
    spec = offered(lambda shape, classes: HostSpec(network(classes), {"r0c0": "1"}))
    more = {"growth.slots": ["r0c0"], "growth.blueprints": ["lora"]}
    assert organism(run(spec, **more)).model.cell("r0c0").example_shape == (16,)
    named = run(spec | {"slots": {"r0c0": "4"}}, **more)
    assert organism(named).model.cell("r0c0").example_shape == (10,)


def test_a_slot_that_the_builder_lacks_is_refused_with_its_slots(offered):
    spec = offered(lambda shape, classes: HostSpec(network(classes), {"r0c0": "1", "r0c1": "3"}))
    with pytest.raises(GrowthError, match=r"growth\.slots: unknown slot 'r0c2'.*\(known: r0c0, r0c1\)"):
        check_run(run(spec, **{"growth.blueprints": ["lora"]}))


def unseeded():
    yield network()
    different = network()
    with torch.no_grad():
        different[1].weight.add_(1.0)
    yield different


BROKEN = {
    "ValueError": (lambda shape, classes: (_ for _ in ()).throw(ValueError("no")), "host 'hosting:build': no"),
    "error": (lambda shape, classes: 1 / 0, "its builder failed with ZeroDivisionError"),
    "no module": (lambda shape, classes: 3, "must return a module with parameters, or a HostSpec with one; got 3"),
    "no parameters": (lambda shape, classes: nn.Flatten(), "must return a module with parameters"),
    "no place": (
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "no slot was found.*host.slots",
    ),
    "classes": (
        lambda shape, classes: HostSpec(network(7), {"r0c0": "1"}),
        r"it must yield logits \(2, 10\) or \(2, T, 10\), got \(2, 7\)",
    ),
    "shape": (
        lambda shape, classes: HostSpec(nn.Sequential(nn.Linear(5, 10)), {"r0c0": "0"}),
        "it cannot work on examples of shape 1x8x8: RuntimeError",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_host_is_refused_by_name_before_the_run(offered, case):
    builder, message = BROKEN[case]
    with pytest.raises(PluginError, match=message):
        check_run(run(offered(builder)))


def test_a_host_that_is_no_function_of_torchs_generator_is_refused(offered):
    hosts = unseeded()
    spec = offered(lambda shape, classes: HostSpec(next(hosts), {"r0c0": "1"}))
    with pytest.raises(PluginError, match=r"1\.weight differs between two builds from one seed"):
        check_run(run(spec))


def test_invalid_options_are_refused_with_their_key(tmp_path, monkeypatch):
    install_examples(tmp_path / "site", monkeypatch, ("own_host", "own_reward"))
    with pytest.raises(
        ConfigError, match=r"host\.options\.width: Input should be greater than or equal to 1 \(got 0\)"
    ):
        check_run(run({"build": "residual", "options": {"width": 0}}))
    more = {"reward.mode": "frugal", "reward.options": {"rant": 1}}
    with pytest.raises(ConfigError, match=r"unknown key 'reward\.options\.rant' \(known here: rent\)"):
        check_run(run({"build": "residual"}, **more))

"""Blueprints of other packages: grown by name, in the place of a built-in one, and refused by name."""

import sys
import types

import pytest
import torch
from kasmina_builders import HOST
from plugin_builders import install_examples
from torch import nn

from esper_ray.kasmina.blueprints import SlotShape, build_seed
from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.lifecycle.commands import lifecycle_command
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.leyline.actions import Action, BlendOperator, Blueprint, LifecycleOp
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.plugins.entry_points import PluginError
from esper_ray.tolaria.preflight import newborn_parameters

IMAGES = SlotShape(Topology.IMAGES, 4)
PARAMETERS = 36 + 8 + 20 + 4
"""Of ``dilated`` on 4 channels: 9 * 4 weights, the norm, 4 * 4 + 4 of the pointwise one, and the output scale."""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example of a blueprint, installed."""
    install_examples(tmp_path / "site", monkeypatch, ("own_blueprint",))


def wrapped(own):
    spec = build_host(HOST, (3, 8, 8), 10)
    options = GrowthOptions(own_blueprints=own)
    return MorphogeneticModel.wrap(spec.module, {"r0c0": "blocks.0"}, torch.zeros(2, 3, 8, 8), options=options)


def test_an_installed_blueprint_is_built_by_name_with_a_scale_of_zero(installed):
    seed = build_seed("dilated", IMAGES)
    assert sum(parameter.numel() for parameter in seed.parameters()) == PARAMETERS
    assert torch.equal(seed(torch.randn(2, 4, 8, 8)), torch.zeros(2, 4, 8, 8))


def test_the_action_of_a_place_grows_the_own_blueprint_and_reports_its_name(installed):
    own = {Blueprint.CONV_LIGHT: "dilated"}
    model = wrapped(own)
    action = Action(LifecycleOp.GERMINATE, 0, int(Blueprint.CONV_LIGHT))
    assert model.execute("r0c0", lifecycle_command(action, "r0c0-1", own)).success
    report = model.report("r0c0")
    assert (report.blueprint, report.own_blueprint, report.blueprint_name) == (
        Blueprint.CONV_LIGHT,
        "dilated",
        "dilated",
    )
    assert report.parameters == PARAMETERS
    assert model.states["r0c0"].blueprint == "dilated"


def test_other_places_keep_their_built_in_blueprints():
    own = {Blueprint.CONV_LIGHT: "dilated"}
    model = wrapped(own)
    action = Action(LifecycleOp.GERMINATE, 0, int(Blueprint.NORM))
    model.execute("r0c0", lifecycle_command(action, "r0c0-1", own))
    report = model.report("r0c0")
    assert (report.blueprint, report.own_blueprint, report.blueprint_name) == (Blueprint.NORM, None, "norm")


def test_parameters_of_a_newborn_own_blueprint_are_counted_with_its_gate(installed):
    cell = wrapped({}).cell("r0c0")
    assert newborn_parameters(cell, "dilated", BlendOperator.ADD) == PARAMETERS
    assert newborn_parameters(cell, "dilated", BlendOperator.GATE) == PARAMETERS + 4 * 8 + 2 * 8 + 1


def test_a_builder_refuses_features_in_its_own_words(installed):
    with pytest.raises(ValueError, match=r"'dilated' of the package own-blueprint 0\.1\.0: it works on images"):
        build_seed("dilated", SlotShape(Topology.FEATURES, 4))


def test_an_unknown_name_lists_installed_blueprints_too(installed):
    with pytest.raises(ValueError, match="unknown blueprint 'dilatd'; did you mean 'dilated'"):
        build_seed("dilatd", IMAGES)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda shape: 1 / 0, "its builder failed with ZeroDivisionError"),
        (lambda shape: nn.Identity, "its builder must return a module, got type"),
    ],
)
def test_a_broken_builder_is_refused_by_name(monkeypatch, build, message):
    module = types.ModuleType("broken_blocks")
    module.build = build
    monkeypatch.setitem(sys.modules, "broken_blocks", module)
    from esper_ray.kasmina import blueprints

    blueprints._installed.cache_clear()
    with pytest.raises(PluginError, match=f"blueprint 'broken_blocks:build': {message}"):
        build_seed("broken_blocks:build", IMAGES)

"""Assembly of an organism from its configuration."""

import pytest
import torch
from torch import nn

from esper_ray.kasmina.blueprints import SlotShape
from esper_ray.kasmina.hosts import HostSpec
from esper_ray.kasmina.lifecycle.gates import Gate
from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.growth import GrowthConfig
from esper_ray.leyline.config.loading import build
from esper_ray.tolaria.assembly import GrowthError, build_organism, derived_seed, growth_limits, lifecycle_rules

CPU = torch.device("cpu")


def weights(organism):
    return {name: tensor.clone() for name, tensor in organism.model.named_parameters()}


def test_derived_seeds_depend_on_every_part_of_their_key():
    keys = [(a, b) for a in range(4) for b in range(4)]
    seeds = [derived_seed(*key) for key in keys]
    assert seeds == [derived_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_an_organism_is_a_pure_function_of_its_seed(config, data):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(build_organism(config, data, CPU, 7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, reseeded = weights(build_organism(config, data, CPU, 7)), weights(build_organism(config, data, CPU, 8))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], reseeded[name]) for name in first)


def test_the_digits_host_has_160_parameters(config, data):
    """Convolutions 1*2 + 2*4 + 4*8, batch norms 2*(2+4+8), head 8*10+10."""
    organism = build_organism(config, data, CPU, 0)
    assert organism.model.host_parameters == 42 + 28 + 90
    assert organism.model.slot_ids == ("r0c0", "r0c1", "r0c2")


def test_limits_follow_the_configuration(config, data):
    growth = GrowthConfig(blueprints=("norm",), styles=("linear_add",), max_seeds=2)
    limits = growth_limits(growth, build_organism(config, data, CPU, 0).model)
    assert limits.blueprints == {Blueprint.NORM}
    assert limits.styles == {GerminationStyle.LINEAR_ADD}
    assert limits.max_seeds == 2


@pytest.mark.parametrize(
    ("auto", "manual"), [((), True), (("g1",), True), (("g1", "g3"), True), (("g3", "g1", "g2"), False)]
)
def test_advance_is_legal_unless_every_gate_is_automatic(config, data, auto, manual):
    growth = GrowthConfig(auto_forward=auto)
    assert growth_limits(growth, build_organism(config, data, CPU, 0).model).manual_advance is manual
    assert lifecycle_rules(growth).auto_forward == {Gate[name.upper()] for name in auto}


def test_a_blueprint_for_other_features_is_refused_naming_slot_and_choice(config, data):
    model = build_organism(config, data, CPU, 0).model
    with pytest.raises(GrowthError, match=r"slot r0c0 carries images, .* no blueprint 'lora'; .*conv_heavy"):
        growth_limits(GrowthConfig(blueprints=("norm", "lora")), model)


def test_a_blueprint_that_fails_on_the_features_of_a_slot_is_refused(config, data):
    """Three pools reduce 8x8 to one pixel, on which group normalisation of single channels is undefined."""
    overrides = {"host.pools": 3, "growth.slots": ["r1c2"], "growth.blueprints": ["conv_light"]}
    tiny = build(config.model_dump(), overrides)
    model = build_organism(tiny, data, CPU, 0).model
    with pytest.raises(
        GrowthError, match=r"'conv_light' does not fit: slot r1c2: .* features \(1, 8, 1, 1\): Expected"
    ):
        growth_limits(tiny.growth, model)


def test_an_own_host_is_grown_at_its_own_slots(config, data):
    def host(data):
        return HostSpec(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {"r0c0": "1"})

    one_slot = build(config.model_dump(), {"growth.slots": ["r0c0"]})
    organism = build_organism(one_slot, data, CPU, 0, host)
    assert organism.model.cell("r0c0").shape == SlotShape(Topology.FEATURES, 10)
    with pytest.raises(ValueError, match="unknown slot 'r0c1'; did you mean 'r0c0'"):
        build_organism(config, data, CPU, 0, host)


def test_strictness_and_thresholds_reach_the_gates():
    growth = GrowthConfig(gates="strict", min_training_epochs=3, min_contribution_pp=2.5, embargo_ticks=9)
    rules = lifecycle_rules(growth)
    assert rules.gates.strict
    assert (rules.gates.min_training_epochs, rules.gates.min_contribution_pp, rules.embargo_ticks) == (3, 2.5, 9)

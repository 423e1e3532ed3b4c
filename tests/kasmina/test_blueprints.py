import random

import numpy as np
import pytest
import torch
from kasmina_builders import images
from torch import nn

from esper_ray.kasmina.blueprints import (
    CNN_BLUEPRINTS,
    blueprint_spec,
    count_parameters,
    group_norm,
    seeded_initialisation,
)
from esper_ray.leyline.actions import Blueprint

IMAGE_SEEDS = sorted(CNN_BLUEPRINTS)
PARAMETERS = {  # by hand: scale c, norm 2c, convolutions without bias; bottleneck width max(8, c // 4)
    "norm": {1: 3, 2: 6, 8: 24, 64: 192, 128: 384},
    "conv_light": {1: 12, 2: 42, 8: 600, 64: 37_056, 128: 147_840},
    "depthwise": {1: 13, 2: 28, 8: 160, 64: 4_864, 128: 17_920},
    "bottleneck": {1: 595, 2: 614, 8: 728, 64: 4_544, 128: 17_792},
}


def build(blueprint, channels, seed=5):
    with seeded_initialisation(seed):
        return blueprint_spec(blueprint).build(channels)


def test_the_image_blueprints_are_the_four_that_exist():
    assert [blueprint.id for blueprint in IMAGE_SEEDS] == ["conv_light", "norm", "depthwise", "bottleneck"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_closed_form_and_the_module(name):
    blueprint = Blueprint[name.upper()]
    closed = {c: blueprint_spec(blueprint).parameters(c) for c in PARAMETERS[name]}
    built = {c: count_parameters(build(blueprint, c)) for c in PARAMETERS[name]}
    assert closed == PARAMETERS[name]
    assert built == PARAMETERS[name]


@pytest.mark.parametrize("blueprint", IMAGE_SEEDS, ids=lambda b: b.id)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", [(8, 8), (16, 12)])
@pytest.mark.parametrize("channels", [1, 2, 7, 32])
def test_a_newborn_seed_is_the_identity_bit_by_bit(blueprint, batch, size, channels):
    h = images(batch, channels=channels, size=size)
    change = build(blueprint, channels)(h)
    assert change.shape == h.shape
    assert change.abs().max() == 0
    for alpha in (0.3, 1.0):
        assert torch.equal(h + alpha * change, h)


@pytest.mark.parametrize("blueprint", IMAGE_SEEDS, ids=lambda b: b.id)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", [(8, 8), (16, 12)])
@pytest.mark.parametrize("channels", [2, 8, 32])
def test_every_parameter_gets_gradient_within_two_steps(blueprint, batch, size, channels):
    seed = build(blueprint, channels)
    sgd = torch.optim.SGD(seed.parameters(), lr=0.1)
    h, wanted = images(batch, 1, size, channels), images(batch, 2, size, channels)
    reached = []
    for _ in range(2):
        sgd.zero_grad()
        nn.functional.mse_loss(h + seed(h), wanted).backward()
        reached.append({name for name, p in seed.named_parameters() if p.grad.abs().max() > 0})
        sgd.step()
    assert reached[0] == {"scale"}
    assert reached[1] == {name for name, _ in seed.named_parameters()}
    assert seed(h).abs().max() > 0


@pytest.mark.parametrize("blueprint", IMAGE_SEEDS, ids=lambda b: b.id)
def test_a_seed_changes_each_image_by_itself(blueprint):
    seed, h = build(blueprint, 8), images(4, channels=8)
    nn.init.ones_(seed.scale)
    alone = torch.cat([seed(h[i : i + 1]) for i in range(4)])
    assert torch.allclose(seed(h), alone, atol=1e-6)


def test_the_norm_seed_is_what_normalising_would_change():
    seed, h = build(Blueprint.NORM, 2), images(3, channels=2)
    nn.init.ones_(seed.scale)
    mean, var = h.mean((2, 3), keepdim=True), h.var((2, 3), unbiased=False, keepdim=True)
    assert torch.allclose(h + seed(h), (h - mean) / (var + 1e-5).sqrt(), atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 2), (8, 8), (16, 1), (32, 2), (64, 4), (512, 32)])
def test_groups_have_at_least_sixteen_channels_or_one_each(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (7, 1), (12, 4), (24, 1), (48, 2)])
def test_only_powers_of_two_are_tried_as_numbers_of_groups(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("blueprint", sorted(set(Blueprint) - set(CNN_BLUEPRINTS)), ids=lambda b: b.id)
def test_a_blueprint_that_images_lack_is_an_error_naming_it(blueprint):
    with pytest.raises(ValueError, match=f"unknown blueprint '{blueprint.id}'.*known: norm, conv_light"):
        blueprint_spec(blueprint)


def test_initial_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = build(Blueprint.CONV_LIGHT, 8, seed=5)
    torch.manual_seed(2)
    same, other = build(Blueprint.CONV_LIGHT, 8, seed=5), build(Blueprint.CONV_LIGHT, 8, seed=6)
    assert torch.equal(first.body[0].weight, same.body[0].weight)
    assert not torch.equal(first.body[0].weight, other.body[0].weight)


def test_global_generators_are_handed_back_even_after_an_error():
    def generators():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    def fail():
        with seeded_initialisation(3):
            torch.rand(4)
            raise RuntimeError("builder failed")

    before = generators()
    with pytest.raises(RuntimeError, match="builder failed"):
        fail()
    assert generators() == before


def test_the_generators_of_gpus_are_not_reseeded(monkeypatch):
    reseeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    with seeded_initialisation(3):
        torch.rand(1)
    assert reseeded == []


@pytest.mark.gpu
def test_the_generator_of_this_gpu_is_handed_back():
    torch.cuda.manual_seed(11)
    before = torch.cuda.get_rng_state()
    with seeded_initialisation(3):
        nn.Linear(4, 4)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_counting_takes_each_tensor_once_frozen_or_not():
    layer = nn.Linear(3, 2)
    twice = nn.Sequential(layer, nn.Linear(2, 1).requires_grad_(False), layer)
    assert count_parameters(twice) == 3 * 2 + 2 + 2 + 1

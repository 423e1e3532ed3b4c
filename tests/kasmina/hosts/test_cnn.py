"""CNN hosts: parameter counts, slots and sizes."""

from itertools import pairwise

import pytest
import torch
from kasmina_builders import images

from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.modules import count_parameters, seeded_initialisation
from esper_ray.leyline.config.host import CNNHostConfig

FAMILY = [  # base, blocks, pools, kernel, input channels, parameters
    (2, 3, 2, 1, 1, 160),
    (8, 3, 3, 3, 3, 6_418),
    (8, 5, 5, 3, 3, 99_922),
    (1, 3, 3, 1, 3, 77),
    (2, 3, 0, 1, 3, 164),
    (2, 3, 3, 1, 3, 164),
    (16, 3, 3, 3, 3, 24_346),
    (2, 5, 5, 1, 3, 1_140),
]


def host(base=2, blocks=3, pools=2, kernel=1, channels=1, classes=10):
    config = CNNHostConfig(base_channels=base, blocks=blocks, pools=pools, kernel_size=kernel)
    with seeded_initialisation(0):
        return build_host(config, (channels, 32, 32), classes)


@pytest.mark.parametrize(("base", "blocks", "pools", "kernel", "channels", "parameters"), FAMILY)
def test_parameter_counts_of_the_family(base, blocks, pools, kernel, channels, parameters):
    assert count_parameters(host(base, blocks, pools, kernel, channels).module) == parameters


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_the_parameter_count_follows_the_closed_form(kernel):
    base, blocks, channels, classes = 3, 4, 2, 5
    widths = [channels, *(base * 2**i for i in range(blocks))]
    convolutions = sum(kernel**2 * a * b + 2 * b for a, b in pairwise(widths))
    assert count_parameters(host(base, blocks, 1, kernel, channels, classes).module) == (
        convolutions + widths[-1] * classes + classes
    )


@pytest.mark.parametrize(("blocks", "pools"), [(2, 0), (3, 2), (5, 5)])
def test_the_slots_of_a_host_are_those_its_configuration_offers(blocks, pools):
    config = CNNHostConfig(blocks=blocks, pools=pools)
    spec = build_host(config, (1, 32, 32), 10)
    assert tuple(spec.slot_modules) == config.available_slots()
    modules = dict(spec.module.named_modules())
    assert all(name in modules for name in spec.slot_modules.values())
    assert spec.slot_modules["r0c1"] == "blocks.1"
    assert spec.slot_modules.get("r1c0") == ("pools.0" if pools else None)


@pytest.mark.parametrize(
    ("size", "pools", "spatial"),
    [((8, 8), 2, [(8, 8), (4, 4), (2, 2)]), ((16, 12), 1, [(16, 12), (8, 6), (8, 6)]), ((1, 1), 0, [(1, 1)] * 3)],
)
def test_blocks_keep_the_size_and_the_first_pools_halve_it(size, pools, spatial):
    module = host(pools=pools).module.eval()
    seen = []
    for block in module.blocks:
        block.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[2:])))
    assert module(images(3, size=size)).shape == (3, 10)
    assert seen == spatial


def test_widths_double_from_block_to_block():
    assert [block[0].out_channels for block in host(base=3, blocks=4).module.blocks] == [3, 6, 12, 24]


def test_features_are_averaged_over_the_image_before_the_head():
    module = host(kernel=1, pools=0).module.eval()
    x = images(2)
    shuffled = x.flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(1))].reshape(x.shape)
    assert torch.allclose(module(x), module(shuffled), atol=1e-6)


def test_the_same_seed_builds_the_same_host():
    first, second = host().module.state_dict(), host().module.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

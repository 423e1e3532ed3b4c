"""Blueprints: modules, attention against naive loops, registry and initialisation."""

import random

import numpy as np
import pytest
import torch
from cell_builders import FEATURES, IMAGES, SEQUENCES, born, case_id, features, make_model, noise
from torch import nn

from esper_ray.kasmina.blueprints import (
    SlotShape,
    blueprint_names,
    build_seed,
    register_blueprint,
    sequences,
    unregister_blueprint,
)
from esper_ray.kasmina.blueprints.images import group_norm
from esper_ray.kasmina.blueprints.sequences import WINDOW, SelfAttention, WindowAttention, flex_window_attention
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import count_parameters, seeded_initialisation
from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.blueprints import BLUEPRINTS_OF_TOPOLOGY, Topology, seed_parameter_count

CASES = [(t, blueprint) for t, blueprints in BLUEPRINTS_OF_TOPOLOGY.items() for blueprint in blueprints]
EACH = pytest.mark.parametrize(("topology", "blueprint"), CASES, ids=case_id)


def on(shape, blueprint, seed=5):
    """A seed with scale 1, so that its change is that of its body."""
    module = born(shape, blueprint, seed)
    nn.init.ones_(module.scale)
    return module


@EACH
def test_parameter_counts_equal_those_of_leyline(topology, blueprint):
    widths = (1, 2, 3, 8, 12, 16, 64)
    built = [count_parameters(born(SlotShape(topology, c), blueprint)) for c in widths]
    assert built == [seed_parameter_count(topology, blueprint, c) for c in widths]


@EACH
def test_a_newborn_seed_has_no_effect_and_one_with_scale_one_has(topology, blueprint):
    for channels in (1, 2, 7, 32):
        h = features(topology, channels, batch=3)
        seed = born(SlotShape(topology, channels), blueprint)
        change = seed(h)
        assert change.shape == h.shape
        assert change.abs().max() == 0
        if blueprint is not Blueprint.NOOP:
            nn.init.ones_(seed.scale)
            assert seed(h).abs().max() > 1e-3


@EACH
def test_a_seed_processes_each_example_independently(topology, blueprint):
    seed, h = born(SlotShape(topology, 8), blueprint), features(topology)
    for parameter in seed.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([seed(h[i : i + 1]) for i in range(4)])
    assert torch.allclose(seed(h), alone, atol=1e-4)


def test_the_scale_is_one_number_per_channel():
    seed, h = on(SlotShape(IMAGES, 2), Blueprint.NORM), features(IMAGES, 2)
    whole = seed(h)
    with torch.no_grad():
        seed.scale.copy_(torch.tensor([2.0, -3.0]).reshape(2, 1, 1))
    assert torch.allclose(seed(h)[:, 0], 2 * whole[:, 0])
    assert torch.allclose(seed(h)[:, 1], -3 * whole[:, 1])


def test_a_norm_seed_adds_the_difference_to_the_normalised_features():
    h = features(IMAGES, 2)
    mean, var = h.mean((2, 3), keepdim=True), h.var((2, 3), unbiased=False, keepdim=True)
    change = on(SlotShape(IMAGES, 2), Blueprint.NORM)(h)
    assert torch.allclose(h + change, (h - mean) / (var + 1e-5).sqrt(), atol=1e-5)
    token = torch.tensor([[[1.0, 3.0, 5.0, 7.0]]])  # mean 4, variance 5
    change = on(SlotShape(SEQUENCES, 4), Blueprint.NORM)(token)
    assert (token + change).flatten().tolist() == pytest.approx([-1.341639, -0.447213, 0.447213, 1.341639], abs=1e-5)


def test_channel_attention_by_hand():
    seed = on(SlotShape(FEATURES, 2), Blueprint.ATTENTION)
    with torch.no_grad():
        seed.body.squeeze.weight.copy_(torch.tensor([[1.0, -1.0]]))
        seed.body.excite.weight.copy_(torch.tensor([[1.0], [0.0]]))
        seed.body.excite.bias.copy_(torch.tensor([0.0, 0.5]))
    # squeezed 3 - 1 = 2, gelu 2 * Phi(2) = 1.9544997; tanh of it 0.9606679, tanh 1/2 = 0.4621172
    assert seed(torch.tensor([[3.0, 1.0]])).flatten().tolist() == pytest.approx([2.8820038, 0.4621172], abs=1e-5)


@pytest.mark.parametrize("topology", [IMAGES, FEATURES])
@pytest.mark.parametrize("channels", [2, 4, 8])
def test_newborn_channel_attention_has_gradients_on_positive_features(topology, channels):
    h = features(topology, channels).relu() + 0.1
    for number in range(20):
        seed = on(SlotShape(topology, channels), Blueprint.ATTENTION, number)
        seed(h).square().sum().backward()
        assert all(p.grad.abs().max() > 0 for p in seed.parameters()), number


@pytest.mark.parametrize(("name", "rank"), [("lora", 8), ("lora_large", 32)])
def test_low_rank_blueprints_are_linear_maps_of_their_rank(name, rank):
    seed = on(SlotShape(FEATURES, 40), name)
    matrix = seed(torch.eye(40))
    assert torch.linalg.matrix_rank(matrix, atol=1e-4) == rank
    h = noise(3, 40)
    assert torch.allclose(seed(h), h @ matrix, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 2), (8, 8), (16, 1), (32, 2), (64, 4), (512, 32)])
def test_groups_have_at_least_sixteen_channels_or_one_each(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (7, 1), (12, 4), (24, 1), (48, 2), (96, 4)])
def test_the_number_of_groups_is_a_power_of_two(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("blueprint", BLUEPRINTS_OF_TOPOLOGY[IMAGES], ids=case_id)
@pytest.mark.parametrize("channels", [3, pytest.param(12, marks=pytest.mark.slow), 16])
@pytest.mark.parametrize("batch", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_single_pixels_work_with_groups_of_several_channels(blueprint, channels, batch):
    h = noise(batch, channels, 1, 1)
    seed = born(SlotShape(IMAGES, channels), blueprint)
    assert seed(h).abs().max() == 0
    if blueprint is not Blueprint.NOOP:
        nn.init.ones_(seed.scale)
        (seed(h) * noise(batch, channels, 1, 1, seed=2)).sum().backward()
        assert all(p.grad.abs().max() > 0 for p in seed.parameters())


def test_a_group_of_one_channel_on_a_single_pixel_is_refused_at_birth_and_not_later():
    host = nn.Sequential(nn.Conv2d(2, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    model = MorphogeneticModel.wrap(host, {"r0c0": "1"}, noise(2, 2, 4, 4))
    for blueprint in (Blueprint.NORM, Blueprint.CONV_LIGHT, Blueprint.BOTTLENECK):
        with pytest.raises(ValueError, match=r"slot r0c0: the seed cannot work on features \(1, 8, 1, 1\)"):
            model.germinate("r0c0", blueprint)
    assert model.germinate("r0c0", Blueprint.ATTENTION)


# Attention


def naive_attention(module, h, visible):
    """Attention in loops over heads and tokens; ``visible(query, key)`` is the mask."""
    batch, length, width = h.shape
    qkv = module.qkv(h).reshape(batch, length, 3, module.heads, width // module.heads)
    mixed = torch.zeros(batch, length, module.heads, width // module.heads)
    for b in range(batch):
        for head in range(module.heads):
            queries, keys, values = (qkv[b, :, part, head] for part in range(3))
            for t in range(length):
                seen = [s for s in range(length) if visible(t, s)]
                weights = (keys[seen] @ queries[t] / (width // module.heads) ** 0.5).softmax(0)
                mixed[b, t, head] = weights @ values[seen]
    return module.project(mixed.flatten(2))


@pytest.mark.parametrize("width", [2, 3, 8])
@pytest.mark.parametrize("causal", [True, False])
def test_self_attention_equals_the_naive_loop(width, causal):
    module, h = SelfAttention(width, causal=causal), noise(2, 5, width)
    with torch.no_grad():
        assert torch.allclose(module(h), naive_attention(module, h, lambda t, s: s <= t or not causal), atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_window_attention_equals_the_naive_loop(causal):
    def visible(t, s):
        return (s <= t if causal else s - t < 64) and t - s < 64

    assert WINDOW == 64
    module, h = WindowAttention(4, causal=causal), noise(1, 70, 4)
    with torch.no_grad():
        assert torch.allclose(module(h), naive_attention(module, h, visible), atol=1e-5)


@pytest.mark.parametrize(("causal", "reach"), [(True, range(10, 74)), (False, range(74))])
def test_the_attention_window_reaches_63_tokens(causal, reach):
    module, h = WindowAttention(4, causal=causal), noise(1, 80, 4)
    moved = h.clone()
    moved[0, 10] += 1.0
    with torch.no_grad():
        changed = (module(moved) - module(h)).abs().amax((0, 2)) > 1e-7
    assert changed.nonzero().flatten().tolist() == list(reach)


@pytest.mark.parametrize("width", [4, 6, 7])
def test_the_number_of_heads_divides_the_width(width):
    assert SelfAttention(width, causal=True).heads == {4: 4, 6: 2, 7: 1}[width]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 5, 100])
def test_flex_attention_equals_window_attention(causal, length):
    module, h = WindowAttention(16, causal=causal), noise(2, length, 16)
    with torch.no_grad():
        queries, keys, values = module.qkv(h).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        flex = flex_window_attention(queries, keys, values, causal=causal)
        assert torch.allclose(flex, module._attend(queries, keys, values), atol=1e-5)


class OnCuda(torch.Tensor):
    """Tensor that reports to be on a GPU."""

    is_cuda = True


def test_heads_below_16_channels_on_cuda_do_not_use_flex_attention(monkeypatch):
    flex_calls = []

    def flex(queries, _keys, _values, *, causal):
        flex_calls.append((queries.shape[-1], causal))
        return queries

    monkeypatch.setattr(sequences, "flex_window_attention", flex)
    for width in (1, 8, 60, 64, 128):
        module = WindowAttention(width, causal=width < 100)
        part = noise(1, module.heads, 5, width // module.heads).as_subclass(OnCuda)
        wide = width // module.heads >= 16
        assert torch.equal(module._attend(part, part, part), part) == wide
    assert flex_calls == [(16, True), (32, False)]


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("length", [1, 5, 100])
def test_window_attention_on_the_gpu_equals_that_on_the_cpu(length, width, causal):
    module, h, weights = WindowAttention(width, causal=causal), noise(2, length, width), noise(2, length, width, seed=1)
    reached = []
    for device in ("cpu", "cuda"):
        module.zero_grad()
        output = module.to(device)(h.to(device))
        (output * weights.to(device)).sum().backward()
        reached.append([output.detach().cpu(), *(p.grad.cpu() for p in module.parameters())])
    for ours, theirs in zip(*reached, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-2, rtol=1e-2)


# The registry


@pytest.fixture
def doubled():
    """An own blueprint for features: a linear map without bias."""
    register_blueprint("doubled", FEATURES, lambda slot: nn.Linear(slot.channels, slot.channels, bias=False))
    yield "doubled"
    unregister_blueprint("doubled", FEATURES)


def test_the_built_in_names_are_those_of_the_action_indices():
    for topology, blueprints in BLUEPRINTS_OF_TOPOLOGY.items():
        assert blueprint_names(topology)[: len(blueprints)] == [blueprint.id for blueprint in blueprints]


def test_an_own_blueprint_is_built_in_its_topology_only(doubled):
    assert doubled in blueprint_names(FEATURES)
    assert doubled not in blueprint_names(IMAGES)
    seed, h = on(SlotShape(FEATURES, 3), doubled), noise(2, 3)
    assert torch.equal(seed(h), h @ seed.body.weight.T)
    with pytest.raises(ValueError, match="'doubled' is built for features, not for images; choices for images: noop"):
        build_seed(doubled, SlotShape(IMAGES, 3))


def test_a_name_is_registered_once_per_topology(doubled):
    with pytest.raises(ValueError, match="'doubled' is already registered for features"):
        register_blueprint(doubled, FEATURES, lambda slot: nn.Identity())
    register_blueprint(doubled, SEQUENCES, lambda slot: nn.Identity())
    unregister_blueprint(doubled, SEQUENCES)
    assert (doubled in blueprint_names(SEQUENCES), doubled in blueprint_names(FEATURES)) == (False, True)


def test_unregistering_twice_has_no_effect(doubled):
    unregister_blueprint(doubled, FEATURES)
    unregister_blueprint(doubled, FEATURES)
    with pytest.raises(ValueError, match="unknown blueprint 'doubled'"):
        build_seed(doubled, SlotShape(FEATURES, 3))


@pytest.mark.parametrize("topology", list(Topology))
def test_built_in_names_are_reserved_in_every_topology(topology):
    before = blueprint_names(topology)
    for blueprint in Blueprint:
        with pytest.raises(ValueError, match=f"'{blueprint.id}' is built in"):
            register_blueprint(blueprint.id, topology, lambda slot: nn.Identity())
        with pytest.raises(ValueError, match=f"'{blueprint.id}' is built in"):
            unregister_blueprint(blueprint.id, topology)
    assert blueprint_names(topology) == before


def test_an_unknown_name_is_an_error_with_the_nearest_one():
    with pytest.raises(ValueError, match="unknown blueprint 'conv_lihgt'; did you mean 'conv_light'"):
        build_seed("conv_lihgt", SlotShape(IMAGES, 3))


def test_a_blueprint_of_another_topology_is_an_error_with_the_choices():
    with pytest.raises(ValueError, match=r"'lora' is built for sequences and features, not for images; .*conv_heavy"):
        build_seed("lora", SlotShape(IMAGES, 3))


class Pair(nn.Module):
    def forward(self, h):
        return h, h


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda slot: nn.Conv2d(slot.channels, 5, 1), r"turns \(2, 8, 4, 4\) into \(2, 5, 4, 4\)"),
        (lambda slot: nn.MaxPool2d(2), r"turns \(2, 8, 4, 4\) into \(2, 8, 2, 2\)"),
        (lambda slot: nn.AdaptiveAvgPool2d(1), r"turns \(2, 8, 4, 4\) into \(2, 8, 1, 1\)"),  # would broadcast
        (lambda slot: Pair(), r"turns \(2, 8, 4, 4\) into a tuple"),
    ],
    ids=["channels", "size", "broadcast", "tuple"],
)
def test_a_body_that_changes_the_shape_is_refused_without_side_effects(body, words):
    register_blueprint("shifty", IMAGES, body)
    try:
        model = make_model(IMAGES)
        before, modules, generator = model.growth.record(), dict(model.named_modules()), torch.get_rng_state()
        with pytest.raises(ValueError, match=words):
            model.germinate("r0c0", "shifty")
        assert model.growth.record() == before
        assert dict(model.named_modules()) == modules
        assert (model.cell("r0c0").seed, model.events) == (None, [])
        assert torch.equal(torch.get_rng_state(), generator)
        assert model.germinate("r0c0", "conv_light")
        assert model.states["r0c0"].seed_id == "r0c0-1"
    finally:
        unregister_blueprint("shifty", IMAGES)


# Initialisation


def test_initial_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = born(SlotShape(IMAGES, 8), Blueprint.CONV_LIGHT, seed=5)
    torch.manual_seed(2)
    same, different = (born(SlotShape(IMAGES, 8), Blueprint.CONV_LIGHT, seed=seed) for seed in (5, 6))
    assert torch.equal(first.body[0].weight, same.body[0].weight)
    assert not torch.equal(first.body[0].weight, different.body[0].weight)


def test_global_generators_are_restored_after_an_error():
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
def test_the_generator_of_the_gpu_is_restored():
    torch.cuda.manual_seed(11)
    before = torch.cuda.get_rng_state()
    with seeded_initialisation(3):
        nn.Linear(4, 4)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_each_tensor_is_counted_once_frozen_or_not():
    layer = nn.Linear(3, 2)
    twice = nn.Sequential(layer, nn.Linear(2, 1).requires_grad_(False), layer)
    assert count_parameters(twice) == 3 * 2 + 2 + 2 + 1

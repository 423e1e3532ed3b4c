"""Coalitions of hosts and seeds whose rows influence each other, against one pass for each coalition."""

import pytest
import torch
from kasmina_builders import make_model, named
from row_builders import HOSTS, PLACES, Host, InPlace, assert_exact, blended, naive, noise
from torch import nn

from esper_ray.kasmina.blueprints import register_blueprint, unregister_blueprint
from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.passes.rows import independent_rows, other_rows
from esper_ray.leyline.blueprints import Topology


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def batch_norm(gamma=1.0):
    norm = nn.BatchNorm1d(6, track_running_stats=False)
    with torch.no_grad():
        norm.weight.fill_(gamma)
    return norm


MIXING = {
    "batch statistics": batch_norm,
    "centred by the batch": lambda: Apply(lambda h: h - h.mean(0)),
    "scaled by the batch": lambda: Apply(lambda h: h / h.abs().amax()),
    "attention over the batch": lambda: Apply(lambda h: (h @ h.T).softmax(1) @ h),
    "mixed with another row": lambda: Apply(lambda h: h + 0.5 * h.flip(0)),
    "cumulative": lambda: Apply(lambda h: h.cumsum(0)),
}


@torch.no_grad()
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("place", ["before", "between", "after"])
@pytest.mark.parametrize("kind", MIXING)
def test_coalitions_of_a_host_that_mixes_rows_equal_single_passes(kind, place, shortcut):
    with seeded_initialisation(1):
        model = blended(Host(MIXING[kind](), place, shortcut))
    assert_exact(model, noise(5, 6))


@pytest.mark.parametrize("kind", MIXING)
def test_layers_that_mix_rows_behind_a_slot_get_separate_passes(kind):
    with seeded_initialisation(1):
        model = MorphogeneticModel.wrap(Host(MIXING[kind](), "between", False), PLACES, torch.zeros(2, 6))
    assert model.attachments["r0c0"].passes == "separate"


def test_a_layer_that_mixes_rows_before_a_slot_keeps_the_fork():
    with seeded_initialisation(1):
        host = Host(MIXING["centred by the batch"](), "before", False)
        model = MorphogeneticModel.wrap(host, PLACES, torch.zeros(2, 6))
    assert {at.passes for at in model.attachments.values()} == {"forked"}


@torch.no_grad()
def test_batch_statistics_behind_a_zero_weight_are_found_before_they_matter():
    with seeded_initialisation(1):
        host = Host(batch_norm(gamma=0.0), "between", True)
        model = blended(host)
    host.mixer.weight.fill_(1.0)  # as training would
    assert_exact(model, noise(5, 6))


@torch.no_grad()
def test_images_with_batch_statistics_equal_single_passes():
    """The difference of a joint pass was up to 0.26 logits."""
    with seeded_initialisation(3):
        host = named(
            conv=nn.Conv2d(1, 4, 3, padding=1),
            norm=nn.BatchNorm2d(4, track_running_stats=False),
            act=nn.ReLU(),
            deep=nn.Conv2d(4, 4, 3, padding=1),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(4, 3),
        )
        model = blended(host, {"r0c0": "conv", "r0c1": "deep"}, "conv_light", torch.zeros(2, 1, 5, 5))
    assert_exact(model, noise(6, 1, 5, 5))


@pytest.fixture
def own_blueprint(request):
    register_blueprint("mixing", Topology.FEATURES, lambda _slot: MIXING[request.param]())
    yield "mixing"
    unregister_blueprint("mixing", Topology.FEATURES)


@torch.no_grad()
def test_an_own_blueprint_with_batch_statistics_on_images_equals_single_passes():
    def body(slot):
        norm = nn.BatchNorm2d(slot.channels, track_running_stats=False)
        return nn.Sequential(nn.Conv2d(slot.channels, slot.channels, 3, padding=1), norm)

    register_blueprint("batch_norm", Topology.IMAGES, body)
    try:
        with seeded_initialisation(3):
            host = named(conv=nn.Conv2d(1, 4, 3), deep=nn.Conv2d(4, 4, 3), flat=nn.Flatten(), head=nn.Linear(16, 3))
            model = blended(host, {"r0c0": "conv", "r0c1": "deep"}, "batch_norm", torch.zeros(2, 1, 6, 6))
        assert {at.passes for at in model.attachments.values()} == {"forked"}
        assert_exact(model, noise(6, 1, 6, 6))
    finally:
        unregister_blueprint("batch_norm", Topology.IMAGES)


@torch.no_grad()
@pytest.mark.parametrize("own_blueprint", sorted(MIXING.keys() - {"batch statistics"}), indirect=True)
def test_coalitions_of_seeds_that_mix_rows_equal_single_passes(own_blueprint):
    with seeded_initialisation(1):
        model = blended(Host(nn.Identity(), "between", False), blueprint=own_blueprint)
    assert {at.passes for at in model.attachments.values()} == {"forked"}
    assert_exact(model, noise(5, 6))


@torch.no_grad()
def test_separate_passes_do_not_see_changes_of_their_input():
    with seeded_initialisation(1):
        model = blended(InPlace(), {"r0c0": "first"})
    x = noise(4, 6)
    expected = [naive(model, x.clone(), on) for on in (frozenset(), frozenset({"r0c0"}))]
    with model.branching(frozenset({"r0c0"})) as coalitions:
        out = model(x)
    assert coalitions == (frozenset(), frozenset({"r0c0"}))
    assert torch.equal(out, torch.cat(expected))


@torch.no_grad()
def test_separate_passes_leave_the_model_unchanged_also_after_an_error():
    with seeded_initialisation(1):
        model = blended(Host(batch_norm(), "between", False))
    x = noise(4, 6)
    before = model(x)
    with pytest.raises(RuntimeError), model.branching(frozenset(PLACES)):
        model(noise(4, 5))
    assert torch.equal(model(x), before)
    with model.branching(frozenset({"r0c0"})):
        with model.branching(frozenset({"r0c1"})):
            assert len(model(x)) == 8
        assert len(model(x)) == 8
    assert torch.equal(model(x), before)


@torch.no_grad()
def test_separate_passes_refuse_a_host_without_a_tensor_as_output():
    class Pair(InPlace):
        def forward(self, x):
            return super().forward(x), None

    with seeded_initialisation(1):
        model = blended(Pair(), {"r0c0": "first"})
    with pytest.raises(ValueError, match="of rows as output, got tuple"), model.branching(frozenset({"r0c0"})):
        model(noise(4, 6))


# Ordinary hosts keep the joint pass


@pytest.mark.parametrize("name", HOSTS)
def test_built_in_hosts_keep_the_fork(name):
    config, shape = HOSTS[name]
    with seeded_initialisation(1):
        spec = build_host(config, shape, 7)
    example = torch.zeros(2, *shape, dtype=torch.int64 if len(shape) == 1 else torch.float32)
    model = MorphogeneticModel.wrap(spec.module, spec.slot_modules, example)
    assert {at.passes for at in model.attachments.values()} == {"forked"}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_ordinary_host_keeps_the_fork_at_any_scale_and_type(dtype, scale):
    with seeded_initialisation(1):
        host = Host(nn.BatchNorm1d(6), "between", False)
    with torch.no_grad():
        for parameter in host.parameters():
            parameter.mul_(scale)
    model = MorphogeneticModel.wrap(host.to(dtype), PLACES, noise(2, 6).to(dtype))
    assert {at.passes for at in model.attachments.values()} == {"forked"}


def test_probes_leave_host_and_generator_unchanged():
    before = torch.get_rng_state()
    twin, model = make_model(), make_model()
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in twin.host.state_dict().items():
        assert torch.equal(tensor, model.host.state_dict()[name])
    assert all(not part._forward_hooks for part in model.host.modules() if part not in slot_modules(model))


def slot_modules(model):
    return {model.host.get_submodule(at.module) for at in model.attachments.values()}


def test_other_rows_differ_in_every_row_and_in_their_statistics():
    for features in (torch.zeros(3, 4), torch.ones(3, 4), noise(3, 4), 1e6 * noise(3, 4)):
        other = other_rows(features)
        assert (other - features).abs().amax(1).min() > 0.1 * features.abs().mean()
        assert not torch.allclose(other.mean(0), features.mean(0))
    assert torch.equal(other_rows(features), other_rows(features))


def test_other_rows_of_features_without_negative_values_have_none():
    assert other_rows(noise(3, 4).abs()).min() >= 0
    assert other_rows(noise(3, 4)).min() < 0


class Root(nn.Module):
    """Works on inputs from 0 to 1 only, and has a root after its slot."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        if x.min() < 0 or x.max() > 1:
            raise ArithmeticError("inputs are fractions")
        return self.head(self.second(self.first(x)).sqrt())


def test_a_host_that_refuses_other_inputs_keeps_the_fork():
    with seeded_initialisation(1):
        model = MorphogeneticModel.wrap(Root(), {"r0c0": "second"}, torch.zeros(2, 6))
    assert model.attachments["r0c0"].passes == "forked"


def test_bodies_are_probed_with_different_rows():
    with seeded_initialisation(1):
        assert independent_rows(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), noise(2, 4))
        assert independent_rows(nn.GroupNorm(2, 4), noise(2, 4, 3, 3))
        assert not independent_rows(Apply(lambda h: h - h.mean(0)), torch.zeros(2, 4))

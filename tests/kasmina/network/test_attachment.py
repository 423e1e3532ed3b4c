"""Submodules that a slot can be attached to, and what wrapping leaves unchanged."""

import copy
import pickle

import pytest
import torch
from kasmina_builders import READY, WORTHY, images, make_host, make_model, make_organism, named, train, wake
from torch import nn

from esper_ray.kasmina.model import MorphogeneticModel


def grown(model, slot, blueprint="lora", style="linear_add"):
    """Lead a seed with a change that is not zero to HOLDING."""
    assert model.germinate(slot, blueprint, style=style, tempo=1)
    wake(model.cell(slot).seed)
    assert model.advance(slot, WORTHY)
    assert model.advance(slot, WORTHY)
    model.tick()
    assert model.advance(slot, WORTHY)
    return model.cell(slot).seed


class Two(nn.Module):
    """Takes two inputs by name or position."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, a, b):
        return self.left(a) + self.right(b)


class Odd(nn.Module):
    """Submodules whose outputs no seed can work on."""

    def __init__(self):
        super().__init__()
        self.arg = named(max=ArgMax())
        self.vector = Flat()
        self.turn = Turn()
        self.split = Split()

    def forward(self, x):
        self.arg(x), self.vector(x), self.turn(x), self.split(x)
        return x


class ArgMax(nn.Module):
    def forward(self, x):
        return x.argmax(-1)


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten()


class Turn(nn.Module):
    def forward(self, x):
        return x.permute(1, 2, 0)


class Split(nn.Module):
    def forward(self, x):
        return []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("arg.max", r"'arg.max' returns torch.int64 of shape \(2, 5\)"),
        ("vector", r"'vector' returns torch.float32 of shape \(40,\)"),
        ("turn", r"slot r0c0 yields \(5, 4, 2\), which fits none of BCHW, BHWC, BTD, TBD, BCL, BD"),
        ("split", "returns a list of nothing; a slot needs a dense tensor"),
    ],
)
def test_an_output_that_is_no_batch_of_features_is_refused(place, message):
    with pytest.raises(ValueError, match=message):
        MorphogeneticModel.wrap(Odd(), {"r0c0": place}, torch.zeros(2, 5, 4))


def test_two_slots_on_aliases_of_one_module_are_refused():
    host = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    host.alias = host[0]
    host.forward = host[0].forward
    with pytest.raises(ValueError, match="slots r0c0 and r0c1 sit on the same submodule: '0', 'alias'"):
        MorphogeneticModel.wrap(host, {"r0c0": "0", "r0c1": "alias"}, torch.zeros(2, 3))


def test_a_host_cannot_be_wrapped_twice_but_a_fresh_copy_can():
    model = make_model()
    with pytest.raises(ValueError, match="the host has slots already"):
        MorphogeneticModel.wrap(model.host, {"r0c0": "blocks.0"}, images(2))
    MorphogeneticModel.wrap(make_host(), {"r0c0": "blocks.0"}, images(2))


@pytest.mark.parametrize(
    "example", [(torch.zeros(2, 3), torch.zeros(2, 2)), {"b": torch.zeros(2, 2), "a": torch.zeros(2, 3)}]
)
def test_examples_can_be_positional_or_named(example):
    model = MorphogeneticModel.wrap(Two(), {"r0c0": "left", "r0c1": "right"}, example, rules=READY)
    assert [at.example_shape for at in model.attachments.values()] == [(4,), (4,)]
    seed = grown(model, "r0c1")
    a, b = torch.randn(5, 3), torch.randn(5, 2)
    h = model.host.left(a) + (model.host.right.weight @ b.T).T + model.host.right.bias
    assert torch.allclose(model(a, b=b), h + seed(h - model.host.left(a)), atol=1e-6)


def test_nested_slots_are_applied_from_inside_to_outside():
    host = named(body=named(first=nn.Linear(4, 4), last=nn.Linear(4, 4)), head=nn.Linear(4, 2))
    model = MorphogeneticModel.wrap(host, {"r0c0": "body", "r0c1": "body.last"}, torch.zeros(2, 4), rules=READY)
    assert model.execution_order == ("r0c1", "r0c0")
    x = torch.randn(3, 4)
    plain = host.body.last(host.body.first(x))
    inner, outer = grown(model, "r0c1"), grown(model, "r0c0", "norm")
    h = plain + inner(plain)
    by_hand = nn.functional.linear(h + outer(h), host.head.weight, host.head.bias)
    assert torch.allclose(model(x), by_hand, atol=1e-6)
    with torch.no_grad(), model.branching(frozenset({"r0c0", "r0c1"})) as blocks:
        assert blocks[1:3] == (frozenset({"r0c1"}), frozenset({"r0c0"}))
        assert torch.allclose(model(x)[9:], by_hand, atol=1e-6)


@pytest.mark.parametrize("style", ["linear_add", "linear_multiply", "gated_gate"])
def test_in_place_layers_after_a_slot_keep_gradients(style):
    host = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 4), rules=READY)
    grown(model, "r0c0", style=style)
    model(torch.randn(3, 4)).sum().backward()
    assert all(p.grad is not None for p in model.host.parameters())


def test_seeds_have_the_dtype_of_their_host():
    host = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).double()
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 4).double(), rules=READY)
    seed = grown(model, "r0c0", style="gated_gate")
    assert {p.dtype for p in seed.parameters()} == {torch.float64}
    x = torch.randn(3, 4).double()
    h = torch.nn.functional.linear(x, host[0].weight, host[0].bias)
    expected = host[1](h + model.cell("r0c0").gate(h) * seed(h))
    assert torch.allclose(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_a_newborn_seed_has_the_training_mode_of_the_model(training):
    model = make_model().train(training)
    model.germinate("r0c0", "conv_light", style="gated_gate")
    assert {module.training for module in model.modules()} == {training}


def test_a_deep_copy_grows_independently_of_the_original():
    organism = make_organism()
    before, x = organism.model.state_dict(), images(3)
    double = copy.deepcopy(organism.model)
    seed = grown(double, "r0c0", "conv_light")
    assert organism.model.states["r0c0"] is None
    assert organism.optimizer.group_names == ["host"]
    assert organism.model.cell("r0c0").seed is None
    assert double.cell("r0c0").seed is seed
    assert not torch.allclose(double.eval()(x), organism.model.eval()(x), atol=1e-3)
    assert set(organism.model.state_dict()) == set(before)
    train(organism, 1)
    assert double.states["r0c0"] is not None


def test_a_pickled_model_computes_the_same_and_can_grow_further():
    model = make_model().eval()
    grown(model, "r0c0", "conv_light", style="gated_gate")
    restored = pickle.loads(pickle.dumps(model))
    x = images(3)
    assert torch.equal(restored(x), model(x))
    grown(restored, "r1c0", "norm")
    assert not torch.allclose(restored(x), model(x), atol=1e-4)
    assert model.states["r1c0"] is None


def test_a_negative_seed_is_refused_with_its_value():
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        make_model(seed=-1)


LAYERS = {"r0c0": "encoder.layers.encoder_layer_1", "r0c1": "encoder.layers.encoder_layer_2"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:incubation clips")  # the residual blocks of an untrained ResNet have large features
@pytest.mark.parametrize(
    ("name", "slots", "size", "blueprint"),
    [
        ("resnet18", {"r0c0": "layer1", "r0c1": "layer3.0.bn2"}, 32, "conv_light"),
        ("VisionTransformer", LAYERS, 32, "lora"),
        pytest.param("vit_b_16", LAYERS, 224, "lora", marks=pytest.mark.nightly),
    ],
)
def test_networks_of_torchvision_grow_without_changes(name, slots, size, blueprint):
    from torchvision import models

    small = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    sizes = {"resnet18": {}, "vit_b_16": {"dropout": 0.0}, "VisionTransformer": small}[name] | {"num_classes": 3}
    torch.manual_seed(0)
    host = getattr(models, name)(**sizes)
    keys = set(host.state_dict())
    x, y = torch.randn(2, 3, size, size), torch.tensor([0, 2])
    model = MorphogeneticModel.wrap(host, slots, x, rules=READY, causal=False)
    assert {k.removeprefix("host.") for k in model.state_dict() if k.startswith("host.")} == keys
    from esper_ray.kasmina.optimizer import GrowingOptimizer

    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.01)
    bare = model.eval()(x)
    model.germinate("r0c0", blueprint, tempo=1)
    model.advance("r0c0")
    assert torch.equal(model(x), bare)
    scale = model.cell("r0c0").seed.scale
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        model.incubate(lambda: nn.functional.cross_entropy(model(x), y))
        optimizer.step()
    assert scale.abs().max() > 0
    assert model.advance("r0c0", WORTHY)
    before = model.eval()(x)
    model.tick()
    assert not torch.equal(model(x), before)
    assert model.advance("r0c0", WORTHY)
    assert model.fossilize("r0c0", WORTHY)
    assert optimizer.group_names == ["host"]
    assert torch.allclose(model.plain()(x), model(x), atol=1e-5)

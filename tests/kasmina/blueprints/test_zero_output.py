"""Seeds whose last layer starts at zero instead of their scale."""

import pytest
import torch
from cell_builders import FEATURES, IMAGES, LEARNING, SEQUENCES, STYLE_OF, case_id, inputs, loss, make_host, make_model
from torch import nn

from esper_ray.kasmina.blueprints import SlotShape, build_seed, register_blueprint, unregister_blueprint
from esper_ray.kasmina.blueprints.delta import Delta
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.leyline.actions import BlendOperator, Blueprint, GerminationStyle

OPTIONS = GrowthOptions(initialisation=dict.fromkeys(GerminationStyle, "zero_output"))
WITH_LAYER = {
    SEQUENCES: {"attention", "lora", "lora_large", "mlp", "mlp_small", "flex_attention"},
    FEATURES: {"lora", "lora_large", "mlp", "mlp_small"},
    IMAGES: set(),
}
"""Blueprints that end with a linear layer; all image bodies end with a norm or a gate."""


def germinate(topology, blueprint, operator, options):
    model = make_model(topology, options=options)
    model.germinate("r0c0", blueprint, style=STYLE_OF[operator])
    return model, inputs(topology)


@pytest.mark.parametrize(("topology", "blueprint", "operator"), LEARNING, ids=case_id)
def test_the_newborn_is_the_identity_and_only_last_layer_and_scale_differ(topology, blueprint, operator):
    model, x = germinate(topology, blueprint, operator, OPTIONS)
    other, _ = germinate(topology, blueprint, operator, GrowthOptions())
    assert torch.equal(model.eval()(x), make_host(topology).eval()(x))
    seed, random = (m.cell("r0c0").seed for m in (model, other))
    has_layer = blueprint.id in WITH_LAYER[topology]
    assert torch.equal(seed.scale, torch.ones_like(seed.scale) if has_layer else torch.zeros_like(seed.scale))
    zeroed = {name for name, weight in seed.body.named_parameters() if not weight.any()}
    last = {"project.weight", "project.bias"} if "attention" in blueprint.id else {"1.weight", "2.weight", "2.bias"}
    for name, weight in random.body.named_parameters():
        changed = has_layer and name in last and not ("mlp" in blueprint.id and name == "1.weight")
        assert (name in zeroed) == (changed or not weight.any()), name
        assert changed or torch.equal(dict(seed.body.named_parameters())[name], weight), name


def test_the_first_gradient_of_the_last_layer_is_the_outer_product_of_loss_gradient_and_hidden_features():
    seed = build_seed("mlp_small", SlotShape(FEATURES, 3))
    assert seed.start_at_output()
    h, g = torch.randn(5, 3), torch.randn(5, 3)
    (seed(h) * g).sum().backward()
    first, gelu, last = seed.body
    torch.testing.assert_close(last.weight.grad, g.T @ gelu(first(h)))
    torch.testing.assert_close(last.bias.grad, g.sum(dim=0))
    assert not first.weight.grad.any()


@pytest.mark.parametrize("blueprint", ["mlp_small", "lora", "attention"])
def test_the_first_steps_of_adam_change_the_output_many_times_as_much(blueprint):
    moved = {}
    for name in ("zero_scale", "zero_output"):
        options = GrowthOptions(initialisation=dict.fromkeys(GerminationStyle, name))
        model, x = germinate(SEQUENCES, Blueprint[blueprint.upper()], BlendOperator.ADD, options)
        model.advance("r0c0")
        seed = model.cell("r0c0").seed
        optimizer = torch.optim.Adam(seed.parameters(), lr=1e-3)
        for _ in range(5):
            optimizer.zero_grad()
            model.incubate(lambda model=model, x=x: loss(model(x)))
            optimizer.step()
        with torch.no_grad():
            with model.shadow():
                shadowed = model(x)
            moved[name] = float((shadowed - model.eval()(x)).norm())
    assert moved["zero_output"] > 5 * moved["zero_scale"] > 0


@pytest.fixture
def own():
    names = []

    def register(name, build):
        register_blueprint(name, FEATURES, build)
        names.append(name)
        return build_seed(name, SlotShape(FEATURES, 4))

    yield register
    for name in names:
        unregister_blueprint(name, FEATURES)


class Named(nn.Module):
    """A body that names the layer of its output."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.output_layer = nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, h):
        return self.output_layer(self.inner(h).relu())


@pytest.mark.parametrize(
    ("build", "zero"),
    [
        (lambda slot: Named(slot.channels), True),
        (lambda slot: nn.Sequential(nn.Linear(4, 4, bias=False)), True),
        (lambda slot: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), False),
        (lambda slot: nn.Sequential(), False),
        (lambda slot: nn.Linear(4, 4), False),
    ],
)
def test_the_last_layer_of_an_own_body_is_the_end_of_a_sequence_or_named(own, build, zero):
    seed = own("own", build)
    before = {name: value.clone() for name, value in seed.state_dict().items()}
    assert isinstance(seed, Delta)
    assert seed.start_at_output() is zero
    h = torch.randn(2, 4)
    assert not seed(h).any()
    assert bool(seed.scale.all()) is zero
    if not zero:
        assert all(torch.equal(value, before[name]) for name, value in seed.state_dict().items())

"""First weights of new channels that use the gradient of the loss."""

import pytest
import torch
from kasmina_builders import READY, named
from torch import nn

from esper_ray.kasmina import GrowthOptions, MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.spans.starting import outgoing_gradient
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.run import RunConfig

X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(64) % 3
PLACES = {"images": "a -> b", "head": "b -> c"}


def make_model(place, start):
    with seeded_initialisation(0):
        host = named(
            a=nn.Conv2d(3, 4, 3, padding=1),
            norm=nn.BatchNorm2d(4),
            act=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            b=nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
            gelu=nn.GELU(),
            flat=nn.Flatten(),
            c=nn.Linear(96, 3),
        )
    options = GrowthOptions(widening=start)
    return MorphogeneticModel.wrap(host, {"r0c0": place}, X[:2], rules=READY, options=options).eval()


def loss(model):
    return nn.functional.cross_entropy(model(X), Y)


def born(place, start):
    model = make_model(place, start)
    before = model(X)
    assert model.germinate("r0c0", "widen", channels=4, closure=lambda: loss(model))
    assert torch.equal(model(X), before)
    return model


def slope(model):
    """Norm of the gradient of the outgoing weights."""
    cell = model.cell("r0c0")
    model.advance("r0c0")
    with model.shadow():
        (gradient,) = torch.autograd.grad(loss(model), cell.seed.consumer.weight)
    return gradient.norm().item()


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_gradmax_raises_the_gradient_of_the_outgoing_weights(place):
    assert slope(born(place, "gradmax")) > 1.5 * slope(born(place, "random"))


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_first_step_of_tiny_lowers_the_loss_more(place):
    """A step of the outgoing weights along the best direction, with a line search, from either start."""
    reached = {}
    for start in ("random", "tiny"):
        model = born(place, start)
        model.advance("r0c0")
        weight = model.cell("r0c0").seed.consumer.weight
        optimizer = torch.optim.LBFGS([weight], max_iter=15, line_search_fn="strong_wolfe")
        with model.shadow():

            def closure(model=model, weight=weight):
                weight.grad = None
                value = loss(model)
                (weight.grad,) = torch.autograd.grad(value, [weight])
                return value

            optimizer.step(closure)
            reached[start] = loss(model).item()
    assert reached["tiny"] < reached["random"]


@pytest.mark.parametrize("start", ["gradmax", "tiny"])
def test_producers_keep_their_norm_and_equal_births_are_equal(start):
    first, second, random = (born("a -> b", each).cell("r0c0").seed for each in (start, start, "random"))
    assert torch.equal(first.producer.weight, second.producer.weight)
    assert not torch.equal(first.producer.weight, random.producer.weight)
    torch.testing.assert_close(first.producer.weight.norm(), random.producer.weight.norm())
    assert not first.consumer.weight.any()


def test_the_gradient_of_the_outgoing_weights_is_that_of_the_loss():
    model = born("a -> b", "random")
    cell = model.cell("r0c0")
    model.advance("r0c0")
    outputs = {}
    model.host.b.register_forward_hook(lambda _m, _i, output: outputs.setdefault("y", output))
    source = X
    with model.shadow():
        value = loss(model)
        (gradient,) = torch.autograd.grad(value, outputs["y"], retain_graph=True)
        (expected,) = torch.autograd.grad(value, cell.seed.consumer.weight)
    torch.testing.assert_close(outgoing_gradient(cell.seed.eval(), source, gradient), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("start", ["gradmax", "tiny"])
def test_a_birth_without_a_loss_is_refused_and_changes_nothing(start):
    model = make_model("a -> b", start)
    with pytest.raises(ValueError, match=f"slot r0c0: channels that start with {start} need a loss at birth"):
        model.germinate("r0c0", "widen")
    assert model.states["r0c0"] is None
    assert model.cell("r0c0").seed is None


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="unknown start of a widening 'tinny'"):
        GrowthOptions(widening="tinny")
    assert RunConfig().growth.initialisation.widen == "paired"
    assert build({}, {"growth.initialisation.widen": "tiny"}).growth.initialisation.widen == "tiny"

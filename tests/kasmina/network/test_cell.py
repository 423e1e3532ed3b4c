"""Seed cell: output and gradients in every stage, and incubation."""

import pytest
import torch
from cell_builders import (
    IMAGES,
    READY,
    awaken,
    backward,
    born,
    case_id,
    features,
    gradients,
    inputs,
    lead,
    loss,
    make_host,
    make_model,
    noise,
    same_tensors,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper_ray.kasmina.blueprints import SlotShape
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.cell import Incubation, SeedCell, StraightThrough
from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.stages import AMPLIFIED, COOLDOWN, IN_FORWARD, Stage

STRAIGHT = Incubation("straight_through")
BOTH = pytest.mark.parametrize("incubation", [Incubation(), STRAIGHT], ids=["shadow", "straight"])
TWO = {"r0c0": "stem", "r0c1": "deep"}


class Constant(nn.Module):
    """A change that does not depend on the features."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, h):
        return self.value * torch.ones_like(h)


class Wide(nn.Module):
    """A change in double precision."""

    def forward(self, h):
        return h.double()


class Forbidden(nn.Module):
    def forward(self, h):
        raise AssertionError("the seed was called")


def cell_with(seed, stage, alpha=0.0, incubation=STRAIGHT):
    cell = SeedCell(SlotShape(IMAGES, 2), (2, 4, 4), incubation)
    cell.seed, cell.stage, cell.open = seed, stage, alpha > 0
    cell.alpha.fill_(alpha)
    return cell


def poison(cell, value=float("nan")):
    with torch.no_grad():
        for parameter in cell.learnable():
            parameter.fill_(value)


# Where the seed is not called


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_or_germinated_slot_returns_its_input_and_calls_no_seed(incubation, training):
    h = features(IMAGES, 2)
    assert cell_with(None, Stage.DORMANT, incubation=incubation).train(training)(h) is h
    assert cell_with(Forbidden(), Stage.GERMINATED, incubation=incubation).train(training)(h) is h


@pytest.mark.parametrize("stage", sorted(COOLDOWN))
def test_a_slot_in_cooldown_returns_its_input(stage):
    h = features(IMAGES, 2)
    assert cell_with(None, stage)(h) is h


@pytest.mark.parametrize(("incubation", "training"), [(STRAIGHT, False), (Incubation(), False), (Incubation(), True)])
def test_a_seed_in_training_is_called_only_straight_through_in_training_mode(incubation, training):
    h = features(IMAGES, 2)
    assert cell_with(Forbidden(), Stage.TRAINING, incubation=incubation).train(training)(h) is h
    with pytest.raises(AssertionError, match="the seed was called"):
        cell_with(Forbidden(), Stage.TRAINING, incubation=STRAIGHT)(h)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_seed_contributes_above_amplitude_zero_and_incubates_below(stage, alpha):
    cell = cell_with(Constant(1.0), stage, alpha)
    assert cell.contributes is (stage in AMPLIFIED and alpha > 0)
    assert cell.incubates is (stage in IN_FORWARD and alpha == 0)
    empty = cell_with(None, stage, alpha)
    assert (empty.contributes, empty.incubates) == (False, False)


def test_an_empty_slot_has_nothing_to_blend():
    with pytest.raises(RuntimeError, match="nothing to blend"):
        cell_with(None, Stage.DORMANT).blended(features(IMAGES, 2))


# Straight through


def test_the_straight_through_gradient_is_the_same_for_features_and_change():
    h, weights = features(IMAGES, 2).requires_grad_(), features(IMAGES, 2, seed=9)
    seed = Constant(0.0)
    out = cell_with(seed, Stage.TRAINING)(h)
    assert torch.equal(out, h)
    (out * weights).sum().backward()
    assert torch.equal(h.grad, weights)
    assert seed.value.grad.item() == pytest.approx(weights.sum().item(), rel=1e-5)


@given(
    number=st.integers(0, 10_000),
    size=st.floats(0.0, 3.0),
    weight=st.floats(0.0, 20.0),
    bound=st.floats(0.0, 1.0),
)
def test_the_trust_region_is_the_gradient_of_the_squared_excess(number, size, weight, bound):
    h, g = noise(3, 2, 4, 4, seed=number), noise(3, 2, 4, 4, seed=number + 1)
    d = (size * noise(3, 2, 4, 4, seed=number + 2)).requires_grad_()
    excess = ((d.square().mean() + 1e-12).sqrt() / h.square().mean().sqrt() - bound).clamp_min(0)
    (wanted,) = torch.autograd.grad(weight * excess.square(), d)
    (actual,) = torch.autograd.grad((StraightThrough.apply(h, d, weight, bound) * g).sum(), d)
    assert torch.allclose(actual - g, wanted, atol=2e-6, rtol=1e-4)


def test_the_trust_region_by_hand_above_and_below_the_bound():
    h = torch.full((1, 2), 2.0)
    # change 4: ratio 2, excess 7/4; slope of 10 e^2 is 20 * 7/4, of the ratio 1/2 * 1/2 in each of the two numbers
    for change, pull in ((4.0, 8.75), (-4.0, -8.75), (0.5, 0.0), (0.4, 0.0)):
        d = torch.full((1, 2), change, requires_grad=True)
        StraightThrough.apply(h, d, 10.0, 0.25).backward(torch.zeros(1, 2))
        assert d.grad.flatten().tolist() == pytest.approx([pull] * 2, rel=1e-5)


@pytest.mark.parametrize("features_value", [1.0, 0.0])
def test_a_newborn_seed_has_finite_gradients_on_zero_features(features_value):
    seed = born(SlotShape(IMAGES, 2), Blueprint.NORM)
    cell_with(seed, Stage.TRAINING)(torch.full((2, 2, 4, 4), features_value)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in seed.parameters())


# A model with seeds in training against one without


@BOTH
@pytest.mark.parametrize("topology", list(Topology), ids=case_id)
@pytest.mark.parametrize("operator", list(BlendOperator), ids=case_id)
def test_seeds_in_training_do_not_change_output_host_gradients_or_buffers(topology, operator, incubation):
    plain, model, x = make_host(topology), make_model(topology, TWO, incubation=incubation), inputs(topology)
    cells = [awaken(lead(model, Stage.TRAINING, "norm", operator, slot=slot)) for slot in TWO]
    assert torch.equal(plain(x), model(x))
    backward(plain, x)
    backward(model, x)
    generator = torch.get_rng_state()
    model.incubate(lambda: loss(model(x)))
    assert torch.equal(torch.get_rng_state(), generator)
    assert same_tensors(gradients(plain), gradients(model.host))
    assert same_tensors(dict(plain.named_buffers()), dict(model.host.named_buffers()))
    assert all(cell.seed.scale.grad.abs().max() > 0 for cell in cells)
    assert all(module.training for module in model.modules())


@BOTH
@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.BLENDING], ids=case_id)
@pytest.mark.parametrize("operator", list(BlendOperator), ids=case_id)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nonfinite_seed_at_amplitude_zero_does_not_change_the_host(incubation, stage, operator, value):
    plain, model, x = make_host(IMAGES), make_model(IMAGES, incubation=incubation), inputs(IMAGES)
    cell = lead(model, stage, "conv_light", operator, alpha=0.0)
    poison(cell, value)
    backward(plain, x)
    backward(model, x)
    model.incubate(lambda: loss(model(x)))
    assert same_tensors(gradients(plain), gradients(model.host))
    assert all(torch.isfinite(g).all() for g in gradients(model.host).values())
    assert torch.equal(plain(x), model(x))
    assert torch.equal(plain.eval()(x), model.eval()(x))


# Shadow


@pytest.mark.parametrize("topology", list(Topology), ids=case_id)
@pytest.mark.parametrize("operator", list(BlendOperator), ids=case_id)
def test_shadow_gradients_are_those_of_the_loss_with_both_seeds_on(topology, operator):
    model, x = make_model(topology, TWO), inputs(topology)
    cells = [awaken(lead(model, Stage.TRAINING, "norm", operator, slot=slot)) for slot in TWO]
    model.incubate(lambda: loss(model(x)))
    incubated = [gradients(cell) for cell in cells]

    twin = make_model(topology, TWO)
    on = [awaken(lead(twin, Stage.BLENDING, "norm", operator, slot=slot, alpha=1.0)) for slot in TWO]
    backward(twin.eval(), x)
    for actual, wanted in zip(incubated, (gradients(cell) for cell in on), strict=True):
        assert actual.keys() == wanted.keys()
        for name, gradient in wanted.items():
            assert gradient.abs().max() > 0, name
            assert torch.allclose(actual[name], gradient, atol=1e-7, rtol=1e-5), name
    assert not torch.allclose(incubated[0]["seed.scale"], incubated[1]["seed.scale"])


def test_shadow_does_not_change_the_gradients_of_a_blending_seed():
    model, x = make_model(IMAGES, TWO), inputs(IMAGES)
    blending = awaken(lead(model, Stage.BLENDING, slot="r0c0", alpha=0.37))
    training = lead(model, Stage.TRAINING, slot="r0c1")
    backward(model, x)
    before = gradients(model)
    model.incubate(lambda: loss(model(x)))
    after = gradients(model)
    changed = {name for name in after if not same_tensors({"": before[name]}, {"": after[name]})}
    assert changed == {f"cells.r0c1.{name}" for name, _ in training.named_parameters()}
    assert blending.seed.scale.grad.abs().max() > 0


def test_without_shadowed_seeds_incubation_does_not_run_the_loss():
    def forbidden():
        raise AssertionError("the loss was computed")

    straight = make_model(IMAGES, incubation=STRAIGHT)
    lead(straight, Stage.TRAINING)
    straight.incubate(forbidden)
    germinated = make_model(IMAGES)
    lead(germinated, Stage.GERMINATED)
    germinated.incubate(forbidden)
    blending = make_model(IMAGES)
    lead(blending, Stage.BLENDING, alpha=0.5)
    blending.incubate(forbidden)


def test_an_error_in_the_loss_leaves_the_model_unchanged():
    model, x = make_model(IMAGES), inputs(IMAGES)
    awaken(lead(model, Stage.TRAINING))
    wanted = model(x)
    modes = {name: module.training for name, module in model.named_modules()}

    def broken():
        model(x)
        raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        model.incubate(broken)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(model(x), wanted)
    assert all(gradient is None for gradient in gradients(model).values())


# At amplitude


@pytest.mark.parametrize("stage", [Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED], ids=case_id)
@pytest.mark.parametrize("training", [True, False])
def test_an_amplified_seed_adds_its_change_times_alpha(stage, training):
    h = torch.tensor([1.0, -2.0]).reshape(1, 2, 1, 1)
    out = cell_with(Constant(4.0), stage, alpha=0.25).train(training)(h)
    assert out.flatten().tolist() == [2.0, -1.0]


@pytest.mark.parametrize("alpha", [0.37, 1.0])
def test_adding_keeps_the_factor_one_on_the_host_path(alpha):
    h, weights = features(IMAGES, 2).requires_grad_(), features(IMAGES, 2, seed=9)
    (cell_with(Constant(3.0), Stage.FOSSILIZED, alpha=alpha)(h) * weights).sum().backward()
    assert torch.equal(h.grad, weights)


@pytest.mark.parametrize("alpha", [0.37, 1.0])
def test_the_upstream_gradient_is_host_path_plus_alpha_times_seed_path(alpha):
    cell, weights = (
        awaken(cell_with(born(SlotShape(IMAGES, 2), "conv_light"), Stage.BLENDING, alpha)),
        noise(4, 2, 4, 4),
    )
    h = features(IMAGES, 2).requires_grad_()
    (through_seed,) = torch.autograd.grad((cell.seed(h) * weights).sum(), h)
    (whole,) = torch.autograd.grad((cell(h) * weights).sum(), h)
    assert through_seed.abs().max() > 0
    assert torch.allclose(whole, weights + alpha * through_seed, atol=1e-6)


def test_the_output_keeps_the_type_of_the_features():
    h = features(IMAGES, 2)
    out = cell_with(Wide(), Stage.BLENDING, 0.5)(h)
    assert out.dtype is torch.float32
    assert torch.allclose(out, 1.5 * h)


@BOTH
@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.BLENDING], ids=case_id)
def test_an_in_place_layer_of_the_user_may_follow_a_slot(incubation, stage):
    host = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 3))
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, noise(1, 1, 4, 4), rules=READY, incubation=incubation)
    cell, x = awaken(lead(model, stage, "conv_light")), noise(4, 1, 4, 4)
    backward(model, x)
    model.incubate(lambda: loss(model(x)))
    assert host[0].weight.grad.abs().max() > 0
    assert cell.seed.scale.grad.abs().max() > 0


def test_the_amplitude_is_the_same_tensor_in_every_stage():
    model = make_model(IMAGES)
    cell = model.cell("r0c0")
    alpha = cell.alpha
    lead(model, Stage.BLENDING, alpha=0.5)
    assert cell.alpha is alpha
    assert alpha.item() == 0.5
    model.prune("r0c0")
    assert cell.alpha is alpha
    assert alpha.item() == 0.0
    assert "cells.r0c0.alpha" in model.state_dict()

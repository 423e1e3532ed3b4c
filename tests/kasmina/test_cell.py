import pytest
import torch
from kasmina_builders import SLOTS, images, make_host, make_organism, named, order, wake
from kasmina_builders import grow as grow_in
from torch import nn

from esper_ray.kasmina.blueprints import blueprint_spec, seeded_initialisation
from esper_ray.kasmina.cell import SeedCell
from esper_ray.kasmina.lifecycle import Advance, Prune
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.stages import COOLDOWN, Stage

LABELS = torch.tensor([0, 1, 2, 0])


class Constant(nn.Module):
    """A change that does not depend on the features."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, h):
        return self.value * torch.ones_like(h)


class Forbidden(nn.Module):
    def forward(self, h):
        raise AssertionError("the seed was called")


def cell_with(seed, stage, alpha=0.0, channels=2):
    cell = SeedCell(channels)
    cell.seed, cell.stage = seed, stage
    cell.alpha.fill_(alpha)
    return cell


def awake(blueprint=Blueprint.CONV_LIGHT, channels=2):
    with seeded_initialisation(4):
        seed = blueprint_spec(blueprint).build(channels)
    wake(seed)
    return seed


def backward(module, x):
    nn.functional.cross_entropy(module(x), LABELS).backward()


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_or_germinated_slot_returns_its_input_and_calls_nothing(training):
    h = images(2, channels=2)
    assert SeedCell(2).train(training)(h) is h
    assert cell_with(Forbidden(), Stage.GERMINATED).train(training)(h) is h


@pytest.mark.parametrize("stage", sorted(COOLDOWN))
def test_a_cooling_slot_returns_its_input(stage):
    h = images(2, channels=2)
    assert cell_with(None, stage)(h) is h


def test_in_evaluation_a_seed_in_training_is_not_even_called():
    h = images(2, channels=2)
    assert cell_with(Forbidden(), Stage.TRAINING).eval()(h) is h


def test_straight_through_gradient_goes_to_features_and_change_alike():
    h = images(2, channels=2).requires_grad_()
    seed = Constant(3.0)
    out = cell_with(seed, Stage.TRAINING)(h)
    assert torch.equal(out, h)
    weights = images(2, seed=9, channels=2)
    (out * weights).sum().backward()
    assert torch.equal(h.grad, weights)
    assert seed.value.grad.item() == pytest.approx(weights.sum().item(), rel=1e-5)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_even_a_broken_seed_in_training_does_not_reach_the_output(value):
    h = images(2, channels=2)
    assert torch.equal(cell_with(Constant(value), Stage.TRAINING)(h), h)


@pytest.mark.parametrize("slots", [("r0c0",), ("r0c1",), SLOTS])
def test_host_and_output_do_not_notice_seeds_in_training(slots):
    organism = make_organism()
    for slot in slots:
        grow_in(organism, slot, Stage.TRAINING)
        wake(organism.model.cell(slot).seed)
    plain, grown, x = make_host(), organism.model, images(4)
    assert torch.equal(grown(x), plain(x))
    backward(plain, x)
    backward(grown, x)
    for (name, alone), (_, together) in zip(plain.named_parameters(), grown.host.named_parameters(), strict=True):
        assert torch.equal(alone.grad, together.grad), name
    for (name, alone), (_, together) in zip(plain.named_buffers(), grown.host.named_buffers(), strict=True):
        assert torch.equal(alone, together), name
    for slot in slots:
        for name, parameter in grown.cell(slot).seed.named_parameters():
            assert parameter.grad.abs().max() > 0, name


def test_the_penalty_of_incubation_pulls_at_the_seed_and_never_at_the_host():
    organism = make_organism()
    grow_in(organism, "r0c1", Stage.TRAINING)
    wake(organism.model.cell("r0c1").seed, 5.0)
    organism.model(images(4))
    organism.model.incubation_excess().backward()
    assert all(parameter.grad is None for parameter in organism.model.host.parameters())
    assert organism.model.cell("r0c1").seed.scale.grad.abs().max() > 0


@pytest.mark.parametrize(("change", "excess"), [(1.0, 0.0625), (-1.0, 0.0625), (2.0, 0.5625), (0.5, 0.0), (0.0, 0.0)])
def test_the_excess_is_the_squared_ratio_beyond_the_bound(change, excess):
    cell = cell_with(Constant(change), Stage.TRAINING)  # bound 1/4, features 2: free up to a change of 1/2
    cell(torch.full((3, 2, 4, 4), 2.0))
    assert cell.excess.item() == pytest.approx(excess, abs=1e-6)


@pytest.mark.parametrize("features", [1.0, 0.0])
def test_a_newborn_seed_has_no_excess_and_finite_gradients_even_on_dead_features(features):
    seed = blueprint_spec(Blueprint.NORM).build(2)
    cell = cell_with(seed, Stage.TRAINING)
    cell(torch.full((2, 2, 4, 4), features)).sum().backward(retain_graph=True)
    cell.excess.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in seed.parameters())
    assert cell.excess.item() == 0.0


@pytest.mark.parametrize("stage", [Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED])
@pytest.mark.parametrize("training", [True, False])
def test_an_amplified_seed_adds_its_change_times_alpha(stage, training):
    h = torch.tensor([1.0, -2.0]).reshape(1, 2, 1, 1)
    out = cell_with(Constant(4.0), stage, alpha=0.25).train(training)(h)
    assert out.flatten().tolist() == [2.0, -1.0]


def test_at_amplitude_zero_the_output_is_the_input():
    h = images(2, channels=2)
    assert torch.equal(cell_with(awake(), Stage.BLENDING, alpha=0.0)(h), h)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_adding_keeps_the_factor_one_on_the_host_path(alpha):
    h = images(2, channels=2).requires_grad_()
    weights = images(2, seed=9, channels=2)
    (cell_with(Constant(3.0), Stage.FOSSILIZED, alpha=alpha)(h) * weights).sum().backward()
    assert torch.equal(h.grad, weights)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_gradient_upstream_is_the_host_path_plus_alpha_times_the_path_through_the_seed(alpha):
    seed, weights = awake(), images(2, seed=9, channels=2)
    h = images(2, channels=2).requires_grad_()
    (through_seed,) = torch.autograd.grad((seed(h) * weights).sum(), h)
    (whole,) = torch.autograd.grad((cell_with(seed, Stage.BLENDING, alpha=alpha)(h) * weights).sum(), h)
    assert through_seed.abs().max() > 0
    assert torch.allclose(whole, weights + alpha * through_seed, atol=1e-6)


def test_an_empty_slot_has_nothing_to_blend():
    with pytest.raises(RuntimeError, match="nothing to blend"):
        SeedCell(2).blended(images(1, channels=2))


@pytest.mark.parametrize("stage", Stage)
def test_a_seed_contributes_exactly_where_it_changes_the_output(stage):
    holds = stage in (Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
    assert cell_with(Constant(1.0), stage).contributes is holds
    assert cell_with(None, stage).contributes is False


@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.BLENDING])
def test_an_in_place_layer_of_the_user_may_follow_a_slot(stage):
    host = named(
        conv=nn.Conv2d(1, 2, 3, padding=1), relu=nn.ReLU(inplace=True), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()
    )
    model = MorphogeneticModel.wrap(host, {"r0c0": "conv"}, images(1))
    cell = model.cell("r0c0")
    cell.seed, cell.stage = awake(), stage
    cell.alpha.fill_(0.5)
    model(images(2)).sum().backward()
    assert host.conv.weight.grad.abs().max() > 0
    assert cell.seed.scale.grad.abs().max() > 0


def test_the_amplitude_is_one_tensor_for_life():
    organism = make_organism()
    cell = organism.model.cell("r0c0")
    alpha = cell.alpha
    grow_in(organism, "r0c0", Stage.BLENDING)
    assert cell.alpha is alpha
    assert alpha.item() == 1.0
    order(organism, "r0c0", Advance())
    order(organism, "r0c0", Prune(0))
    assert cell.alpha is alpha
    assert alpha.item() == 0.0
    assert "cells.r0c0.alpha" in organism.model.state_dict()

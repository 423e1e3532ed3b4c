"""Incubation: its settings, and isolation of the host from nonfinite or in-place seeds."""

import copy
import math

import pytest
import torch
from cell_builders import (
    ADD,
    IMAGES,
    MATRIX,
    awaken,
    case_id,
    gradients,
    inputs,
    lead,
    loss,
    make_host,
    make_model,
    same_tensors,
)
from kasmina_builders import READY, wake
from torch import nn
from torch.utils.checkpoint import checkpoint
from variants import rest_at_night

from esper_ray.kasmina.blueprints import register_blueprint, unregister_blueprint
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.cell import Incubation
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.leyline.stages import Stage

STRAIGHT = Incubation("straight_through")


def test_the_defaults_are_a_shadow_pass_and_a_quarter_of_the_features():
    assert Incubation() == Incubation("shadow", 10.0, 0.25, 1.0)


def test_an_unknown_method_is_an_error_with_the_nearest_one():
    with pytest.raises(ValueError, match="unknown method of incubation 'straight-through'; did you mean 'straight_"):
        Incubation("straight-through")


@pytest.mark.parametrize(("weight", "bound"), [(-1.0, 0.25), (10.0, -0.1), (float("nan"), 0.25), (10.0, float("nan"))])
def test_weight_and_bound_are_not_negative(weight, bound):
    with pytest.raises(ValueError, match="weight and bound of incubation must be >= 0"):
        Incubation("straight_through", weight, bound)
    assert Incubation("straight_through", 0.0, 0.0).bound == 0.0


def incubating(host=None, example=None, **options):
    torch.manual_seed(0)
    host = host or nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model = MorphogeneticModel.wrap(
        host, {"r0c0": "0"}, torch.zeros(2, 4) if example is None else example, rules=READY, **options
    )
    assert model.germinate("r0c0", "mlp")
    assert model.advance("r0c0")
    wake(model.cell("r0c0").seed)
    return model, model.cell("r0c0").learnable()


def norm_of(parameters):
    return torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters]))


def test_incubation_clips_the_gradient_of_a_seed_and_says_so_once():
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    free, unclipped = incubating(incubation=Incubation(clip=None))
    free.incubate(lambda: free(x).square().sum())
    assert norm_of(unclipped) > 1.0
    model, parameters = incubating(incubation=Incubation(clip=0.5))
    with pytest.warns(UserWarning, match=r"incubation clips the gradient of the seed in r0c0: .* the limit is 0.5"):
        model.incubate(lambda: model(x).square().sum())
    assert torch.isclose(norm_of(parameters), torch.tensor(0.5), atol=1e-4)
    directions = [(p.grad * norm_of(unclipped) / 0.5, q.grad) for p, q in zip(parameters, unclipped, strict=True)]
    assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in directions)
    model.incubate(lambda: model(x).square().sum())  # a second warning would be an error here


def test_a_gradient_below_the_limit_is_left_as_it_is():
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    free, unclipped = incubating(incubation=Incubation(clip=None))
    free.incubate(lambda: free(x).square().mean() * 1e-3)
    model, parameters = incubating()
    model.incubate(lambda: model(x).square().mean() * 1e-3)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(parameters, unclipped, strict=True))


def test_a_limit_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="clip of incubation must be > 0, got 0"):
        Incubation(clip=0.0)


def test_a_loss_that_does_not_reach_the_seed_is_a_warning():
    model, _ = incubating()
    with pytest.warns(UserWarning, match="the loss for incubation does not reach the seed in r0c0"):
        model.incubate(model.host[1].weight.sum)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x):
        h = self.stem(x)
        h = self.block(h) if self.reentrant is None else checkpoint(self.block, h, use_reentrant=self.reentrant)
        return self.head(h.relu())


def gradients_under(reentrant, initialisation, x):
    torch.manual_seed(3)
    options = GrowthOptions(initialisation={"linear_add": initialisation})
    model = MorphogeneticModel.wrap(
        Checkpointed(reentrant), {"r0c0": "block"}, torch.zeros(2, 4), rules=READY, options=options
    )

    def loss():
        return model(x).square().mean()

    model.germinate("r0c0", "mlp", style="linear_add", closure=loss)
    model.advance("r0c0")
    loss().backward()
    model.incubate(loss)
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("initialisation", ["zero_scale", "gradmax"])
def test_checkpointing_of_either_kind_leaves_the_gradients_of_a_seed(reentrant, initialisation):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    expected, actual = (gradients_under(kind, initialisation, x) for kind in (None, reentrant))
    assert actual["cells.r0c0.seed.scale"].abs().sum() > 0
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "blueprint", "operator"), MATRIX, ids=case_id)
@pytest.mark.parametrize("stage", rest_at_night([Stage.TRAINING, Stage.BLENDING]), ids=case_id)
@pytest.mark.parametrize("incubation", [Incubation(), STRAIGHT], ids=["shadow", "straight"])
def test_a_seed_full_of_nan_at_amplitude_zero_does_not_change_the_host(
    topology, blueprint, operator, stage, incubation
):
    plain, model, x = make_host(topology), make_model(topology, incubation=incubation), inputs(topology)
    cell = lead(model, stage, blueprint, operator, alpha=0.0)
    with torch.no_grad():
        for parameter in cell.learnable():
            parameter.fill_(float("nan"))
    wanted, output = plain(x), model(x)
    assert torch.equal(output, wanted)
    assert torch.isfinite(output).all()
    loss(wanted).backward()
    loss(output).backward()
    model.incubate(lambda: loss(model(x)))
    assert same_tensors(gradients(plain), gradients(model.host))
    assert all(torch.isfinite(g).all() for g in gradients(model.host).values())
    assert same_tensors(dict(plain.named_buffers()), dict(model.host.named_buffers()))


@pytest.mark.parametrize("incubation", [Incubation(), STRAIGHT], ids=["shadow", "straight"])
def test_ten_training_steps_with_an_incubating_seed_equal_those_without(incubation):
    plain, model, x = make_host(IMAGES), make_model(IMAGES, incubation=incubation), inputs(IMAGES)
    cell = awaken(lead(model, Stage.TRAINING, "conv_light", ADD))
    born = {name: p.detach().clone() for name, p in cell.named_parameters()}
    for _ in range(10):
        for module in (plain, model):
            module.zero_grad()
            loss(module(x)).backward()
        model.incubate(lambda: loss(model(x)))
        with torch.no_grad():
            for parameter in (*plain.parameters(), *model.parameters()):
                parameter.sub_(0.1 * parameter.grad)
    assert same_tensors(plain.state_dict(), model.host.state_dict())
    assert all(not torch.equal(p, born[name]) for name, p in cell.named_parameters())


class ModeRecorder(nn.Module):
    """Body that records the training mode of each call."""

    def __init__(self, modes):
        super().__init__()
        self.modes = modes

    def forward(self, h):
        self.modes.append(self.training)
        return h


def test_in_the_shadow_pass_the_seed_is_in_training_mode_and_the_host_is_not():
    seed_modes, host_modes = [], []
    register_blueprint("watching", IMAGES, lambda slot: ModeRecorder(seed_modes))
    try:
        model, x = make_model(IMAGES), inputs(IMAGES)
        cell = lead(model, Stage.TRAINING, "watching")
    finally:
        unregister_blueprint("watching", IMAGES)
    cell.seed.body.modes = seed_modes  # germination probes a copy
    model.host.norm.register_forward_hook(lambda module, _i, _o: host_modes.append(module.training))
    for mode in (True, False):
        seed_modes.clear()
        host_modes.clear()
        model.train(mode).incubate(lambda: loss(model(x)))
        assert (seed_modes, host_modes) == ([True], [False])
        assert {module.training for module in model.modules()} == {mode}


@pytest.fixture
def preactivated():
    """An own body that begins with an in-place layer, as pre-activation blocks do."""
    register_blueprint(
        "preactivated",
        IMAGES,
        lambda slot: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(slot.channels, slot.channels, 1)),
    )
    yield "preactivated"
    unregister_blueprint("preactivated", IMAGES)


@pytest.mark.parametrize("incubation", [Incubation(), STRAIGHT], ids=["shadow", "straight"])
def test_a_body_that_changes_its_input_in_place_is_refused(preactivated, incubation):
    """It would change the host's output at birth, even in TRAINING where it learns straight through."""
    model, x = make_model(IMAGES, incubation=incubation), inputs(IMAGES)
    with pytest.raises(ValueError, match="slot r0c0: the seed works in place"):
        model.germinate("r0c0", preactivated)
    assert (model.cell("r0c0").seed, model.states["r0c0"]) == (None, None)
    assert torch.equal(model(x), make_host(IMAGES)(x))


def test_a_nonfinite_seed_does_not_change_other_incubating_seeds():
    host = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    slots = {"r0c0": "0", "r0c1": "1", "r0c2": "2"}
    model = MorphogeneticModel.wrap(host, slots, torch.zeros(2, 4), rules=READY, incubation=Incubation(clip=None))
    for slot in slots:
        assert model.germinate(slot, "mlp")
        assert model.advance(slot)
    alone = copy.deepcopy(model)
    alone.prune("r0c1")
    with torch.no_grad():
        for parameter in model.cell("r0c1").learnable():
            parameter.fill_(math.nan)
    x = torch.randn(8, 4)
    for grown in (model, alone):
        grown.incubate(lambda grown=grown: grown(x).square().sum())
    for slot in ("r0c0", "r0c2"):
        for mine, expected in zip(model.cell(slot).learnable(), alone.cell(slot).learnable(), strict=True):
            assert torch.equal(mine.grad, expected.grad)
    assert any(p.grad.abs().max() > 0 for p in model.cell("r0c0").learnable())


def test_incubation_gradients_of_parts_of_a_batch_add_up():
    host = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    unclipped = Incubation(clip=None)
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 4), rules=READY, incubation=unclipped)
    assert model.germinate("r0c0", "mlp")
    assert model.advance("r0c0")
    wake(model.cell("r0c0").seed)
    x = torch.randn(8, 4)
    model.incubate(lambda: model(x).square().sum())
    whole = [p.grad.clone() for p in model.cell("r0c0").learnable()]
    for parameter in model.parameters():
        parameter.grad = None
    for part in x.split(4):
        model.incubate(lambda part=part: model(part).square().sum())
    for parameter, expected in zip(model.cell("r0c0").learnable(), whole, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-5, atol=1e-6)

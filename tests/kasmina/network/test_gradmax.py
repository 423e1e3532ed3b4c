"""GradMax initialisation: larger birth gradients without side effects."""

import pytest
import torch
from cell_builders import (
    ADD,
    FEATURES,
    IMAGES,
    LEARNING,
    MULTIPLY,
    READY,
    SEQUENCES,
    STYLE_OF,
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
from torch import nn

from esper_ray.kasmina.blueprints import SlotShape, register_blueprint, unregister_blueprint
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.cell import Incubation, SeedCell
from esper_ray.kasmina.network.gradmax import birth_gradient, maximise_birth_gradient
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.stages import Stage

GRADMAX = GrowthOptions(initialisation=dict.fromkeys(GerminationStyle, "gradmax"))
FLAT = (Blueprint.NORM,)  # has no weight matrices


def germinate(topology, blueprint, operator, options=GRADMAX):
    model, x = make_model(topology, options=options), inputs(topology)
    model.germinate("r0c0", blueprint, style=STYLE_OF[operator], closure=lambda: loss(model(x)))
    return model, x


def scale_gradient(model, x):
    """Gradient of the loss in the output scale at birth, at amplitude 1 and in evaluation mode."""
    model.zero_grad()
    with model.eval().shadow():
        loss(model(x)).backward()
    return model.cell("r0c0").seed.scale.grad.flatten()


def to_training(model):
    model.advance("r0c0")
    return model


def weights_of(model):
    return dict(model.cell("r0c0").seed.body.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "blueprint", "operator"), LEARNING, ids=case_id)
def test_gradmax_enlarges_the_birth_gradient_and_changes_weight_matrices_only(topology, blueprint, operator):
    chosen, x = germinate(topology, blueprint, operator)
    random, _ = germinate(topology, blueprint, operator, GrowthOptions())
    random_weights = weights_of(random)
    assert torch.equal(chosen.eval()(x), make_host(topology).eval()(x))
    for name, weight in weights_of(chosen).items():
        if weight.dim() == 1:
            assert torch.equal(weight, random_weights[name]), name
        else:
            assert not torch.equal(weight, random_weights[name]), name
            assert weight.norm().item() == pytest.approx(random_weights[name].norm().item(), rel=1e-4), name
    norms = [scale_gradient(to_training(model), x).norm().item() for model in (chosen, random)]
    assert norms[0] == norms[1] if blueprint in FLAT else norms[0] > 1.05 * norms[1]


def test_gradmax_enlarges_the_birth_gradient_of_a_convolution():
    chosen, x = germinate(IMAGES, Blueprint.CONV_SMALL, ADD)
    random, _ = germinate(IMAGES, Blueprint.CONV_SMALL, ADD, GrowthOptions())
    assert torch.equal(chosen.eval()(x), make_host(IMAGES).eval()(x))
    assert scale_gradient(to_training(chosen), x).norm() > 1.5 * scale_gradient(to_training(random), x).norm()


class Linear(nn.Module):
    """A linear host on fixed features, whose loss has a known gradient at the slot."""

    def __init__(self, target):
        super().__init__()
        self.place, self.weight, self.target = nn.Identity(), nn.Parameter(torch.ones(())), target

    def forward(self, h):
        return (self.place(h * self.weight) * self.target).sum()


@pytest.mark.parametrize("operator", [ADD, MULTIPLY], ids=case_id)
def test_gradmax_of_a_linear_body_is_near_the_optimum(operator):
    """For d = s * (W h), dL/ds_c = w_c . (sum g_c h), with g_c h_c for g_c where the change multiplies.

    Of all W with |W| = n the best puts n on the longest row.
    """
    h, g = noise(32, 6), noise(32, 6, seed=1)
    g[:, 2] *= 3  # where two rows are almost as long, the climb takes much longer to decide
    register_blueprint("matrix", FEATURES, lambda slot: nn.Linear(slot.channels, slot.channels, bias=False))
    try:
        model = MorphogeneticModel.wrap(Linear(g), {"r0c0": "place"}, h, rules=READY, options=GRADMAX)
        model.germinate("r0c0", "matrix", style=STYLE_OF[operator], closure=lambda: model(h))
    finally:
        unregister_blueprint("matrix", FEATURES)
    slope = g * h if operator is MULTIPLY else g
    seed, rows = model.cell("r0c0").seed, slope.T @ h
    best = seed.body.weight.norm() * rows.norm(dim=1).max()
    reached = birth_gradient(seed.body, model.cell("r0c0"), h, slope).norm()
    assert torch.allclose(reached, (seed.body.weight * rows).sum(1).norm(), rtol=1e-4)
    assert 0.9 * best <= reached <= 1.0001 * best


class Wavy(nn.Module):
    """A body for which every step of the search is too long."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, width))

    def forward(self, h):
        return h * (5000 * self.weight).sin()


def test_a_search_without_progress_never_lowers_the_birth_gradient():
    cell, h, g = SeedCell(SlotShape(FEATURES, 6), (6,), Incubation()), noise(32, 6), noise(32, 6, seed=1)
    register_blueprint("wavy", FEATURES, lambda slot: Wavy(slot.channels))
    try:
        seeds = [born(SlotShape(FEATURES, 6), "wavy", number) for number in range(20)]
    finally:
        unregister_blueprint("wavy", FEATURES)

    def closure():
        return (cell(h) * g).sum()

    for seed in seeds:
        before = birth_gradient(seed.body, cell, h, g).norm()
        maximise_birth_gradient(seed, cell, ADD, closure)
        assert birth_gradient(seed.body, cell, h, g).norm() >= before


def test_gradmax_of_a_rank_one_body_is_near_the_optimum():
    """With one channel, the scale's gradient for d = s * sum_k U_k (V h)_k is U V m with m = sum g h."""
    h, g = noise(16, 3, 1), noise(16, 3, 1, seed=1)
    cell, seed = SeedCell(SlotShape(SEQUENCES, 1), (3, 1), Incubation()), born(SlotShape(SEQUENCES, 1), "lora")
    down, up = (layer.weight for layer in seed.body)
    moment = (g * h).sum().abs()
    best = (down.norm() * up.norm() * moment).item()

    def closure():
        return (cell(h) * g).sum()

    maximise_birth_gradient(seed, cell, ADD, closure)
    reached = birth_gradient(seed.body, cell, h, g).norm().item()
    assert reached == pytest.approx((up @ down).abs().item() * moment.item(), rel=1e-4)
    assert 0.9 * best <= reached <= 1.0001 * best


@pytest.mark.parametrize("operator", [ADD, MULTIPLY], ids=case_id)
@pytest.mark.parametrize("topology", [IMAGES, SEQUENCES, FEATURES], ids=case_id)
def test_the_birth_gradient_equals_the_finite_difference_of_the_loss(topology, operator):
    model, x = make_model(topology).double().eval(), inputs(topology).double()
    cell = lead(model, Stage.BLENDING, Blueprint.ATTENTION, operator)
    h = {}
    hook = model.host.stem.register_forward_hook(lambda _m, _i, output: h.update(at=output), prepend=True)

    def loss_now():
        return nn.functional.cross_entropy(model(x), torch.arange(4) % 3)

    value = loss_now()  # the change is zero yet, so this gradient is that at the slot's output
    (gradient,) = torch.autograd.grad(value, h["at"])
    hook.remove()
    features_at = h["at"].detach()
    if operator is MULTIPLY:
        gradient = gradient * features_at
    wanted, scale = birth_gradient(cell.seed.body, cell, features_at, gradient), cell.seed.scale
    for channel in (0, 5):
        values = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                scale.zero_()
                scale.view(-1)[channel] = step
                values.append(loss_now().item())
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(wanted[channel].item(), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_gradmax_does_not_change_the_host_and_the_generator(training):
    model, x = make_model(IMAGES, options=GRADMAX).train(training), inputs(IMAGES)
    loss(model(x)).backward()
    model.eval()(x)
    model.train(training)
    before, buffers = gradients(model.host), {name: b.clone() for name, b in model.host.named_buffers()}
    weights = {name: p.detach().clone() for name, p in model.host.named_parameters()}
    generator = torch.get_rng_state()
    model.germinate("r0c0", "conv_light", closure=lambda: loss(model(x)))
    assert same_tensors(gradients(model.host), before)
    assert same_tensors(dict(model.host.named_buffers()), buffers)
    assert same_tensors(dict(model.host.named_parameters()), weights)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(g is None for g in gradients(model.cell("r0c0")).values())
    assert {module.training for module in model.modules()} == {training}
    assert model.cell("r0c0").tap is None


def test_gradmax_works_with_an_in_place_layer_after_the_slot():
    host = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 3))
    x = noise(4, 1, 4, 4)
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, x, rules=READY, options=GRADMAX)
    assert model.germinate("r0c0", "conv_light", closure=lambda: loss(model(x)))
    assert scale_gradient(to_training(model), x).norm() > 0


def test_gradmax_is_deterministic():
    torch.manual_seed(1)
    first, _ = germinate(IMAGES, Blueprint.BOTTLENECK, MULTIPLY)
    torch.manual_seed(2)
    second, _ = germinate(IMAGES, Blueprint.BOTTLENECK, MULTIPLY)
    assert same_tensors(weights_of(first), weights_of(second))


class Irregular(nn.Module):
    """A body with dropout, running statistics, zero weights and frozen weights."""

    def __init__(self, width):
        super().__init__()
        self.first, self.norm, self.dropout = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(0.5)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.zero = nn.Linear(width, width)
        nn.init.zeros_(self.zero.weight)

    def forward(self, h):
        return self.frozen(self.dropout(self.norm(self.first(h)))) + self.zero(h)


def test_gradmax_works_with_dropout_statistics_frozen_and_zero_weights():
    register_blueprint("irregular", FEATURES, lambda slot: Irregular(slot.channels))
    try:
        generator = torch.get_rng_state()
        (first, x), (second, _) = germinate(FEATURES, "irregular", ADD), germinate(FEATURES, "irregular", ADD)
        random, _ = germinate(FEATURES, "irregular", ADD, GrowthOptions())
    finally:
        unregister_blueprint("irregular", FEATURES)
    assert torch.equal(torch.get_rng_state(), generator)
    assert same_tensors(weights_of(first), weights_of(second))
    body, start = first.cell("r0c0").seed.body, random.cell("r0c0").seed.body
    assert same_tensors(dict(body.named_buffers()), dict(start.named_buffers()))
    assert torch.equal(body.frozen.weight, start.frozen.weight)
    assert body.zero.weight.abs().max() == 0
    assert all(torch.isfinite(p).all() for p in body.parameters())
    assert body.training
    norms = [scale_gradient(to_training(model), x) for model in (first, random)]
    assert not torch.equal(body.first.weight, start.first.weight)
    assert all(torch.isfinite(norm).all() for norm in norms)


@pytest.mark.parametrize("topology", [IMAGES, SEQUENCES, FEATURES], ids=case_id)
def test_gradmax_works_with_a_loss_in_bfloat16_autocast(topology):
    model, x = make_model(topology, {"r0c0": "deep"}, options=GRADMAX), inputs(topology)

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            return loss(model(x))

    model.germinate("r0c0", "attention", closure=closure)
    random = make_model(topology, {"r0c0": "deep"})
    random.germinate("r0c0", "attention")
    norms = [scale_gradient(to_training(m), x).norm() for m in (model, random)]
    assert norms[0] > 1.05 * norms[1]


class Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


WRONG = {
    "without": (lambda model, x: torch.ones((), requires_grad=True), "once, not 0 times"),
    "twice": (lambda model, x: loss(model(x)) + loss(model(x)), "once, not 2 times"),
    "detached": (lambda model, x: loss(model(x)).detach(), "does not depend on the slot"),
    "unrelated": (lambda model, x: (model(x) * 0).detach().sum() + model.host.stem.bias.sum(), "does not depend on"),
    "infinite": (lambda model, x: loss(Infinite.apply(model(x))), "no finite gradient at the slot"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_loss_without_gradient_at_the_slot_is_refused_without_side_effects(case):
    model, x = make_model(IMAGES, options=GRADMAX), inputs(IMAGES)
    closure, words = WRONG[case]
    before = model.growth.record()
    with pytest.raises(ValueError, match=words):
        model.germinate("r0c0", "conv_light", closure=lambda: closure(model, x))
    assert model.growth.record() == before
    assert (model.cell("r0c0").seed, model.cell("r0c0").tap) == (None, None)
    assert all(module.training for module in model.modules())


def test_a_style_with_gradmax_needs_a_loss():
    model = make_model(IMAGES, options=GRADMAX)
    with pytest.raises(ValueError, match="slot r0c0: style 'sigmoid_add' starts with gradmax, which needs a loss"):
        model.germinate("r0c0", "conv_light")
    assert model.states["r0c0"] is None


def test_a_seed_without_parameters_needs_no_search():
    cell, seed = SeedCell(SlotShape(FEATURES, 8), (8,), Incubation()), born(SlotShape(FEATURES, 8), "noop")
    maximise_birth_gradient(seed, cell, ADD, lambda: pytest.fail("the loss was computed"))
    assert seed(features(FEATURES)).abs().max() == 0

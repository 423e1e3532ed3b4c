"""Gradient statistics of seeds, some of whose tensors have no gradient or one that is not finite."""

import math

import pytest
import torch
from torch import nn

from esper_ray.kasmina.blueprints import register_blueprint, unregister_blueprint
from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.lifecycle.gates import GateRules, evaluate_gate
from esper_ray.kasmina.measurement.gradients import (
    clipped_norms,
    epoch_statistics,
    gradient_statistics,
    host_gradient_rms,
)
from esper_ray.kasmina.measurement.seed_measurements import _with_gradients
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.records import UNMEASURED
from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.assembly import build_organism
from esper_ray.tolaria.step_runners import CapturedRunner
from esper_ray.tolaria.training import EpochSettings, Trainer

SETTINGS = EpochSettings(host_grad_clip=1.0, seed_grad_clip=1e-3, incubation_share=0.5)
CPU = torch.device("cpu")


def tensor(gradient, size=2):
    parameter = nn.Parameter(torch.zeros(size))
    parameter.grad = None if gradient is None else torch.tensor(gradient)
    return parameter


# Pure functions, by hand


def test_tensors_without_a_gradient_take_no_part_in_clipping():
    group = [tensor([3.0, 0.0]), tensor(None), tensor([0.0, -4.0])]
    norms = clipped_norms(group, 2.5)
    assert norms.tolist() == [[3.0, 0.0, 4.0, 5.0], [1.0, 0.0, 1.0, 1.0]]
    assert group[0].grad.tolist() == pytest.approx([1.5, 0.0])
    assert group[2].grad.tolist() == pytest.approx([0.0, -2.0])
    assert group[1].grad is None


def test_a_group_without_any_gradient_has_no_norm_and_counts_no_step():
    assert clipped_norms([tensor(None), tensor(None)], 1.0).tolist() == [[0.0] * 3, [0.0] * 3]
    assert epoch_statistics([0.0] * 3, [0.0] * 3, [2, 2], 1.0) is None


def test_means_are_over_the_steps_with_a_gradient():
    """Tensor 0 has norms 1 and 3, tensor 1 has 2 in one step of the two, tensor 2 rests; all: 4 and 6."""
    seen = epoch_statistics([4.0, 2.0, 0.0, 10.0], [2.0, 1.0, 0.0, 2.0], [9, 16, 1000], host_rms=0.5)
    assert seen.norm == 5.0
    assert seen.ratio == pytest.approx(5.0 / 5.0 / 0.5)
    assert (seen.health, seen.vanishing, seen.exploding, seen.finite) == (1.0, False, False, True)


def test_a_gradient_of_exactly_zero_vanishes_and_is_finite():
    seen = gradient_statistics([0.0, 0.0], 0.0, 4, 0.5)
    assert (seen.norm, seen.ratio, seen.health) == (0.0, 0.0, 0.5)
    assert (seen.vanishing, seen.exploding, seen.finite) == (True, False, True)


def test_the_rms_of_a_host_without_gradient_is_zero():
    assert host_gradient_rms(6.0, 9) == 2.0
    assert host_gradient_rms(0.0, 0) == 0.0


BROKEN = {
    "infinite": ([1.0, math.inf], math.inf, 1.0),
    "not a number": ([math.nan, 1.0], math.nan, 1.0),
    "overflow of all": ([3e19, 3e19], math.inf, 1.0),
    "infinite host": ([1.0, 1.0], 1.4, math.inf),
    "host not a number": ([1.0, 1.0], 1.4, math.nan),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("strict", [True, False])
def test_gates_refuse_gradients_that_are_not_finite(case, strict):
    seen = gradient_statistics(*BROKEN[case][:2], 4, BROKEN[case][2])
    measured = _with_gradients(UNMEASURED, seen, learns=True)
    rules = GateRules(strict=strict, min_training_improvement_pp=0.0)
    result = evaluate_gate(Stage.BLENDING, Stage.TRAINING, 99, AlphaController(), measured, rules)
    ratio = next((check for check in result.checks if check.name == "gradient ratio"), None)
    assert ratio is None or not ratio.passed
    if "host" not in case:
        assert not result.passed
        assert not seen.finite
        assert (seen.health, seen.exploding) == (0.0, True)


# A trained seed


class Unused(nn.Sequential):
    """A convolution and a parameter that nothing uses."""

    def __init__(self, channels):
        super().__init__(nn.Conv2d(channels, channels, 3, padding=1))
        self.unused = nn.Parameter(torch.full((channels,), math.nan))


class Zero(nn.Conv2d):
    """A convolution whose gradient is exactly zero."""

    def forward(self, x):
        return super().forward(x) * 0.0


class Steep(nn.Conv2d):
    """A convolution whose gradient is not finite."""

    def forward(self, x):
        return super().forward(x) + (self.weight.sum() - self.weight.sum()).sqrt()


BLUEPRINTS = {
    "plain": lambda slot: nn.Sequential(nn.Conv2d(slot.channels, slot.channels, 3, padding=1)),
    "unused": lambda slot: Unused(slot.channels),
    "zero": lambda slot: Zero(slot.channels, slot.channels, 3, padding=1),
    "steep": lambda slot: Steep(slot.channels, slot.channels, 3, padding=1),
}


@pytest.fixture
def blueprints():
    for name, body in BLUEPRINTS.items():
        register_blueprint(name, Topology.IMAGES, body)
    yield
    for name in BLUEPRINTS:
        unregister_blueprint(name, Topology.IMAGES)


def trained(config, data, blueprint, method, *, style="linear_add", runner=None, blend=False):
    """Statistics of a seed over two epochs, the last, and its organism."""
    organism = build_organism(build(config.model_dump(), {"growth.incubation.method": method}), data, CPU, 3)
    organism.model.germinate("r0c1", blueprint, style=style)
    organism.model.advance("r0c1")
    trainer = Trainer(organism, data, SETTINGS, runner)
    results = [trainer.train(data.plan(3, epoch, 32, 4)) for epoch in range(2)]
    return results[-1].gradients.get("r0c1"), organism


def seed_weights(organism):
    return [parameter.detach().clone() for parameter in organism.model.cell("r0c1").seed.parameters()]


@pytest.mark.usefixtures("blueprints")
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("method", ["shadow", "straight_through"])
def test_an_unused_parameter_changes_neither_statistics_nor_clipping(config, data, method, captured):
    runners = [CapturedRunner(capture=lambda work: work) if captured else None for _ in range(2)]
    plain, first = trained(config, data, "plain", method, runner=runners[0])
    unused, second = trained(config, data, "unused", method, runner=runners[1])
    assert unused == plain
    assert plain.finite
    assert plain.norm > 1e-3  # so that the clip was at work
    weights, more = seed_weights(first), seed_weights(second)
    assert len(more) == len(weights) + 1
    used = [weight for weight in more if bool(weight.isfinite().all())]
    assert all(torch.equal(a, b) for a, b in zip(weights, used, strict=True))


def test_a_gate_that_rests_changes_neither_statistics_nor_clipping(config, data):
    """Trained straight through, the gate network of GATE has no gradient."""
    plain, first = trained(config, data, "conv_light", "straight_through", style="sigmoid_add")
    gated, second = trained(config, data, "conv_light", "straight_through", style="gated_gate")
    assert gated == plain
    assert 0.0 < plain.norm < math.inf
    assert all(parameter.grad is None for parameter in second.model.cell("r0c1").gate.parameters())
    assert all(torch.equal(a, b) for a, b in zip(seed_weights(first), seed_weights(second), strict=True))


@pytest.mark.usefixtures("blueprints")
def test_a_seed_whose_gradient_is_zero_vanishes_and_stays(config, data):
    seen, _ = trained(config, data, "zero", "straight_through")
    assert (seen.finite, seen.vanishing, seen.norm) == (True, True, 0.0)
    assert seen.health == 0.5


@pytest.mark.usefixtures("blueprints")
def test_a_seed_whose_gradient_is_not_finite_is_reported(config, data):
    seen, organism = trained(config, data, "steep", "straight_through")
    assert (seen.finite, seen.health, seen.exploding) == (False, 0.0, True)
    assert all(bool(parameter.isfinite().all()) for parameter in organism.model.host.parameters())


@pytest.mark.usefixtures("blueprints")
def test_the_watch_of_an_own_loop_measures_as_the_trainer_does(config, data):
    """The same steps, without clipping, with a parameter that has no gradient."""
    organisms = [build_organism(config, data, CPU, 3) for _ in range(2)]
    for organism in organisms:
        organism.model.germinate("r0c1", "unused")
        organism.model.advance("r0c1")
    plan = data.plan(3, 0, 32, 4)
    trainer = Trainer(organisms[0], data, EpochSettings(1e9, 1e9, 1.0))
    expected = trainer.train(plan).gradients["r0c1"]
    model, optimizer = organisms[1].model, organisms[1].optimizer
    watch = organisms[1].model.measurer.watch
    model.train()
    for rows, draws in zip(plan.rows, plan.draws, strict=True):
        inputs, targets = data.training_batch(rows, draws)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        model.incubate(lambda x=inputs, y=targets: nn.functional.cross_entropy(model(x), y))
        optimizer.step()
    optimizer.zero_grad()  # as many loops end
    seen = watch.collect()["r0c1"]
    assert (seen.norm, seen.ratio, seen.health) == pytest.approx((expected.norm, expected.ratio, expected.health))
    assert watch.collect() == {}

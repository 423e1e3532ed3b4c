"""Gradient statistics of seeds that the trainer trains, some without a gradient or with one that is not finite."""

import math

import pytest
import torch
from torch import nn

from esper_ray.kasmina.blueprints import register_blueprint, unregister_blueprint
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.loading import build
from esper_ray.tolaria.assembly import build_organism
from esper_ray.tolaria.stepping.step_runners import CapturedRunner
from esper_ray.tolaria.training import EpochSettings, Trainer

SETTINGS = EpochSettings(host_grad_clip=1.0, seed_grad_clip=1e-3, incubation_share=0.5)
CPU = torch.device("cpu")


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

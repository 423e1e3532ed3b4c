"""Optimizer groups and optimizer state over the lifecycle of a seed."""

import pytest
import torch
from kasmina_builders import WORTHY
from torch import nn

from esper_ray.kasmina.lifecycle.gates import GateRules
from esper_ray.kasmina.lifecycle.reducer import Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.records import HOST_GROUP, GrowthOptions
from esper_ray.kasmina.optimizer import GrowingOptimizer

HOST = {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.1}
SEEDS = {"lr": 0.25, "weight_decay": 0.0}


class Number(nn.Module):
    """A host with one parameter."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([1.0]))
        self.place = nn.Identity()

    def forward(self, h):
        return self.place(h * self.x)


def make(optimizer=torch.optim.SGD, host=HOST, **options):
    rules = Rules(GateRules(min_training_epochs=0))
    model = MorphogeneticModel.wrap(
        Number(), {"r0c0": "place"}, torch.zeros(2, 3), rules=rules, options=GrowthOptions(**options)
    )
    return model, GrowingOptimizer(model, optimizer, seeds=SEEDS, **host)


def grown(*path, **options):
    """Model, optimizer and the output scale of a seed after the commands in ``path``."""
    model, optimizer = make(**options)
    model.germinate("r0c0", "norm", style="linear_add", tempo=1)
    for command in path:
        getattr(model, command)("r0c0", WORTHY)
        model.tick()
    scale = model.cell("r0c0").seed.scale
    with torch.no_grad():
        scale.fill_(1.0)
    return model, optimizer, scale


def step(optimizer, gradients):
    optimizer.zero_grad()
    for parameter, gradient in gradients.items():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


def momentum(optimizer, parameter):
    return optimizer.parameter_state(parameter).get("momentum_buffer")


HOLD = ("advance", "advance", "advance")


def test_host_and_seed_have_their_own_rates_and_only_the_host_decays():
    model, optimizer, scale = grown()
    step(optimizer, {model.host.x: 1.0, scale: 1.0})
    assert model.host.x.item() == pytest.approx(1.0 - 0.5 * (1.0 + 0.1))
    assert scale.tolist() == pytest.approx([1.0 - 0.25] * 3)


def test_a_committed_seed_keeps_its_momentum_and_has_the_rates_of_the_host():
    model, optimizer, scale = grown(*HOLD)
    step(optimizer, {scale: 1.0})  # momentum 1, value 3/4
    model.fossilize("r0c0", WORTHY)
    assert optimizer.group_names == [HOST_GROUP]
    assert momentum(optimizer, scale).tolist() == [1.0] * 3
    step(optimizer, {scale: 2.0})  # momentum 1/2 + 2 + 0.1 * 3/4, rate 1/2
    assert scale.tolist() == pytest.approx([0.75 - 0.5 * (0.5 + 2.0 + 0.075)] * 3)


def test_a_frozen_fossil_leaves_the_optimizer_and_never_moves_again():
    model, optimizer, scale = grown(*HOLD, freeze_fossils=True)
    step(optimizer, {scale: 1.0})
    model.fossilize("r0c0", WORTHY)
    assert [p is model.host.x for p in optimizer.parameters()] == [True]
    assert (scale.requires_grad, scale.grad, momentum(optimizer, scale)) == (False, None, None)
    before = scale.tolist()
    step(optimizer, {model.host.x: 1.0})
    assert scale.tolist() == before


def test_a_fading_seed_is_frozen_and_resumes_with_its_momentum():
    model, optimizer, scale = grown(*HOLD)
    step(optimizer, {scale: 1.0})
    model.retarget("r0c0", 0.5, ticks=2)
    assert optimizer.group_names == [HOST_GROUP]
    assert not scale.requires_grad
    assert momentum(optimizer, scale).tolist() == [1.0] * 3
    model.tick()
    step(optimizer, {model.host.x: 1.0})
    model.tick()
    assert optimizer.group_names == [HOST_GROUP, "r0c0"]
    assert scale.requires_grad
    step(optimizer, {scale: 2.0})  # momentum 1/2 + 2, rate 1/4, from 3/4
    assert scale.tolist() == pytest.approx([0.75 - 0.25 * 2.5] * 3)


def test_the_state_of_a_removed_seed_is_dropped():
    model, optimizer, scale = grown()
    step(optimizer, {scale: 1.0})
    model.prune("r0c0")
    assert optimizer.group_names == [HOST_GROUP]
    assert optimizer.parameter_state(scale) == {}


def test_a_seed_without_parameters_has_no_group():
    model, optimizer = make()
    model.germinate("r0c0", "noop")
    assert optimizer.group_names == [HOST_GROUP]


def test_a_gate_network_is_trained_from_germination_on():
    model, optimizer = make()
    model.germinate("r0c0", "norm", style="gated_gate")
    optimized = {id(p) for p in optimizer.group("r0c0")}
    assert {id(p) for p in model.cell("r0c0").gate.parameters()} < optimized
    assert len(optimized) == 3 + 4


def test_a_gate_is_optimized_while_its_operator_is_in_use():
    model, optimizer, _ = grown(*HOLD)
    sizes = [len(optimizer.group("r0c0"))]
    model.retarget("r0c0", 1.0, ticks=1, style="gated_gate")
    sizes.append(len(optimizer.group("r0c0")))
    model.tick()
    model.retarget("r0c0", 1.0, ticks=1, style="linear_multiply")
    sizes.append(len(optimizer.group("r0c0")))
    model.tick()
    sizes.append(len(optimizer.group("r0c0")))
    assert sizes == [3, 7, 7, 3]


def test_an_unknown_group_is_an_error_with_the_existing_ones():
    _, optimizer, _ = grown()
    with pytest.raises(KeyError, match=r"no group 'r0c1', only \['host', 'r0c0'\]"):
        optimizer.group("r0c1")


def test_frozen_parameters_of_a_host_are_not_optimized():
    host = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 2))
    optimized = GrowingOptimizer(model, lr=0.1).parameters()
    assert [id(p) for p in optimized] == [id(p) for p in host[1].parameters()]


def test_a_host_without_anything_to_train_is_refused():
    model = MorphogeneticModel.wrap(nn.Sequential(nn.Identity()), {"r0c0": "0"}, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="no trainable parameters"):
        GrowingOptimizer(model, lr=0.1)


def test_adam_keeps_its_moments_over_commitment():
    model, optimizer, scale = grown(*HOLD, optimizer=torch.optim.AdamW, host={"lr": 0.1, "weight_decay": 0.0})
    step(optimizer, {scale: 1.0})
    before = {key: value.clone() for key, value in optimizer.parameter_state(scale).items()}
    model.fossilize("r0c0", WORTHY)
    assert before.keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(optimizer.parameter_state(scale)[key], value) for key, value in before.items())


def test_state_by_name_is_a_copy_that_can_be_loaded():
    model, optimizer, scale = grown(*HOLD)
    step(optimizer, {model.host.x: 1.0, scale: 1.0})
    state = optimizer.state_by_name()
    assert set(state) == {"host.x", "cells.r0c0.seed.scale"}
    step(optimizer, {model.host.x: 1.0, scale: 1.0})
    assert momentum(optimizer, scale).tolist() == [1.5] * 3
    optimizer.load_state_by_name(state)
    assert momentum(optimizer, scale).tolist() == [1.0] * 3
    with pytest.raises(KeyError, match=r"'host\.y', which the model does not have"):
        optimizer.load_state_by_name({"host.y": {}})
    assert momentum(optimizer, scale).tolist() == [1.0] * 3

"""Preflight: germinations are vetoed iff they exceed a limit."""

import pytest
import torch
from torch import nn

from esper_ray.kasmina.modules import count_parameters
from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.leyline.config.run import GovernorConfig
from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.preflight import MEGABYTE, Preflight, _saved_bytes, seed_activation_bytes

ADD = BlendOperator.ADD


def preflight(organism, data, **limits):
    return Preflight(GovernorConfig(**limits), organism.model, data, batch_size=32)


def test_without_limits_nothing_is_vetoed(data, grow):
    assert preflight(grow(), data).veto("r0c2", Blueprint.CONV_LIGHT, ADD) is None


def test_the_parameter_budget_is_exact_to_one_parameter(data, grow):
    """Host 160, a live conv_light on 4 channels, and a newborn one on 8: 9 n^2 + 3 n each."""
    organism = grow(r0c1=(Stage.BLENDING, 0.5))
    total = 160 + (9 * 16 + 12) + (9 * 64 + 24)
    organism_total = count_parameters(organism.model)
    assert organism_total == 160 + 156
    assert preflight(organism, data, max_parameters=total).veto("r0c2", Blueprint.CONV_LIGHT, ADD) is None
    veto = preflight(organism, data, max_parameters=total - 1).veto("r0c2", Blueprint.CONV_LIGHT, ADD)
    assert (veto.value, veto.limit) == (total, total - 1)
    assert "governor.max_parameters" in veto.reason


def test_a_gate_counts_towards_the_budget(data, grow):
    free = preflight(grow(), data, max_parameters=160 + 600)
    assert free.veto("r0c2", Blueprint.CONV_LIGHT, ADD) is None
    assert free.veto("r0c2", Blueprint.CONV_LIGHT, BlendOperator.GATE).value > 760


def test_saved_bytes_by_hand():
    """A linear layer saves its input, ReLU its output, which the second layer shares. Two rows of floats."""
    first, second = nn.Linear(5, 7), nn.Linear(7, 3)
    network = nn.Sequential(first, nn.ReLU(), second)
    x = torch.randn(2, 5)
    assert _saved_bytes(lambda: network(x), network, x) == 2 * 7 * 4


def test_the_memory_limit_is_exact_to_one_byte(data, grow):
    organism = grow(r0c1=(Stage.BLENDING, 0.5))
    loose = preflight(organism, data, max_memory_mb=1000.0)
    total = count_parameters(organism.model) + 9 * 64 + 24
    needed = loose.memory_bytes(total, {"r0c2": "conv_light"})
    both = sum(seed_activation_bytes(organism.model.cell(slot), "conv_light") for slot in ("r0c1", "r0c2"))
    assert needed == 16 * total + 32 * (loose._activations + both)
    assert loose._activations > 0
    fits, tight = (
        preflight(organism, data, max_memory_mb=(needed + extra) / MEGABYTE).veto("r0c2", Blueprint.CONV_LIGHT, ADD)
        for extra in (0, -1)
    )
    assert fits is None
    assert tight.value == pytest.approx(needed / MEGABYTE)
    assert "governor.max_memory_mb" in tight.reason


def test_the_preflight_does_not_change_the_model(data, grow):
    organism = grow(r0c1=(Stage.BLENDING, 0.5))
    organism.model.train()
    before = {name: tensor.clone() for name, tensor in organism.model.state_dict().items()}
    rng = torch.get_rng_state()
    preflight(organism, data, max_memory_mb=1.0).veto("r0c2", Blueprint.CONV_LIGHT, ADD)
    assert all(torch.equal(tensor, before[name]) for name, tensor in organism.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert organism.model.training
    assert all(parameter.grad is None for parameter in organism.model.parameters())

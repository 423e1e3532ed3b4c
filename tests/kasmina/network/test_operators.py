"""Blend operators and gate networks, with values and gradients by hand."""

import math

import pytest
import torch
from cell_builders import ADD, FEATURES, GATE, IMAGES, MULTIPLY, SEQUENCES, features, made_gate, noise
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper_ray.kasmina.blueprints import SlotShape
from esper_ray.kasmina.network.operators import OPEN_BIAS, blend
from esper_ray.leyline.actions import BlendOperator
from esper_ray.leyline.blueprints import Topology, gate_parameters

OPERATORS = list(BlendOperator)


class Half(nn.Module):
    """Gate with the constant output 0.5."""

    def forward(self, h):
        return torch.full((len(h), 1), 0.5)


class Forbidden(nn.Module):
    def forward(self, h):
        raise AssertionError("the gate was called")


def row(*numbers):
    return torch.tensor([numbers])


@pytest.mark.parametrize(
    ("operator", "alpha", "wanted"),
    [
        (ADD, 0.25, [1.5, -2.25]),
        (ADD, 1.0, [3.0, -3.0]),
        (MULTIPLY, 0.5, [1 + 0.5 * math.tanh(2.0), -2 * (1 - 0.5 * math.tanh(1.0))]),  # 1.48201, -1.23841
        (MULTIPLY, 1.0, [1.9640276, -0.4768117]),  # 1 + tanh 2, -2 (1 - tanh 1)
        (GATE, 0.5, [1.5, -2.25]),
        (GATE, 1.0, [2.0, -2.5]),
    ],
)
def test_values_by_hand(operator, alpha, wanted):
    h, d = row(1.0, -2.0), row(2.0, -1.0)
    assert blend(operator, h, d, alpha, Half())[0].tolist() == pytest.approx(wanted, rel=1e-6)
    assert blend(operator, h, d, torch.tensor(alpha), Half())[0].tolist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("operator", OPERATORS)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0.0, 1.0))
def test_without_amplitude_or_change_the_output_equals_the_features(operator, seed, alpha):
    h, d = 100 * noise(3, 8, seed=seed), 100 * noise(3, 8, seed=seed + 1)
    gate = made_gate(SlotShape(FEATURES, 8))
    assert torch.equal(blend(operator, h, d, 0.0, gate), h)
    assert torch.equal(blend(operator, h, torch.zeros_like(d), alpha, gate), h)


@given(seed=st.integers(0, 10_000), alpha=st.floats(0.0, 1.0), size=st.floats(0.01, 1000.0))
def test_multiplying_changes_features_by_at_most_the_factor_alpha(seed, alpha, size):
    h, d = noise(3, 8, seed=seed), size * noise(3, 8, seed=seed + 1)
    y = blend(MULTIPLY, h, d, alpha, None)
    assert ((y - h).abs() <= alpha * h.abs() * (1 + 1e-5) + 1e-6).all()
    assert (y * h >= 0).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_output_is_linear_in_the_amplitude(operator):
    h, d, gate = noise(3, 8), noise(3, 8, seed=1), made_gate(SlotShape(FEATURES, 8))
    ends = blend(operator, h, d, 0.0, gate), blend(operator, h, d, 1.0, gate)
    assert not torch.equal(*ends)
    for alpha in (0.25, 0.37, 0.9):
        between = ends[0] + alpha * (ends[1] - ends[0])
        assert torch.allclose(blend(operator, h, d, alpha, gate), between, atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "factor"),
    [(ADD, [1.0, 1.0]), (MULTIPLY, [1.9640276, 0.2384058]), (GATE, [1.0, 1.0])],  # 1 + tanh 2, 1 - tanh 1
)
def test_the_gradient_of_the_host_path_by_hand(operator, factor):
    h = row(1.0, -2.0).requires_grad_()
    blend(operator, h, row(2.0, -1.0), 1.0, Half()).sum().backward()
    assert h.grad[0].tolist() == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(
    ("operator", "slope"),
    [(ADD, [0.4, 0.4]), (MULTIPLY, [0.4 * 0.0706508, -0.8 * 0.4199743]), (GATE, [0.2, 0.2])],  # sech2 of 2 and of 1
)
def test_the_gradient_of_the_change_by_hand(operator, slope):
    d = row(2.0, -1.0).requires_grad_()
    blend(operator, row(1.0, -2.0), d, 0.4, Half()).sum().backward()
    assert d.grad[0].tolist() == pytest.approx(slope, rel=1e-5)


def test_only_the_gate_operator_calls_the_gate():
    for operator in (ADD, MULTIPLY):
        assert torch.isfinite(blend(operator, row(1.0), row(2.0), 0.5, Forbidden())).all()
    with pytest.raises(AssertionError, match="the gate was called"):
        blend(GATE, row(1.0), row(2.0), 0.5, Forbidden())


def test_gating_without_a_gate_network_is_an_error():
    with pytest.raises(RuntimeError, match="GATE needs a gate network"):
        blend(GATE, row(1.0), row(2.0), 0.5, None)


GATE_SHAPES = [
    (IMAGES, True, (4, 1, 1, 1)),
    (SEQUENCES, True, (4, 5, 1)),
    (SEQUENCES, False, (4, 1, 1)),
    (FEATURES, True, (4, 1)),
]


@pytest.mark.parametrize(("topology", "causal", "size"), GATE_SHAPES)
def test_a_newborn_gate_is_open_to_95_percent_for_any_input(topology, causal, size):
    share = made_gate(SlotShape(topology, 8, causal))(100 * features(topology))
    assert share.shape == size
    assert OPEN_BIAS == 3.0
    assert share.unique().tolist() == pytest.approx([0.9525741], abs=1e-7)  # 1 / (1 + exp(-3))


@pytest.mark.parametrize("topology", list(Topology))
@pytest.mark.parametrize("channels", [1, 2, 3, 8, 12, 16, 36, 64])
def test_gate_parameter_counts_equal_those_of_leyline(topology, channels):
    gate = made_gate(SlotShape(topology, channels))
    assert sum(p.numel() for p in gate.parameters()) == gate_parameters(channels)


@pytest.mark.parametrize(("topology", "causal", "size"), GATE_SHAPES)
def test_a_gate_learns_layer_by_layer(topology, causal, size):
    gate, h = made_gate(SlotShape(topology, 8, causal)), features(topology)
    reached = []
    for _ in range(2):
        gate.zero_grad()
        blend(GATE, h, h.square(), 0.5, gate).square().mean().backward()
        reached.append({name for name, p in gate.named_parameters() if p.grad.abs().max() > 0})
        with torch.no_grad():
            for parameter in gate.parameters():
                parameter.sub_(0.5 * parameter.grad)
    assert reached[0] == {"output.weight", "output.bias"}
    assert reached[1] == {"output.weight", "output.bias", "hidden.weight", "hidden.bias"}
    assert gate(h).unique().numel() > 1


def test_a_gate_by_hand():
    gate = made_gate(SlotShape(FEATURES, 2))
    with torch.no_grad():
        gate.hidden.weight.fill_(1.0)
        gate.hidden.bias.fill_(-1.0)
        gate.output.weight.fill_(0.125)  # eight hidden units: sum of them is relu(h1 + h2 - 1)
    share = gate(torch.tensor([[1.0, 2.0], [1.0, -4.0]]))
    assert share.flatten().tolist() == pytest.approx([0.9933071, 0.9525741], abs=1e-6)  # logits 3 + 2 and 3 + 0


def test_gates_of_images_and_noncausal_sequences_depend_on_the_mean():
    gate = made_gate(SlotShape(SEQUENCES, 8, causal=False))
    nn.init.normal_(gate.output.weight, generator=torch.Generator().manual_seed(1))
    h = features(SEQUENCES)
    assert torch.allclose(gate(h), gate(h.mean(1, keepdim=True).expand_as(h)), atol=1e-6)
    assert not torch.allclose(gate(h), gate(h.roll(1, dims=0)), atol=1e-3)

"""Parameter counts of blueprints and gate networks."""

import pytest

from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.leyline.blueprints import (
    BLUEPRINTS_OF_TOPOLOGY,
    Topology,
    bottleneck_width,
    gate_parameters,
    gate_width,
    seed_parameter_count,
    squeeze_width,
)

IMAGES, SEQUENCES, FEATURES = Topology.IMAGES, Topology.SEQUENCES, Topology.FEATURES

# By hand: every seed has a scale of C; convolutions and low-rank maps have no bias; norms have 2 C.
COUNTS = {
    (IMAGES, "noop"): {8: 0, 64: 0},
    (IMAGES, "norm"): {1: 3, 8: 24, 64: 192},
    (IMAGES, "attention"): {1: 4, 3: 12, 8: 48, 64: 2_176},  # 2 C R + bias C + scale C, R = max(1, C // 4)
    (IMAGES, "conv_small"): {1: 4, 8: 88, 64: 4_288},
    (IMAGES, "conv_light"): {1: 12, 2: 42, 8: 600, 64: 37_056},
    (IMAGES, "conv_heavy"): {1: 23, 8: 1_192, 64: 74_048},
    (IMAGES, "depthwise"): {1: 13, 2: 28, 8: 160, 64: 4_864},
    (IMAGES, "bottleneck"): {1: 595, 2: 614, 8: 728, 64: 4_544},  # inner width 8, 8, 8, 16
    (SEQUENCES, "noop"): {8: 0},
    (SEQUENCES, "norm"): {1: 3, 384: 1_152},
    (SEQUENCES, "lora"): {1: 17, 384: 6_528},
    (SEQUENCES, "lora_large"): {1: 65, 384: 24_960},
    (SEQUENCES, "attention"): {1: 9, 8: 296, 384: 591_744},  # qkv 3 D (D + 1), out D (D + 1), scale D
    (SEQUENCES, "flex_attention"): {1: 9, 8: 296, 384: 591_744},
    (SEQUENCES, "mlp_small"): {1: 8, 8: 288, 384: 591_360},
    (SEQUENCES, "mlp"): {1: 14, 8: 560, 384: 1_181_952},
    (FEATURES, "noop"): {8: 0},
    (FEATURES, "norm"): {8: 24},
    (FEATURES, "attention"): {1: 4, 8: 48, 64: 2_176},
    (FEATURES, "lora"): {8: 136},
    (FEATURES, "lora_large"): {8: 520},
    (FEATURES, "mlp_small"): {8: 288},
    (FEATURES, "mlp"): {8: 560},
}


@pytest.mark.parametrize(("topology", "name"), COUNTS, ids=lambda value: getattr(value, "value", value))
def test_parameter_counts_by_hand(topology, name):
    expected = COUNTS[topology, name]
    assert {c: seed_parameter_count(topology, Blueprint.from_id(name), c) for c in expected} == expected


def test_the_table_covers_every_blueprint_of_every_topology():
    assert set(COUNTS) == {(t, b.id) for t, blueprints in BLUEPRINTS_OF_TOPOLOGY.items() for b in blueprints}


def test_each_topology_lists_its_blueprints_in_the_order_of_the_action_indices():
    names = {t.value: [b.id for b in blueprints] for t, blueprints in BLUEPRINTS_OF_TOPOLOGY.items()}
    assert names == {
        "images": ["noop", "conv_light", "attention", "norm", "depthwise", "bottleneck", "conv_small", "conv_heavy"],
        "sequences": ["noop", "attention", "norm", "lora", "lora_large", "mlp_small", "mlp", "flex_attention"],
        "features": ["noop", "attention", "norm", "lora", "lora_large", "mlp_small", "mlp"],
    }
    assert all(list(blueprints) == sorted(blueprints) for blueprints in BLUEPRINTS_OF_TOPOLOGY.values())
    with pytest.raises(TypeError):
        BLUEPRINTS_OF_TOPOLOGY[IMAGES] = ()


def test_gate_networks_have_the_parameters_of_two_linear_layers():
    widths = {1: 8, 8: 8, 31: 8, 36: 9, 64: 16, 384: 96}
    assert {c: gate_width(c) for c in widths} == widths
    counts = {1: 25, 8: 81, 16: 145, 32: 273, 64: 1_057, 128: 4_161, 384: 37_057}
    assert {c: gate_parameters(c) for c in counts} == counts


@pytest.mark.parametrize(("operator", "more"), [("ADD", 0), ("MULTIPLY", 0), ("GATE", 81)])
def test_only_the_gate_operator_costs_a_gate_network_on_top(operator, more):
    counts = [seed_parameter_count(IMAGES, b, 8, BlendOperator[operator]) for b in (Blueprint.NOOP, Blueprint.NORM)]
    assert counts == [more, 24 + more]


def test_widths_between_the_layers():
    assert [squeeze_width(c) for c in (1, 3, 4, 8, 12, 64)] == [1, 1, 1, 2, 3, 16]
    assert [bottleneck_width(c) for c in (1, 32, 36, 64)] == [8, 8, 9, 16]


def test_a_blueprint_of_another_topology_is_an_error_with_the_choices():
    with pytest.raises(
        ValueError, match=r"'lora' does not exist for images; choose from noop, conv_light, .*conv_heavy"
    ):
        seed_parameter_count(IMAGES, Blueprint.LORA, 8)
    with pytest.raises(ValueError, match="'conv_light' does not exist for sequences; choose from noop, attention"):
        seed_parameter_count(SEQUENCES, Blueprint.CONV_LIGHT, 8)


@pytest.mark.parametrize("channels", [0, -3])
def test_a_seed_needs_a_channel(channels):
    with pytest.raises(ValueError, match=f"at least 1 channel, got {channels}"):
        seed_parameter_count(FEATURES, Blueprint.NORM, channels)

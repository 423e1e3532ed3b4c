"""Action space: heads, indices and decoding."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.leyline.actions import (
    ALPHA_TARGETS,
    ARGUMENT_HEADS,
    CURVES,
    HEADS,
    HEADS_OF_OP,
    OPS_OF_HEAD,
    SPEED_TICKS,
    TEMPO_TICKS,
    WAIT,
    Action,
    AlphaCurve,
    AlphaMode,
    BlendOperator,
    Blueprint,
    GerminationStyle,
    LifecycleOp,
    head_sizes,
)

SIZES = [6, 3, 13, 4, 3, 3, 4, 5]
BLUEPRINTS = [
    "noop",
    "conv_light",
    "attention",
    "norm",
    "depthwise",
    "bottleneck",
    "conv_small",
    "conv_heavy",
    "lora",
    "lora_large",
    "mlp_small",
    "mlp",
    "flex_attention",
]


def test_heads_are_in_the_documented_order():
    assert HEADS == ("op", "slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve")
    assert HEADS[2:] == ARGUMENT_HEADS


@pytest.mark.parametrize("slots", [1, 3, 10])
def test_head_sizes_are_those_of_the_multi_discrete_space(slots):
    sizes = head_sizes(slots)
    assert tuple(sizes) == HEADS
    assert list(sizes.values()) == [6, slots, 13, 4, 3, 3, 4, 5]


def test_the_indices_of_operations_are_stable():
    names = [op.name for op in LifecycleOp]
    assert names == ["WAIT", "GERMINATE", "SET_ALPHA_TARGET", "PRUNE", "FOSSILIZE", "ADVANCE"]
    assert [int(op) for op in LifecycleOp] == [0, 1, 2, 3, 4, 5]


def test_the_indices_and_names_of_blueprints_are_stable():
    assert [blueprint.id for blueprint in Blueprint] == BLUEPRINTS
    assert [int(blueprint) for blueprint in Blueprint] == list(range(13))


@pytest.mark.parametrize(
    ("index", "name", "curve", "operator"),
    [
        (0, "linear_add", AlphaCurve.LINEAR, BlendOperator.ADD),
        (1, "linear_multiply", AlphaCurve.LINEAR, BlendOperator.MULTIPLY),
        (2, "sigmoid_add", AlphaCurve.SIGMOID, BlendOperator.ADD),
        (3, "gated_gate", AlphaCurve.LINEAR, BlendOperator.GATE),
    ],
)
def test_styles_decode_to_a_ramp_and_an_operator(index, name, curve, operator):
    style = GerminationStyle(index)
    assert (style.id, style.curve, style.operator) == (name, curve, operator)


def test_argument_values_decode_to_ticks_targets_and_curves():
    assert TEMPO_TICKS == (3, 5, 8)
    assert ALPHA_TARGETS == (0.5, 0.7, 1.0)
    assert SPEED_TICKS == (0, 3, 5, 8)
    assert [(curve.name, steepness) for curve, steepness in CURVES] == [
        ("LINEAR", 12.0),
        ("COSINE", 12.0),
        ("SIGMOID", 6.0),
        ("SIGMOID", 12.0),
        ("SIGMOID", 24.0),
    ]


def test_auxiliary_codes_are_stable():
    assert {mode.name: int(mode) for mode in AlphaMode} == {"HOLD": 0, "UP": 1, "DOWN": 2}
    assert {curve.name: int(curve) for curve in AlphaCurve} == {"LINEAR": 1, "COSINE": 2, "SIGMOID": 3}
    assert {operator.name: int(operator) for operator in BlendOperator} == {"ADD": 1, "MULTIPLY": 2, "GATE": 3}


@pytest.mark.parametrize(
    ("op", "relevant"),
    [  # op slot blueprint style tempo target speed curve
        ("WAIT", "x......."),
        ("GERMINATE", "xxxxxx.."),
        ("SET_ALPHA_TARGET", "xx.x.xxx"),
        ("PRUNE", "xx....xx"),
        ("FOSSILIZE", "xx......"),
        ("ADVANCE", "xx......"),
    ],
)
def test_each_operation_reads_the_heads_of_the_relevance_table(op, relevant):
    assert HEADS_OF_OP[LifecycleOp[op]] == tuple(
        head for head, mark in zip(HEADS, relevant, strict=True) if mark == "x"
    )


def test_the_two_relevance_tables_agree():
    pairs = {(op, head) for op in LifecycleOp for head in HEADS_OF_OP[op]}
    assert {(op, head) for head in HEADS for op in OPS_OF_HEAD[head]} == pairs
    assert [op.name for op in OPS_OF_HEAD["alpha_target"]] == ["GERMINATE", "SET_ALPHA_TARGET"]


@given(st.tuples(*[st.integers(min_value=0, max_value=size - 1) for size in SIZES]))
def test_every_point_of_the_space_round_trips_through_an_action(indices):
    action = Action.from_indices(indices, slots=3)
    assert action.to_indices() == indices
    assert [getattr(action, head) for head in HEADS] == list(indices)


def test_numpy_indices_become_plain_integers():
    action = Action.from_indices(np.array([3, 2, 1, 0, 2, 1, 3, 4]), slots=3)
    assert action == Action(3, 2, 1, 0, 2, 1, 3, 4)
    assert all(type(value) is int for value in action.to_indices())


@pytest.mark.parametrize("count", [0, 7, 9])
def test_an_action_of_another_length_is_refused(count):
    with pytest.raises(ValueError, match=f"8 indices, got {count}"):
        Action.from_indices([0] * count, slots=3)


@pytest.mark.parametrize("head", range(8))
@pytest.mark.parametrize("beyond", [True, False])
def test_an_index_outside_its_head_is_refused_with_head_range_and_value(head, beyond):
    indices = [0] * 8
    indices[head] = SIZES[head] if beyond else -1
    expected = rf"'{HEADS[head]}' takes 0\.\.{SIZES[head] - 1}, got {indices[head]}$"
    with pytest.raises(ValueError, match=expected):
        Action.from_indices(indices, slots=3)


def test_the_slot_head_has_one_choice_per_slot():
    assert Action.from_indices([1, 4, 1, 0, 0, 0, 0, 0], slots=5).slot == 4
    with pytest.raises(ValueError, match=r"'slot' takes 0\.\.0, got 1"):
        Action.from_indices([1, 1, 1, 0, 0, 0, 0, 0], slots=1)


def test_unused_heads_default_to_their_canonical_values():
    assert WAIT.to_indices() == (0, 0, 1, 2, 1, 2, 0, 0)
    assert WAIT.operation is LifecycleOp.WAIT


@pytest.mark.parametrize(
    ("speed", "curve", "ramp"),
    [(0, 0, (0, AlphaCurve.LINEAR, 12.0)), (1, 1, (3, AlphaCurve.COSINE, 12.0)), (3, 2, (8, AlphaCurve.SIGMOID, 6.0))],
)
def test_the_ramp_of_an_action_is_ticks_curve_and_steepness(speed, curve, ramp):
    assert Action(op=3, alpha_speed=speed, alpha_curve=curve).ramp == ramp


def test_an_action_cannot_be_edited():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WAIT.op = 1

"""Legality masks of operations and arguments."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from leyline_builders import make_limits, make_report, reports_of

from esper_ray.leyline.actions import (
    HEADS,
    HEADS_OF_OP,
    WAIT,
    Action,
    AlphaMode,
    GerminationStyle,
    LifecycleOp,
    head_sizes,
)
from esper_ray.leyline.legality import legality, mask_vector_size
from esper_ray.leyline.stages import Stage

LETTERS = {"W": 0, "G": 1, "S": 2, "P": 3, "F": 4, "A": 5}

# Operations on a seed: at rest and 4 ticks old, at rest and 5 ticks old, while its amplitude moves.
TABLE = {
    "UNKNOWN": ("", "", ""),
    "DORMANT": ("", "", ""),
    "GERMINATED": ("A", "AP", "A"),
    "TRAINING": ("A", "AP", "A"),
    "BLENDING": ("AS", "ASP", "A"),
    "HOLDING": ("SF", "SPF", "F"),
    "FOSSILIZED": ("", "", ""),
    "PRUNED": ("", "", ""),
    "EMBARGOED": ("", "", ""),
    "RESETTING": ("", "", ""),
}
BLOCKING = ["GERMINATED", "TRAINING", "PRUNED", "EMBARGOED", "RESETTING"]
COUNTED = ["GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"]

actions_of_three = st.tuples(*[st.integers(0, size - 1) for size in head_sizes(3).values()]).map(
    lambda indices: Action(*indices)
)
limits_of_three = st.builds(
    lambda most, manual: make_limits(3, max_seeds=most, manual_advance=manual), st.integers(0, 3), st.booleans()
)


def legal_ops(masks, slot):
    return {letter for letter, op in LETTERS.items() if masks.slot_by_op[op, slot]}


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("mode", AlphaMode)
def test_truth_table_of_one_seed_beside_an_empty_slot(stage, mode):
    for age, most in product((4, 5), (0, 1, 2)):
        check_row(stage, mode, age, most)


def check_row(stage, mode, age, most):
    masks = legality((make_report(stage, mode, age), None), make_limits(2, max_seeds=most))
    young, grown, moving = TABLE[stage.name]
    on_seed = moving if mode is not AlphaMode.HOLD else grown if age == 5 else young
    may_germinate = stage.name not in BLOCKING and (most in {0, 2} or stage.name not in COUNTED)
    assert legal_ops(masks, 0) == set("W" + on_seed)
    assert legal_ops(masks, 1) == set("WG" if may_germinate else "W")


@pytest.mark.parametrize("stage", BLOCKING)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_blocking_stage_in_any_slot_blocks_germination_in_all_slots(stage, place):
    reports = [None, None, None]
    reports[place] = make_report(Stage[stage])
    assert not legality(tuple(reports), make_limits(3)).slot_by_op[LifecycleOp.GERMINATE].any()


@pytest.mark.parametrize("stage", ["BLENDING", "HOLDING", "FOSSILIZED"])
def test_seeds_past_development_do_not_block_germination_in_empty_slots(stage):
    masks = legality((None, make_report(Stage[stage]), None), make_limits(3))
    assert masks.slot_by_op[LifecycleOp.GERMINATE].tolist() == [True, False, True]


@pytest.mark.parametrize(("most", "open_"), [(0, True), (1, False), (2, False), (3, True)])
def test_the_seed_limit_counts_live_seeds_and_fossils_alike(most, open_):
    reports = (make_report(Stage.FOSSILIZED), make_report(Stage.HOLDING), None)
    assert legality(reports, make_limits(3, max_seeds=most)).slot_by_op[LifecycleOp.GERMINATE, 2] == open_


@given(reports_of(3), st.integers(1, 3))
def test_the_seed_limit_affects_germination_only(reports, most):
    free, limited = legality(reports, make_limits(3)), legality(reports, make_limits(3, max_seeds=most))
    other_ops = [op for op in LifecycleOp if op is not LifecycleOp.GERMINATE]
    assert np.array_equal(free.slot_by_op[other_ops], limited.slot_by_op[other_ops])


@given(reports_of(3))
def test_advance_is_illegal_if_every_gate_is_automatic(reports):
    automatic = legality(reports, make_limits(3, manual_advance=False))
    manual = legality(reports, make_limits(3))
    assert not automatic.slot_by_op[LifecycleOp.ADVANCE].any()
    assert np.array_equal(automatic.slot_by_op[:5], manual.slot_by_op[:5])


@given(reports_of(3), limits_of_three)
def test_wait_is_always_legal_and_an_operation_iff_some_slot_accepts_it(reports, limits):
    masks = legality(reports, limits)
    assert masks.slot_by_op[LifecycleOp.WAIT].all()
    assert masks.allows(WAIT)
    assert masks.op.tolist() == [bool(masks.slot_by_op[op].any()) for op in LifecycleOp]


@pytest.mark.parametrize(
    ("reports", "all_styles"),
    [
        ((None, None), True),
        ((make_report(Stage.BLENDING, AlphaMode.UP), None), True),
        ((make_report(Stage.BLENDING, AlphaMode.HOLD), make_report(Stage.TRAINING)), True),
        ((make_report(Stage.HOLDING), make_report(Stage.PRUNED)), True),
        ((make_report(Stage.BLENDING, AlphaMode.UP), make_report(Stage.FOSSILIZED)), False),
        ((make_report(Stage.TRAINING), None), False),
        ((make_report(Stage.FOSSILIZED), make_report(Stage.FOSSILIZED)), False),
    ],
)
def test_style_and_target_are_free_iff_germinating_or_retargeting_is_legal(reports, all_styles):
    limits = make_limits(2, styles=frozenset(GerminationStyle))
    arguments = legality(reports, limits).arguments
    assert arguments["style"].tolist() == ([True] * 4 if all_styles else [False, False, True, False])
    assert arguments["alpha_target"].tolist() == ([True] * 3 if all_styles else [False, False, True])


def test_only_the_styles_of_the_run_are_legal():
    arguments = legality((None,), make_limits(1, styles=frozenset({GerminationStyle.LINEAR_ADD}))).arguments
    assert arguments["style"].tolist() == [True, False, False, False]


@given(reports_of(3), limits_of_three)
def test_blueprints_tempo_speed_and_curve_do_not_depend_on_the_state(reports, limits):
    arguments = legality(reports, limits).arguments
    assert np.flatnonzero(arguments["blueprint"]).tolist() == [1, 3, 4, 5]
    for head, size in (("tempo", 3), ("alpha_speed", 4), ("alpha_curve", 5)):
        assert arguments[head].tolist() == [True] * size


def test_noop_is_illegal_even_if_the_run_lists_every_blueprint():
    limits = make_limits(1, blueprints=frozenset(type(next(iter(make_limits(1).blueprints)))))
    assert legality((None,), limits).arguments["blueprint"].tolist() == [False] + [True] * 12


@given(reports_of(3), limits_of_three, actions_of_three)
def test_an_action_is_illegal_if_its_operation_is_masked_on_its_slot(reports, limits, action):
    masks = legality(reports, limits)
    if not masks.slot_by_op[action.op, action.slot]:
        assert masks.allows(action) is False


@given(reports_of(3), limits_of_three, actions_of_three)
def test_an_action_is_legal_iff_every_head_it_reads_is(reports, limits, action):
    masks = legality(reports, limits)
    expected = bool(masks.slot_by_op[action.op, action.slot])
    for head in HEADS[2:]:
        if head in HEADS_OF_OP[LifecycleOp(action.op)] and not masks.arguments[head][getattr(action, head)]:
            expected = False
    assert masks.allows(action) is expected


def test_arguments_that_an_operation_ignores_do_not_make_it_illegal():
    masks = legality((make_report(Stage.HOLDING),), make_limits(1))
    assert masks.allows(Action(op=4, blueprint=0, style=3))
    assert not masks.allows(Action(op=2, style=3))


def test_germination_with_a_blueprint_outside_the_run_is_illegal():
    masks = legality((None,), make_limits(1))
    assert masks.allows(Action(op=1, blueprint=3))
    assert not masks.allows(Action(op=1, blueprint=0))
    assert not masks.allows(Action(op=1, blueprint=7))


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 10])
def test_flat_masks_have_the_length_of_the_space_and_the_vector_that_of_the_matrix(slots):
    masks = legality((None,) * slots, make_limits(slots))
    assert masks.flat().shape == (6 + slots + 13 + 4 + 3 + 3 + 4 + 5,)
    assert masks.flat().dtype == np.bool_
    assert masks.vector().shape == (6 * slots + 13 + 4 + 3 + 3 + 4 + 5,)
    assert masks.vector().dtype == np.int8
    assert mask_vector_size(slots) == 6 * slots + 32


def test_flat_masks_of_a_state_by_hand():
    masks = legality((make_report(Stage.HOLDING, age=4), None, make_report(Stage.FOSSILIZED)), make_limits(3))
    op, slot, blueprint = "111010", "110", "0101110000000"
    style, tempo, target, speed, curve = "1010", "111", "111", "1111", "11111"
    assert (
        "".join(str(int(bit)) for bit in masks.flat()) == op + slot + blueprint + style + tempo + target + speed + curve
    )


def test_flat_masks_have_every_slot_if_only_wait_is_legal():
    masks = legality((make_report(Stage.PRUNED), None), make_limits(2))
    assert masks.flat()[:8].tolist() == [True, False, False, False, False, False, True, True]


def test_the_vector_is_the_matrix_row_by_row_and_then_the_arguments():
    masks = legality((make_report(Stage.TRAINING, age=5), None), make_limits(2))
    matrix = "11" + "00" + "00" + "10" + "00" + "10"
    arguments = "0101110000000" + "0010" + "111" + "001" + "1111" + "11111"
    assert "".join(str(bit) for bit in masks.vector()) == matrix + arguments


@pytest.mark.parametrize("reported", [0, 1, 3])
def test_a_missing_report_is_an_error_not_an_empty_slot(reported):
    with pytest.raises(ValueError, match=f"2 slots are enabled, but {reported} were reported"):
        legality((None,) * reported, make_limits(2))


def test_a_reached_target_and_too_few_epochs_allow_no_birth():
    """The host has 100 parameters, the committed seed 30."""
    held = (replace(make_report(Stage.FOSSILIZED), parameters=30), None)
    for target, born in ((0, True), (131, True), (130, False), (90, False)):
        limits = make_limits(2, target_parameters=target, host_parameters=100)
        assert legality(held, limits).op[LifecycleOp.GERMINATE] == born
    limits = make_limits(2, shortest_life=6)
    for left, born in ((None, True), (7, True), (6, True), (5, False), (0, False)):
        assert legality(held, limits, left).op[LifecycleOp.GERMINATE] == born
    assert not legality(held, make_limits(2, closed=frozenset({"r0c0", "r0c1"}))).op[LifecycleOp.GERMINATE]

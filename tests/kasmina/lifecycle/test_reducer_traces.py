"""Golden traces: one row is the slot after command and tick of that epoch, before its training."""

import pytest
from lifecycle_builders import HEALTHY, WORTHY, Slot, rules_with

from esper_ray.kasmina.lifecycle.gates import Gate
from esper_ray.kasmina.lifecycle.reducer import Advance, Fossilize, Germinate, Prune, SetAlphaTarget
from esper_ray.leyline.actions import AlphaCurve, GerminationStyle

SIGMOID_5 = Germinate("r0c0-1", "norm", GerminationStyle.SIGMOID_ADD, 5)
LINEAR_3 = Germinate("r0c0-1", "norm", GerminationStyle.LINEAR_ADD, 3)


def play(slot, last, commands, measured=None):
    """Rows of the epochs 0 to ``last``; ``commands`` maps an epoch to (command, whether it works)."""
    rows = {}
    for epoch in range(last + 1):
        command, works = commands.get(epoch, (None, True))
        assert slot.step(command, (measured or {}).get(epoch, HEALTHY)) is works, f"epoch {epoch}"
        rows[epoch] = slot.row()
        slot.train()
    return rows


def check(rows, expected):
    assert {epoch: rows[epoch] for epoch in expected} == expected


def test_trace_a_from_germination_to_fossil():
    commands = {
        0: (SIGMOID_5, True),
        1: (Advance(), True),
        5: (Advance(), False),
        11: (Advance(), True),
        12: (Advance(), False),
        16: (Advance(), True),
        17: (Fossilize(), False),
        18: (Fossilize(), True),
    }
    rows = play(Slot(), 20, commands, {18: WORTHY})
    expected = {
        0: ("GERMINATED", 0.0, "HOLD", "0/0", 0, 0, "DORMANT", 0),
        1: ("TRAINING", 0.0, "HOLD", "0/0", 0, 1, "GERMINATED", 1),
        5: ("TRAINING", 0.0, "HOLD", "0/0", 4, 5, "GERMINATED", 1),
        11: ("BLENDING", 0.0242, "UP", "1/5", 0, 11, "TRAINING", 10),
        12: ("BLENDING", 0.2301, "UP", "2/5", 1, 12, "TRAINING", 10),
        13: ("BLENDING", 0.7699, "UP", "3/5", 2, 13, "TRAINING", 10),
        14: ("BLENDING", 0.9758, "UP", "4/5", 3, 14, "TRAINING", 10),
        15: ("BLENDING", 1.0, "HOLD", "5/5", 4, 15, "TRAINING", 10),
        16: ("HOLDING", 1.0, "HOLD", "5/5", 0, 16, "BLENDING", 5),
        17: ("HOLDING", 1.0, "HOLD", "5/5", 1, 17, "BLENDING", 5),
        18: ("FOSSILIZED", 1.0, "HOLD", "5/5", 0, 18, "HOLDING", 2),
        20: ("FOSSILIZED", 1.0, "HOLD", "5/5", 2, 20, "HOLDING", 2),
    }
    check(rows, expected)


def test_trace_b_hold_demote_promote_and_fade_out():
    commands = {
        0: (LINEAR_3, True),
        1: (Advance(), True),
        11: (Advance(), True),
        14: (Advance(), True),
        15: (SetAlphaTarget(0.5, 3, AlphaCurve.COSINE), True),
        20: (SetAlphaTarget(1.0, 0), True),
        22: (Prune(3, AlphaCurve.SIGMOID, 12.0), True),
    }
    rows = play(Slot(), 31, commands)
    expected = {
        11: ("BLENDING", 0.3333, "UP", "1/3", 0, 11, "TRAINING", 10),
        12: ("BLENDING", 0.6667, "UP", "2/3", 1, 12, "TRAINING", 10),
        13: ("BLENDING", 1.0, "HOLD", "3/3", 2, 13, "TRAINING", 10),
        14: ("HOLDING", 1.0, "HOLD", "3/3", 0, 14, "BLENDING", 3),
        15: ("BLENDING", 0.875, "DOWN", "1/3", 0, 15, "HOLDING", 1),
        16: ("BLENDING", 0.625, "DOWN", "2/3", 1, 16, "HOLDING", 1),
        17: ("BLENDING", 0.5, "HOLD", "3/3", 2, 17, "HOLDING", 1),
        18: ("BLENDING", 0.5, "HOLD", "3/3", 3, 18, "HOLDING", 1),
        20: ("BLENDING", 1.0, "HOLD", "0/0", 5, 20, "HOLDING", 1),
        22: ("BLENDING", 0.8827, "DOWN", "1/3", 7, 22, "HOLDING", 1),
        23: ("BLENDING", 0.1173, "DOWN", "2/3", 8, 23, "HOLDING", 1),
        24: ("PRUNED", 0.0, "HOLD", "0/0", 0, 24, "BLENDING", 9),
        25: ("EMBARGOED", 0.0, "HOLD", "0/0", 0, 25, "PRUNED", 1),
        26: ("EMBARGOED", 0.0, "HOLD", "0/0", 1, 26, "PRUNED", 1),
        29: ("EMBARGOED", 0.0, "HOLD", "0/0", 4, 29, "PRUNED", 1),
        30: ("RESETTING", 0.0, "HOLD", "0/0", 0, 30, "EMBARGOED", 5),
        31: ("empty",),
    }
    check(rows, expected)


def test_trace_c_a_prune_in_training_frees_the_slot_after_six_steps():
    commands = {0: (LINEAR_3, True), 1: (Advance(), True), 6: (Prune(8), True), 12: (None, True), 13: (LINEAR_3, True)}
    rows = play(Slot(), 13, commands)
    expected = {
        5: ("TRAINING", 0.0, "HOLD", "0/0", 4, 5, "GERMINATED", 1),
        6: ("EMBARGOED", 0.0, "HOLD", "0/0", 0, 6, "PRUNED", 0),
        7: ("EMBARGOED", 0.0, "HOLD", "0/0", 1, 7, "PRUNED", 0),
        10: ("EMBARGOED", 0.0, "HOLD", "0/0", 4, 10, "PRUNED", 0),
        11: ("RESETTING", 0.0, "HOLD", "0/0", 0, 11, "EMBARGOED", 5),
        12: ("empty",),
        13: ("GERMINATED", 0.0, "HOLD", "0/0", 0, 0, "DORMANT", 0),
    }
    check(rows, expected)


@pytest.mark.parametrize("strict", [False, True])
def test_with_all_gates_automatic_a_seed_reaches_holding_and_stays(strict):
    rules = rules_with(
        frozenset({Gate.G1, Gate.G2, Gate.G3}),
        min_training_epochs=4,
        min_blending_epochs=5,
        strict=strict,
        min_training_improvement_pp=0.0,
        min_gradient_ratio=0.0,
    )
    measured = dict.fromkeys(range(40), WORTHY)
    if strict:
        fine = type(WORTHY)(improvement_pp=1.0, gradient_ratio=1.0, contribution_pp=2.0, finite=True)
        measured = dict.fromkeys(range(40), fine)
    rows = play(Slot(rules), 39, {0: (LINEAR_3, True)}, measured)
    landed = 9 if strict else 6  # strictly, five epochs of blending come first
    expected = {
        0: ("TRAINING", 0.0, "HOLD", "0/0", 0, 0, "GERMINATED", 0),
        3: ("TRAINING", 0.0, "HOLD", "0/0", 3, 3, "GERMINATED", 0),
        4: ("BLENDING", 0.3333, "UP", "1/3", 0, 4, "TRAINING", 4),
        5: ("BLENDING", 0.6667, "UP", "2/3", 1, 5, "TRAINING", 4),
        landed: ("HOLDING", 1.0, "HOLD", "3/3", 0, landed, "BLENDING", landed - 4),
        39: ("HOLDING", 1.0, "HOLD", "3/3", 39 - landed, 39, "BLENDING", landed - 4),
    }
    check(rows, expected)


def test_a_partial_target_stays_in_blending_with_automatic_gates():
    rules = rules_with(frozenset({Gate.G1, Gate.G2, Gate.G3}), min_training_epochs=1)
    half = Germinate("r0c0-1", "norm", GerminationStyle.LINEAR_ADD, 3, 0.5)
    rows = play(Slot(rules), 40, {0: (half, True)})
    expected = {
        1: ("BLENDING", 0.1667, "UP", "1/3", 0, 1, "TRAINING", 1),
        3: ("BLENDING", 0.5, "HOLD", "3/3", 2, 3, "TRAINING", 1),
        40: ("BLENDING", 0.5, "HOLD", "3/3", 39, 40, "TRAINING", 1),
    }
    check(rows, expected)

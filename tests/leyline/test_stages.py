"""Stages: numbers, transitions and stage sets."""

import pytest

from esper_ray.leyline.stages import (
    AMPLIFIED,
    COOLDOWN,
    DEVELOPING,
    IN_FORWARD,
    PRUNABLE,
    STAGES,
    TRANSITIONS,
    WITH_MODULE,
    Stage,
    can_transition,
)

NUMBERS = {
    "UNKNOWN": 0,
    "DORMANT": 1,
    "GERMINATED": 2,
    "TRAINING": 3,
    "BLENDING": 4,
    "HOLDING": 6,
    "FOSSILIZED": 7,
    "PRUNED": 8,
    "EMBARGOED": 9,
    "RESETTING": 10,
}
LEGAL = {
    (0, 1),
    (1, 2),
    (2, 3),
    (2, 8),
    (3, 4),
    (3, 8),
    (4, 6),
    (4, 8),
    (6, 7),
    (6, 4),
    (6, 8),
    (8, 9),
    (9, 10),
    (10, 1),
}


def test_the_numbers_of_the_ten_stages_are_stable():
    assert {stage.name: stage.value for stage in Stage} == NUMBERS


@pytest.mark.parametrize("number", [-1, 5, 11])
def test_five_is_reserved_and_other_numbers_are_no_stage(number):
    with pytest.raises(ValueError, match=str(number)):
        Stage(number)


def test_one_hot_order_skips_the_reserved_number():
    assert [int(stage) for stage in STAGES] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_exactly_the_listed_transitions_are_legal():
    assert {(int(a), int(b)) for a in Stage for b in Stage if can_transition(a, b)} == LEGAL


def test_advance_leads_to_the_first_listed_target():
    first = {source.name: targets[0].name for source, targets in TRANSITIONS.items() if targets}
    assert first["GERMINATED"] == "TRAINING"
    assert first["TRAINING"] == "BLENDING"
    assert first["BLENDING"] == "HOLDING"
    assert first["HOLDING"] == "FOSSILIZED"


def test_a_fossil_is_final():
    assert TRANSITIONS[Stage.FOSSILIZED] == ()


def test_transitions_cannot_be_edited():
    with pytest.raises(TypeError):
        TRANSITIONS[Stage.FOSSILIZED] = (Stage.PRUNED,)


def test_stage_sets_hold_the_stages_of_their_names():
    assert {2, 3} == DEVELOPING
    assert {4, 6, 7} == AMPLIFIED
    assert {3, 4, 6, 7} == IN_FORWARD
    assert {2, 3, 4, 6} == PRUNABLE
    assert {8, 9, 10} == COOLDOWN
    assert {2, 3, 4, 6, 7} == WITH_MODULE


def test_the_prunable_stages_are_those_that_may_turn_pruned():
    assert {stage for stage in Stage if can_transition(stage, Stage.PRUNED)} == PRUNABLE

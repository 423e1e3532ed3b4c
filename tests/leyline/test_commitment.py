"""Committed slots, parameters and accuracy, from reports and measurements."""

import pytest
from transition_builders import EMPTY, plain, report, solo, table

from esper_ray.leyline.commitment import (
    committed_accuracy_pp,
    committed_among,
    committed_parameters,
    committed_players,
    committed_slots,
)
from esper_ray.leyline.stages import Stage

MIXED = (report("r0c0", Stage.FOSSILIZED, parameters=30), None, report("r0c2", Stage.HOLDING, parameters=7))


def test_committed_slots_and_parameters_are_those_of_fossilized_seeds():
    assert committed_slots(MIXED) == {"r0c0"}
    assert committed_parameters(MIXED) == 30
    assert (committed_slots(EMPTY), committed_parameters(EMPTY)) == (frozenset(), 0)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.FOSSILIZED])
def test_seeds_in_other_stages_are_not_committed(stage):
    assert committed_among([("r0c0", stage)]) == committed_slots((report("r0c0", stage),)) == frozenset()
    assert committed_parameters((report("r0c0", stage),)) == 0


def test_committed_accuracy_is_that_with_every_other_seed_off():
    measured = table({(): 20.0, ("r0c0",): 30.0, ("r0c2",): 40.0, ("r0c0", "r0c2"): 50.0})
    assert committed_accuracy_pp(committed_slots(MIXED), measured) == 30.0
    assert committed_accuracy_pp(frozenset(), measured) == 20.0
    assert committed_accuracy_pp(frozenset(), solo("r0c1", 33.0, 44.0)) == 33.0


def test_committed_accuracy_without_players_is_the_accuracy():
    assert committed_accuracy_pp({"r0c0"}, plain(21.0)) == 21.0
    assert committed_players({"r0c0"}, plain(21.0)) == frozenset()

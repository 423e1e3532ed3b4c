"""Records added at once give the state of records added one by one."""

import copy
import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nissa_builders import complete
from serial_runs import run
from state_builders import finished_round, lives, moved, outcome, report, step

from esper_ray.nissa.state.fold import SECTIONS, best_of
from esper_ray.nissa.state.run_state import RunState

pytestmark = pytest.mark.integration


def one_by_one(records, state=None):
    return functools.reduce(RunState.apply, records, state or RunState())


@given(lives(), st.data())
def test_any_batches_of_any_log_give_exactly_one_state(records, data):
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=4).map(sorted))
    state = RunState()
    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        before = copy.deepcopy(state)
        later = state.advance(records[begin:end])
        assert state == before
        state = later
    assert state == one_by_one(records) == RunState.of(records)


def test_a_batch_of_a_run_gives_exactly_the_state_of_its_records_one_by_one(tmp_path):
    records = list(run(tmp_path)[0].events())
    assert RunState.of(records) == one_by_one(records)


@given(lives(), st.integers(0, 3))
def test_a_batch_drops_the_previews_that_its_records_overtake(records, episode):
    state = RunState().preview(step(env=0, episode=episode, round=0)).preview(step(env=1, episode=9, round=0))
    assert state.advance(records) == one_by_one(records, state)


def test_a_record_that_is_not_as_declared_leaves_the_state_as_it_was():
    state = RunState.of([step(number=1)])
    before = copy.deepcopy(state)
    with pytest.raises(KeyError):
        state.advance([step(number=2), {"kind": "env_epoch", "env": 0}])
    with pytest.raises(KeyError):
        state.advance([step(number=2, slots={"r0c0": report("NO STAGE")})])
    assert state == before


def test_no_records_change_nothing():
    state = RunState.of([step(number=1), outcome(0, 1.0, 50.0), finished_round(0, 0.5)])
    assert state.advance([]) == state


def test_the_sections_are_numbered_by_the_newest_record_of_their_kinds():
    state = RunState.of([moved("DORMANT", "GERMINATED"), step(), complete({"kind": "gate"}), step()])
    assert (state.changed["seeds"], state.changed["gates"], state.changed["reward"]) == (1, 3, 4)
    assert state.changed.keys() <= SECTIONS.keys()


def test_the_better_of_two_is_the_first_of_equals_and_never_unmeasured():
    def value(pair):
        return pair[0]

    assert best_of((1.0, "a"), (1.0, "b"), value) == (1.0, "a")
    assert best_of((1.0, "a"), (2.0, "b"), value) == (2.0, "b")
    assert best_of(None, (None, "b"), value) is None
    assert best_of((1.0, "a"), (None, "b"), value) == (1.0, "a")

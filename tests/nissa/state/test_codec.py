"""The JSON form of a state gives the same state again."""

import json

import pytest
from hypothesis import given
from serial_runs import run
from state_builders import lives

from esper_ray.leyline.errors import Fault
from esper_ray.nissa.runs.run_files import as_numbers
from esper_ray.nissa.state.codec import StateError, state_from_json, state_to_json
from esper_ray.nissa.state.run_state import RunState

pytestmark = pytest.mark.integration


def again(state):
    return state_from_json(json.loads(json.dumps(state_to_json(state), allow_nan=False)))


@given(lives())
def test_the_state_of_any_log_survives_its_json_form(records):
    state = RunState.of(records)
    assert again(state) == state


def test_the_state_of_a_run_survives_its_json_form(tmp_path):
    directory, *_ = run(tmp_path)
    state = RunState.of(
        directory.events(), map(as_numbers, directory.timings()), [Fault("learner_died", "learner", "killed", 2.0)]
    )
    assert again(state) == state
    assert json.dumps(state_to_json(state)) == json.dumps(state_to_json(again(state)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree | {"version": 99}, "version"),
        (lambda tree: tree | {"events": 1}, "version"),
        (lambda tree: [tree], "version"),
        (lambda tree: tree | {"state": {"totals": {"steps": "many"}}}, "totals.steps"),
        (lambda tree: tree | {"state": None}, "state|dictionary|valid"),
    ],
)
def test_a_state_of_another_form_is_refused(change, message):
    with pytest.raises(StateError, match=message):
        state_from_json(change(state_to_json(RunState())))

"""Steps of episodes in play: written, bounded, cut at the end of their round."""

import json
import math

import pytest
from nissa_builders import complete

from esper_ray.leyline.files.durable import WriteError
from esper_ray.nissa.runs.live_steps import LIVE_FIELDS, LIVE_FULL, LiveSteps
from esper_ray.nissa.state.run_state import RunState


def step(index, env=0, round_index=0, **more):
    clock = {"round": round_index, "episode": 4 * round_index + env, "env": env, "step": index}
    return complete({"kind": "env_epoch", **clock, "operation": "WAIT", "success": True, **more})


def lines_of(live):
    return [json.loads(line) for line in live.path.read_text().splitlines()]


@pytest.fixture
def live(tmp_path):
    live = LiveSteps(tmp_path)
    live.start()
    return live


def test_a_step_is_written_with_the_fields_that_viewers_need(live):
    live.add([step(1, reward=0.5), complete({"kind": "decision", "round": 0, "episode": 0, "env": 0, "step": 1})])
    (line,) = lines_of(live)
    assert set(line) == set(LIVE_FIELDS)
    assert (line["step"], line["reward"]) == (1, 0.5)


def test_the_lines_advance_a_state_like_the_records(live):
    records = [step(1), step(1, env=1), step(2, val_accuracy_pp=51.0)]
    live.add(records)
    states = []
    for given in (records, lines_of(live)):
        state = RunState()
        for record in given:
            state = state.preview(record)
        states.append(state)
    assert states[0] == states[1]
    assert states[1].previews[0].val_accuracy_pp == 51.0


def test_the_lines_of_a_finished_round_are_cut_and_later_ones_stay(live):
    live.add([step(1), step(1, round_index=1), step(2)])
    live.finish_round(0)
    assert [line["round"] for line in lines_of(live)] == [1]
    live.add([step(2, round_index=1)])
    assert [line["step"] for line in lines_of(live)] == [1, 2]


def test_numbers_that_are_not_finite_are_null(live):
    live.add([step(1, reward=math.nan)])
    (line,) = lines_of(live)
    assert line["reward"] is None
    assert line["nonfinite"] == ["reward"]


def test_a_full_file_says_so_once_and_is_empty_again_after_the_round(tmp_path):
    live = LiveSteps(tmp_path, limit=3000)
    live.start()
    for index in range(20):
        live.add([step(index)])
    lines = lines_of(live)
    assert [line["kind"] for line in lines].count(LIVE_FULL) == 1
    assert lines[-1] == {"kind": LIVE_FULL, "round": 0, "limit": 3000}
    assert live.path.stat().st_size <= 3000 + 100
    live.finish_round(0)
    live.add([step(1, round_index=1)])
    assert [line["kind"] for line in lines_of(live)] == ["env_epoch"]


def test_lines_of_an_earlier_process_are_removed_at_the_start(tmp_path):
    (tmp_path / "live.jsonl").write_text("an earlier line\n")
    live = LiveSteps(tmp_path)
    live.start()
    assert live.path.read_text() == ""


def test_a_file_that_cannot_be_written_is_an_error_of_writing(tmp_path):
    live = LiveSteps(tmp_path / "missing")
    with pytest.raises(WriteError, match=r"live\.jsonl|missing"):
        live.start()

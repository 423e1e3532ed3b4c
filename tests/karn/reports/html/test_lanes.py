"""Episodes as lanes: blocks of stages, operations, accuracy against the control."""

import pytest
from nissa_builders import complete
from report_builders import checked, episode, pictures
from state_builders import report

from esper_ray.karn.reports.html.lanes import EpisodeRecords, lanes


def records_of(accuracies, *, control=(), own=False, **more):
    records = episode(4, accuracies, **more)
    steps = tuple(record for record in records if record["kind"] == "env_epoch")
    rollback = next((record for record in records if record["kind"] == "rollback"), None)
    return EpisodeRecords("best", records[-1], records[0], steps, rollback, tuple(control), own)


def words_in(page):
    return [label.text for picture in pictures(page) for label in picture.iter("text")]


def with_steps(steps):
    base = records_of([30.0])
    return EpisodeRecords("best", base.outcome, None, tuple(steps), None, (), False)


def step(number, slots, **more):
    return complete({"kind": "env_epoch", "step": number, "operation": "WAIT", "success": True, "slots": slots} | more)


def test_a_stage_is_a_block_with_its_letter_and_the_longest_names_the_blueprint():
    page = lanes(records_of([25.0, 28.0, 29.0, 40.0, 41.0]))
    checked(page)
    assert [word for word in words_in(page) if word in ("T", "B", "H", "F norm")][:4] == ["T", "B", "H", "F norm"]


def test_the_caption_compares_with_the_control_of_the_same_seed():
    page = lanes(records_of([25.0, 40.0], control=(20.0, 22.0, 23.5), own=True))
    assert "It ended at 40.0 % validation accuracy, the same seed without growth at 23.5 %; return +1.00" in page


def test_without_a_control_nothing_is_said_of_it():
    page = lanes(records_of([25.0, 40.0]))
    assert "without growth at" not in page


def test_a_rollback_is_told_with_reason_and_numbers():
    page = lanes(records_of([25.0, 26.0], rollback="loss_spike"))
    assert "The governor rolled it back after step 2: loss_spike (4.5, threshold 3)." in page


def test_operations_are_letters_and_one_without_effect_is_an_x():
    page = lanes(records_of([25.0, 26.0, 27.0], operation="GERMINATE"))
    assert [word for word in words_in(page) if word in ("g", "x")] == ["g", "x", "g"]
    assert "operation without effect" in page


@pytest.mark.parametrize("count", [1, 3, 40, 150, 400, 401])
def test_episodes_of_any_length_fit(count):
    page = lanes(records_of([20.0 + index % 30 for index in range(count)], operation="PRUNE"))
    checked(page)
    assert ("The first 1 of 401 steps are not drawn." in page) == (count == 401)


def test_two_seeds_in_one_slot_are_two_blocks_with_a_gap():
    slots = [report("TRAINING"), report("TRAINING"), None, report("TRAINING", seed="r0c0-2")]
    page = lanes(with_steps([step(n, {} if slot is None else {"r0c0": slot}) for n, slot in enumerate(slots, 1)]))
    assert "Slot r0c0: norm training steps 1 to 2, norm training steps 4 to 4." in page


def test_many_slots_and_text_of_a_run_are_safe():
    evil = "<script>"
    slots = {f"r{row}c{column}": report("HOLDING") | {"blueprint": evil} for row in range(4) for column in range(4)}
    page = lanes(with_steps([step(1, slots, operation=evil, success=True)]))
    checked(page)
    assert "<script" not in page


def test_an_episode_without_steps_says_so():
    assert "The log has no steps of this episode." in lanes(with_steps([]))

"""Damaged checkpoints: refused with file, place, value and constraint, also with a digest that fits."""

import json
import math
import os
import re

import numpy as np
import pytest
import torch
from checkpoint_builders import POSITION, rewrite, state_of
from damage_builders import flipped, mutated_tensors, other_values, places, value_at, with_value, without
from learner_builders import drawn, small_config, synthetic, tensors_equal

from esper_actors.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoints_in,
    load_checkpoint,
    newest_intact,
    remove_later,
    save_checkpoint,
)
from esper_actors.training.learner.ppo import PPOLearner
from esper_actors.training.learner.state import LearnerState, LearnerStateError
from esper_ray.leyline.observation import BASE_CONTINUOUS, SLOT_CONTINUOUS

pytestmark = pytest.mark.integration

CONFIG = small_config(policy__memory_size=8, policy__feature_size=8)
STALE = small_config(policy__memory_size=8, policy__feature_size=8, system__staleness=1)
PROGRESS = {
    "round_index": 1,
    "env_steps": 6,
    "seconds": 0.25,
    "best": {"episode": 1, "val_accuracy_pp": 34.5},
    "best_round": {"round": 0, "val_accuracy_ratio": 0.345, "checkpoint": 0},
    "control_pp": [12.5],
}
FREE_NUMBERS = {"env_steps", "seconds", "episode", "val_accuracy_pp", "val_accuracy_ratio"}
"""Numbers of the progress that nothing else determines: other possible values are accepted."""


@pytest.fixture(scope="module")
def state():
    learner = PPOLearner(CONFIG)
    learner.update([drawn(learner, synthetic(3, [1.0, 0.0, -1.0], i), i) for i in range(2)], 0)
    return learner.state()


@pytest.fixture
def saved(state, tmp_path):
    return save_checkpoint(tmp_path, Checkpoint(1, state, POSITION, PROGRESS), CONFIG)


def refusal(path, config=CONFIG):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, config)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def loads(path):
    """Whether the checkpoint is accepted."""
    try:
        load_checkpoint(path, CONFIG)
    except CheckpointError:
        return False
    return True


def test_every_parameter_has_optimizer_state_before_and_after_an_update(state):
    """Adam makes the state of a parameter at its first gradient; zeros are the same state."""
    fresh = PPOLearner(CONFIG)
    names = {name for name, _ in fresh.network.named_parameters()}
    for tensors in (fresh.state().tensors, state.tensors):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert {name for name in names if f"adam.{name}.{key}" in tensors} == names
    assert all(not tensor.any() for name, tensor in fresh.state().tensors.items() if name.startswith("adam."))


def test_a_learner_loaded_before_its_first_update_learns_like_a_fresh_one():
    results = []
    for load in (False, True):
        learner = PPOLearner(CONFIG)
        if load:
            learner.load(PPOLearner(CONFIG).state())
        learner.update([drawn(learner, synthetic(3, [1.0, 0.0, -1.0], i), i) for i in range(2)], 0)
        results.append(learner.state())
    assert tensors_equal(results[0].tensors, results[1].tensors)


def test_every_flipped_bit_is_refused(saved):
    rng = np.random.default_rng(21)
    for name in ("learner.safetensors", "state.json"):
        content = (saved / name).read_bytes()
        for place in rng.integers(0, len(content), 20):
            (saved / name).write_bytes(flipped(content, int(place), int(rng.integers(8))))
            if json.loads(content if name == "state.json" else "0") != _parsed(saved / "state.json", name):
                refusal(saved)
        (saved / name).write_bytes(content)
    load_checkpoint(saved, CONFIG)


def _parsed(path, name):
    """The content of ``state.json``; nothing for another file or what is not JSON."""
    if name != "state.json":
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize("seed", range(15))
def test_another_set_shape_or_type_of_tensors_is_refused_by_name(saved, seed):
    def change(tensors):
        what, mutated = mutated_tensors(dict(tensors), np.random.default_rng(seed))
        names.append(what.split()[0])
        tensors.clear()
        tensors.update(mutated)

    names = []
    rewrite(saved, change_tensors=change)
    assert f"learner.safetensors: tensor {names[0]} " in refusal(saved)


@pytest.mark.parametrize(
    ("tensor", "value", "rule"),
    [
        ("network.op_head.0.weight", float("nan"), "it must be finite"),
        ("network.op_head.0.weight", float("inf"), "it must be finite"),
        ("network.normaliser.base_deviation", 0.0, "it must be above 0"),
        ("network.value_scale", -1.0, "it must be at least 0"),
        ("adam.op_head.0.weight.exp_avg", float("nan"), "it must be finite"),
        ("adam.op_head.0.weight.exp_avg_sq", float("inf"), "it must be finite"),
        ("adam.op_head.0.weight.exp_avg_sq", -1e-9, "it must be at least 0"),
        ("adam.op_head.0.weight.step", 1.5, "it must be a whole number"),
        ("adam.op_head.0.weight.step", -1.0, "it must be at least 0"),
        ("adam.op_head.0.weight.step", 1e30, "it must be at most 1.67772e+07 in size"),
        ("adam.op_head.0.weight.exp_avg", -1.1e9, "it must be at most 1e+09 in size"),
        ("adam.op_head.0.weight.exp_avg_sq", 1.1e18, "it must be at most 1e+18 in size"),
    ],
)
def test_an_impossible_number_is_refused_with_tensor_value_and_rule(saved, tensor, value, rule):
    rewrite(saved, change_tensors=lambda tensors: tensors[tensor].view(-1)[:1].fill_(value))
    message = refusal(saved)
    assert f"learner.safetensors: tensor {tensor} has {value:g}" in message
    assert rule in message


@pytest.mark.slow
@pytest.mark.parametrize("tries", [1, pytest.param(4, marks=pytest.mark.nightly)])
def test_every_field_of_the_state_is_refused_if_it_is_missing_or_of_another_type(tries, saved):
    tree, rng, accepted = state_of(saved), np.random.default_rng(3), []
    for path in places(tree, most=2):
        if isinstance(path[-1], str) and path[:3] != ("position", "events", "sources"):
            rewrite(saved, lambda state, path=path: _replace(state, without(tree, path)))
            refusal(saved)
        values = other_values(tree, path)
        for index in rng.permutation(len(values))[:tries]:
            value = values[index]
            rewrite(saved, lambda state, path=path, value=value: _replace(state, with_value(tree, path, value)))
            accepted += [(path, value)] if loads(saved) else []
    for path, value in accepted:
        free = isinstance(value_at(tree, path), float) or path[-1] in FREE_NUMBERS
        digest = path[0] == "position" and re.fullmatch("[0-9a-f]{64}", str(value))  # of files that are not here
        assert digest or value in ([], {}) or (free and isinstance(value, int | float) and math.isfinite(value)), (
            path,
            value,
        )


def events_of(state):
    return state["position"]["events"]


def _replace(state, other):
    state.clear()
    state.update(other)


@pytest.mark.parametrize("key", ["round", "numbers", "position", "progress", "stale", "config_sha256", "actions"])
def test_a_state_that_lacks_a_part_is_refused_with_its_name(saved, key):
    rewrite(saved, lambda state: state.pop(key))
    assert f"state.json is damaged: {key}: Field required" in refusal(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(round=2), "progress.round_index is 1, it must be 2, as round is"),
        (lambda state: state["numbers"].update(updates=7), "updates is 7, it must be 1, as round is"),
        (lambda state: state["numbers"].update(updates=True), "numbers.updates: Input should be a valid integer"),
        (
            lambda state: state["numbers"]["base_moments"][2].pop(),
            "numbers.base_moments.2: List should have at least 23",
        ),
        (
            lambda state: state["numbers"]["slot_moments"][2].__setitem__(0, -1.0),
            "slot_moments.2.0: Input should be greater",
        ),
        (lambda state: state["numbers"].update(reward_offset=None), "reward_offset is None, return_moments counts 6"),
        (lambda state: state["position"].pop("rounds"), "position.rounds: Field required"),
        (lambda state: state["position"].update(x=3), "position.x: Extra inputs are not permitted"),
        (lambda state: state["position"]["rounds"].update(size=-1), "position.rounds.size: Input should be greater"),
        (lambda state: state["position"]["timings"].update(sha256="A" * 64), "position.timings.sha256: String should"),
        (lambda state: events_of(state).pop("sequence"), "position.events.sequence: Field required"),
        (lambda state: events_of(state).update(sequence=3), "position.events: sequence is 3, its sources have 4"),
        (lambda state: events_of(state).update(sequence=-1), "position.events.sequence: Input should be greater"),
        (lambda state: events_of(state).update(lines_from=5), "lines_from is 5, at most sequence, 4, is possible"),
        (lambda state: state.update(stale=True), "stale is True, learner.safetensors has 0 stale weights"),
        (lambda state: state.update(extra=1), "extra: Extra inputs are not permitted"),
        (
            lambda state: state["progress"]["best_round"].update(checkpoint=99),
            "progress.best_round.checkpoint is 99, round 0 was played by the policy of that checkpoint",
        ),
        (lambda state: state["progress"]["best_round"].update(round=1), "best_round.round is 1, it must be below 1"),
        (lambda state: state["progress"].update(env_steps=7), "progress.env_steps is 7, at most 6 are possible"),
        (lambda state: state["progress"]["best"].update(episode=2), "progress.best.episode is 2, at most 1 are"),
        (
            lambda state: state["progress"].update(control_pp=[1.0, 2.0, 3.0]),
            "progress.control_pp is 3, at most 2 are possible after 1 rounds of 2 episodes",
        ),
        (lambda state: state["progress"].update(seconds=1e300), "progress.seconds: Input should be less than"),
    ],
)
def test_counts_that_disagree_are_refused_with_both_values(saved, change, message):
    rewrite(saved, change)
    assert message in refusal(saved)


def moments(name, index, change):
    return lambda state: state["numbers"][f"{name}_moments"].__setitem__(index, change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["numbers"].update(reward_offset=1e300), "reward_offset: Input should be less than"),
        (lambda state: state["numbers"].update(reward_offset=-1.1e12), "reward_offset: Input should be greater"),
        (moments("return", 1, [1e300]), "return_moments: mean 0 is 1e+300, of 6 numbers up to 1e+18 in size"),
        (moments("return", 2, [1e308]), "return_moments: the sum of squares 0 is 1e+308, at most 2.4e+37"),
        (moments("return", 0, 1e300), "return_moments: the count is 1e+300, it must be a whole number"),
        (moments("base", 1, [0.0] * 22 + [-10.1]), "base_moments: mean 22 is -10.1, of 6 numbers up to 10"),
        (moments("base", 2, [2401.0] + [0.0] * 22), "base_moments: the sum of squares 0 is 2401, at most 2400"),
        (moments("slot", 2, [0.0] * 30 + [1e308]), "slot_moments: the sum of squares 30 is 1e+308"),
        (moments("slot", 0, 0.5), "slot_moments: the count is 0.5, it must be a whole number"),
        (moments("slot", 0, 0.0), "slot_moments: mean 0 is 1, of 0 numbers"),
        (moments("base", 0, 7.0), "base_moments counts 7, return_moments 6: both count the steps of all episodes"),
    ],
)
def test_moments_of_no_possible_data_are_refused_with_their_bound(saved, change, message):
    rewrite(saved, change)
    assert message in refusal(saved)


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (
            lambda state: state["numbers"]["base_moments"][2].__setitem__(BASE_CONTINUOUS.index(True), 1.5),
            "normaliser.base_deviation has",
        ),
        (
            lambda state: state["numbers"]["slot_moments"][1].__setitem__(SLOT_CONTINUOUS.index(True), 0.9),
            "normaliser.slot_mean has",
        ),
        (lambda state: state["numbers"]["return_moments"][1].__setitem__(0, 3.0), "value_mean has"),
        (lambda state: state["numbers"]["return_moments"][2].__setitem__(0, 5.0), "value_scale has"),
    ],
)
def test_moments_from_which_the_tensors_do_not_follow_are_refused(saved, change, tensor):
    rewrite(saved, change)
    message = refusal(saved)
    assert f"tensor network.{tensor}" in message
    assert "the moments in the numbers give" in message


def test_a_mean_gradient_that_exceeds_its_mean_square_is_refused(saved):
    name = "adam.op_head.0.weight.exp_avg"
    rewrite(saved, change_tensors=lambda tensors: tensors[name].view(-1)[5:6].fill_(1e8))
    assert f"tensor {name} has 1e+08, its mean square is" in refusal(saved)


def test_a_step_count_that_differs_from_the_others_is_refused(saved):
    rewrite(saved, change_tensors=lambda tensors: tensors["adam.op_head.0.weight.step"].fill_(5000.0))
    message = refusal(saved)
    assert "tensor adam.op_head.0.weight.step has 5000, adam." in message
    assert "all parameters are stepped together" in message


@pytest.mark.parametrize(
    ("key", "message"),
    [("step", "has 1, it must be 0 before the first update"), ("exp_avg_sq", "has 1, it must be 0 before the first")],
)
def test_an_untrained_learner_with_optimizer_state_is_refused(key, message):
    learner = PPOLearner(CONFIG)
    state = learner.state()
    for name, tensor in state.tensors.items():
        if name.startswith("adam.") and name.endswith(f".{key}"):
            tensor.fill_(1.0)
    with pytest.raises(LearnerStateError, match=message):
        learner.load(state)


def test_a_checkpoint_under_the_name_of_another_round_is_refused(saved):
    os.rename(saved, saved.with_name("round-00003"))
    assert "round is 1, the folder is of another one" in refusal(saved.with_name("round-00003"))


def test_a_key_that_occurs_twice_is_refused(saved):
    text = (saved / "state.json").read_text()
    (saved / "state.json").write_text(text.replace('"round": 1', '"round": 1, "round": 1', 1))
    assert "the key 'round' occurs twice" in refusal(saved)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"kind": 1' + "0" * 5000 + "}", "\xff", ""])
def test_text_that_no_parser_likes_is_refused(saved, text):
    (saved / "state.json").write_bytes(text.encode("latin-1"))
    assert "is damaged: it is not JSON" in refusal(saved)


def test_a_pipe_and_a_file_that_is_too_large_are_refused_without_reading(saved):
    (saved / "learner.safetensors").unlink()
    os.mkfifo(saved / "learner.safetensors")
    assert "is not a regular file" in refusal(saved)
    (saved / "learner.safetensors").unlink()
    with (saved / "learner.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    assert "learner.safetensors has 1099511627776 bytes, at most" in refusal(saved)


def test_stale_weights_are_checked_like_those_of_the_learner(state, tmp_path):
    stale = {name: tensor.clone() for name, tensor in state.weights().items()}
    path = save_checkpoint(tmp_path, Checkpoint(1, state, POSITION, PROGRESS, stale), STALE)
    assert tensors_equal(load_checkpoint(path, STALE).stale_weights, stale)
    rewrite(path, change_tensors=lambda tensors: tensors.pop("behind.value_scale"))
    assert "stale weights: tensor value_scale is missing" in refusal(path, STALE)


def test_missing_stale_weights_are_refused(state, tmp_path):
    learner = LearnerState(state.tensors, state.numbers | {"updates": 2})
    path = save_checkpoint(tmp_path, Checkpoint(2, learner, POSITION, PROGRESS | {"round_index": 2}), STALE)
    assert "stale is False, learner.safetensors has 0 stale weights, after round 2 with system.staleness 1" in refusal(
        path, STALE
    )


def test_a_state_that_could_not_be_loaded_is_not_written(state, tmp_path):
    save_checkpoint(tmp_path, Checkpoint(1, state, POSITION, PROGRESS), CONFIG)
    broken = dict(state.tensors) | {"network.value_scale": torch.tensor(float("nan"))}
    learner = LearnerState(broken, state.numbers | {"updates": 2})
    with pytest.raises(CheckpointError, match=r"tensor network\.value_scale has nan, it must be finite"):
        save_checkpoint(tmp_path, Checkpoint(2, learner, POSITION, PROGRESS | {"round_index": 2}), CONFIG, keep=1)
    assert os.listdir(tmp_path) == ["round-00001"]


@pytest.mark.parametrize("seed", range(6))
def test_a_learner_that_refuses_a_state_is_as_it_was(state, seed):
    learner = PPOLearner(CONFIG)
    learner.update([drawn(learner, synthetic(3, [0.5, 0.0, 1.0], i), i) for i in range(2)], 0)
    before = learner.state()
    _, tensors = mutated_tensors(dict(state.tensors), np.random.default_rng(seed))
    for broken in (LearnerState(tensors, state.numbers), LearnerState(state.tensors, state.numbers | {"updates": "1"})):
        with pytest.raises(LearnerStateError):
            learner.load(broken)
    assert tensors_equal(learner.state().tensors, before.tensors)
    assert learner.state().numbers == before.numbers


def test_the_newest_intact_checkpoint_is_found_and_later_ones_are_removed(state, tmp_path):
    for index in (1, 2, 3, 4):
        learner = LearnerState(state.tensors, state.numbers | {"updates": index})
        checkpoint = Checkpoint(index, learner, POSITION, PROGRESS | {"round_index": index})
        save_checkpoint(tmp_path, checkpoint, CONFIG)
    (tmp_path / "round-00004" / "state.json").unlink()
    rewrite(tmp_path / "round-00003", change_tensors=lambda tensors: tensors.pop("network.value_scale"))
    assert newest_intact(tmp_path, CONFIG) == tmp_path / "round-00002"
    remove_later(tmp_path, 2)
    assert (
        [path.name for path in checkpoints_in(tmp_path)]
        == sorted(os.listdir(tmp_path))
        == ["round-00001", "round-00002"]
    )

"""Checkpoints: exact, atomic, and refused if they do not fit."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from checkpoint_builders import POSITION, rewrite, rewrite_envelope, state_of
from learner_builders import drawn, small_config, synthetic, tensors_equal

from esper_actors.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoints_in,
    load_checkpoint,
    save_checkpoint,
)
from esper_actors.training.learner.ppo import PPOLearner
from esper_actors.training.learner.state import LearnerState
from esper_policies.bundle import weights_digest
from esper_ray.leyline.files.digests import FilePrefix

pytestmark = pytest.mark.integration

CONFIG = small_config()
PROGRESS = {
    "round_index": 1,
    "env_steps": 6,
    "seconds": 0.1,
    "best": {"episode": 1, "val_accuracy_pp": 34.5},
    "best_round": {},
    "control_pp": [12.5],
}


@pytest.fixture(scope="module")
def state():
    """State of a learner after one update, with weights, optimizer and statistics."""
    learner = PPOLearner(CONFIG)
    learner.update([drawn(learner, synthetic(3, [1.0, 0.0, -1.0], i), i) for i in range(2)], 0)
    return learner.state()


@pytest.fixture
def saved(state, tmp_path):
    return save_checkpoint(tmp_path, Checkpoint(1, state, POSITION, PROGRESS), CONFIG)


@pytest.fixture(scope="module")
def checkpoint(state):
    """Function that makes a checkpoint after a number of rounds."""

    def at(index):
        learner = LearnerState(state.tensors, state.numbers | {"updates": index})
        return Checkpoint(index, learner, POSITION, PROGRESS | {"round_index": index})

    return at


def names(folder):
    return [path.name for path in checkpoints_in(folder)]


def test_a_loaded_checkpoint_equals_the_saved_one_bit_for_bit(saved, state):
    loaded = load_checkpoint(saved, CONFIG)
    assert tensors_equal(loaded.learner.tensors, state.tensors)
    assert loaded.learner.numbers == state.numbers
    assert (loaded.round_index, loaded.position, loaded.progress) == (1, POSITION, PROGRESS)
    assert {tensor.dtype for tensor in state.tensors.values()} == {torch.float32}
    assert any(name.startswith("adam.lstm") and name.endswith("exp_avg_sq") for name in loaded.learner.tensors)


def test_a_learner_loaded_from_disk_learns_bit_for_bit_like_the_original(saved, state):
    results = []
    for source in (state, load_checkpoint(saved, CONFIG).learner):
        learner = PPOLearner(CONFIG)
        learner.load(LearnerState({n: t.clone() for n, t in source.tensors.items()}, source.numbers))
        learner.update([drawn(learner, synthetic(3, [0.0, 2.0, 1.0], i), i) for i in range(2)], 1)
        results.append(learner.state())
    assert tensors_equal(results[0].tensors, results[1].tensors)
    assert results[0].numbers == results[1].numbers


@pytest.mark.parametrize("broken", ["safetensors.torch.save", "json.dumps", "os.replace"])
def test_a_crash_while_writing_leaves_only_complete_checkpoints(broken, tmp_path, monkeypatch, checkpoint):
    save_checkpoint(tmp_path, checkpoint(1), CONFIG)

    def crash(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(broken, crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, checkpoint(2), CONFIG, keep=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["round-00001"]
    assert sorted(p.name for p in tmp_path.glob("round-*")) == ["round-00001"]
    save_checkpoint(tmp_path, checkpoint(2), CONFIG, keep=1)
    assert names(tmp_path) == ["round-00002"]
    assert load_checkpoint(checkpoints_in(tmp_path)[0], CONFIG).learner.numbers["updates"] == 2
    assert os.listdir(tmp_path) == ["round-00002"]  # remains of the crash are removed


def test_saving_a_round_again_replaces_its_checkpoint(tmp_path, checkpoint):
    save_checkpoint(tmp_path, checkpoint(1), CONFIG)
    position = POSITION.model_copy(update={"rounds": FilePrefix.of(b"round\n1\n")})
    path = save_checkpoint(tmp_path, replace(checkpoint(1), position=position), CONFIG)
    assert load_checkpoint(path, CONFIG).position == position
    assert names(tmp_path) == ["round-00001"]


def test_only_the_newest_checkpoints_are_kept(tmp_path, checkpoint):
    for index in range(1, 6):
        save_checkpoint(tmp_path, checkpoint(index), CONFIG, keep=3)
    assert names(tmp_path) == ["round-00003", "round-00004", "round-00005"]
    save_checkpoint(tmp_path, checkpoint(6), CONFIG)
    assert len(names(tmp_path)) == 4


def test_checkpoints_are_ordered_by_round_and_not_by_name(tmp_path, checkpoint):
    for index in (99_999, 100_000):
        save_checkpoint(tmp_path, checkpoint(index), CONFIG, keep=1)
    assert names(tmp_path) == ["round-100000"]


def test_a_folder_without_its_state_is_no_checkpoint(saved, tmp_path):
    (saved / "state.json").unlink()
    assert checkpoints_in(tmp_path) == []
    assert checkpoints_in(tmp_path / "nowhere") == []


def test_folders_of_other_names_are_no_checkpoints(saved, tmp_path):
    """A copy in the same folder, for example."""
    for name in ("round-00001-backup", "round-best", ".round-00003.tmp"):
        shutil.copytree(saved, tmp_path / name)
    assert names(tmp_path) == ["round-00001"]


def test_another_configuration_is_refused_with_both_digests(saved):
    changed_config = small_config(seed=7)
    expected = rf"has config_sha256 '{CONFIG.digest()}', this run needs '{changed_config.digest()}'"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(saved, changed_config)


def test_another_observation_is_refused_with_both_schemas(saved):
    schema = state_of(saved)["observation_schema"]
    rewrite(saved, lambda state: state.update(observation_schema="0123456789abcdef"))
    with pytest.raises(CheckpointError, match=rf"observation_schema '0123456789abcdef', this run needs '{schema}'"):
        load_checkpoint(saved, CONFIG)


@pytest.mark.parametrize(("key", "value"), [("version", 99), ("kind", "policy bundle")])
def test_another_version_or_kind_is_refused_with_both_values(saved, key, value):
    rewrite_envelope(saved, **{key: value})
    with pytest.raises(CheckpointError, match=rf"is of .*{key} {value!r}.*, expected kind 'checkpoint' version 5"):
        load_checkpoint(saved, CONFIG)


def test_a_checkpoint_of_version_2_is_refused_with_its_version(saved):
    (saved / "state.json").write_text(json.dumps({"version": 2} | state_of(saved)))
    with pytest.raises(CheckpointError, match=r"is of kind None version 2, expected kind 'checkpoint' version 5"):
        load_checkpoint(saved, CONFIG)


@pytest.mark.parametrize("name", ["state.json", "learner.safetensors"])
def test_one_changed_byte_is_refused(saved, name):
    content = bytearray((saved / name).read_bytes())
    place = content.index(b'"round": 1') + 9 if name == "state.json" else len(content) - 3
    content[place] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"round-00001 is damaged: the SHA-256 digest of its content differs"):
        load_checkpoint(saved, CONFIG)


@pytest.mark.parametrize("name", ["state.json", "learner.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "bytes"])
def test_a_damaged_file_is_refused_with_its_path(saved, name, damage):
    file = saved / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {"empty": b"", "half": content[: len(content) // 2], "bytes": b"\xff\xfe\x00\x81" * 20}[damage]
        )
    with pytest.raises(CheckpointError, match=r"checkpoint .*round-00001 (cannot be read|is damaged)"):
        load_checkpoint(saved, CONFIG)


@pytest.mark.parametrize("content", ["[]", "null", '"text"'])
def test_a_state_that_is_no_mapping_is_refused(saved, content):
    (saved / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match="round-00001"):
        load_checkpoint(saved, CONFIG)


def test_the_digest_depends_on_every_weight_and_its_name_shape_and_type():
    base = {"a": torch.zeros(2, 3), "b": torch.arange(4.0)}
    digests = [weights_digest(base)]
    for name, tensor in base.items():
        for index in range(tensor.numel()):
            weights = {key: value.clone() for key, value in base.items()}
            flat = weights[name].view(-1)
            flat[index] = torch.nextafter(flat[index], torch.tensor(9.0))
            digests.append(weights_digest(weights))
    digests.append(weights_digest({"a": torch.zeros(3, 2), "b": base["b"]}))
    digests.append(weights_digest({"a": base["a"], "c": base["b"]}))
    digests.append(weights_digest({"a": base["a"].to(torch.int32), "b": base["b"]}))
    digests.append(weights_digest({"a": base["a"]}))
    assert len(set(digests)) == len(digests)
    assert weights_digest(dict(reversed(base.items()))) == digests[0]
    assert weights_digest({"a": torch.zeros(3, 2).T, "b": base["b"]}) == digests[0]
    assert len(digests[0]) == 64

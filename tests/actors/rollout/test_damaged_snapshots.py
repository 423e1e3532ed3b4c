"""Damaged snapshots of episodes: refused and reported as faults; results stay bit for bit the same."""

import json

import numpy as np
import pytest
from damage_builders import flipped, other_values, places, value_at, with_value, without
from learner_builders import small_config

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.rollout.record_checks import RecordingError
from esper_actors.rollout.recorder import _RECORD, Assignment, PartialEpisode, pack_episode, unpack
from esper_actors.rollout.runner import Interrupted
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_actors.training.learner.ppo import PPOLearner
from esper_actors.training.local import LocalWorkerGroup
from esper_actors.training.workers import Watch
from esper_ray.leyline.policy import Episode

pytestmark = pytest.mark.integration

CONFIG = small_config(episode_length=5, policy__memory_size=8, policy__feature_size=8, task__validation_size=10)
ASSIGNMENT = Assignment(index=12, env=3, seed=5)
BEHAVIOUR = Behaviour(round_index=4, version=4, digest="ab" * 32, epsilon=0.25)


@pytest.fixture(scope="module")
def weights():
    return PPOLearner(CONFIG).weights()


@pytest.fixture(scope="module")
def episode(weights):
    """The episode without interruption."""
    return EnvironmentPool(CONFIG, "cpu", 1).play(ASSIGNMENT, BEHAVIOUR, weights).episode


@pytest.fixture(scope="module")
def blobs(weights, episode, tmp_path_factory):
    """Records of the unfinished and of the finished episode."""
    folder = tmp_path_factory.mktemp("snapshots")
    answers = iter([False] * 3 + [True])
    pool = EnvironmentPool(CONFIG, "cpu", 1, SnapshotPolicy(str(folder), 1))
    with pytest.raises(Interrupted):
        pool.play(ASSIGNMENT, BEHAVIOUR, weights, lambda: next(answers))
    return {"partial": next(folder.glob("*/episode-*")).read_bytes(), "finished": pack_episode(episode)}


def same(first: Episode, second: Episode) -> bool:
    return pack_episode(first) == pack_episode(second)


def refused(blob):
    """Whether the record is refused; nothing but a RecordingError may be raised."""
    try:
        unpack(blob, ASSIGNMENT)
    except RecordingError as error:
        return "\n" not in str(error)
    return False


def parts(blob):
    record = _RECORD.decode(blob, "it")
    return dict(record.tensors), json.loads(json.dumps(record.content))


@pytest.mark.parametrize("kind", ["partial", "finished"])
def test_an_undamaged_record_is_read(blobs, kind, episode):
    record = unpack(blobs[kind], ASSIGNMENT)
    assert isinstance(record, PartialEpisode if kind == "partial" else Episode)
    assert kind == "partial" or same(record, episode)


@pytest.mark.parametrize("kind", ["partial", "finished"])
def test_flipped_bits_and_truncations_are_refused(blobs, kind):
    rng, blob = np.random.default_rng(2), blobs[kind]
    for place in rng.integers(8, len(blob), 60):
        changed = flipped(blob, int(place), int(rng.integers(8)))
        assert refused(changed) or parts(changed)[1] == parts(blob)[1]
        assert refused(blob[: int(place)])


@pytest.mark.parametrize("kind", ["partial", "finished"])
def test_other_arrays_are_refused_by_name(blobs, kind):
    arrays, content = parts(blobs[kind])
    for name, array in arrays.items():
        if name == "environment" or name.startswith("policy/"):
            continue
        rest = {key: value for key, value in arrays.items() if key != name}
        for changed in (
            rest,
            arrays | {name: array[:-1]},
            arrays | {name: array.astype(np.float16)},
            arrays | {name: array[None]},
            arrays | {name: np.full_like(array, np.nan if array.dtype.kind == "f" else 99)},
            arrays | {name + "x": array},
        ):
            assert refused(_RECORD.encode(changed, content)), name


@pytest.mark.parametrize("kind", ["partial", "finished"])
def test_fields_of_another_type_are_refused(blobs, kind):
    arrays, content = parts(blobs[kind])
    rng, root = np.random.default_rng(4), {"partial": "assignment", "finished": "episode"}[kind]
    for path in [path for path in places(content, most=1) if "log" not in path]:
        assert refused(_RECORD.encode(arrays, without(content, path))), path
        values = other_values(content, path)
        for index in rng.permutation(len(values))[:6]:
            blob = _RECORD.encode(arrays, with_value(content, path, values[index]))
            possible = isinstance(value_at(content, path), float) and isinstance(values[index], int | float)
            assert refused(blob) or (possible and path[0] == root), (path, values[index])


@pytest.mark.parametrize("damage", ["a step less", "another kind", "another episode", "no list"])
def test_a_log_of_other_steps_is_refused(blobs, damage):
    arrays, content = parts(blobs["finished"])
    log = content["episode"]["log"]
    if damage == "a step less":
        log = [record for record in log if record.get("step") != 2]
    elif damage == "another kind":
        log[1]["kind"] = None
    elif damage == "another episode":
        log[1]["episode"] = 13
    else:
        log = {"kind": "env_epoch"}
    assert refused(_RECORD.encode(arrays, with_value(content, ("episode", "log"), log)))


def damaged(blobs, name):
    """A record that is damaged, with a digest that fits."""
    arrays, content = parts(blobs["finished" if name == "finished" else "partial"])
    if name == "environment":
        arrays["environment"] = np.frombuffer(flipped(arrays["environment"].tobytes(), 5000), np.uint8)
    elif name == "policy":
        arrays["policy/hidden"] = arrays["policy/hidden"] * np.float32(np.nan)
    elif name == "columns":
        arrays = {key: array[:-1] if key.startswith("column/") else array for key, array in arrays.items()}
        content["log"] = [record for record in content["log"] if record.get("step", 0) < 3]
    elif name == "finished":
        arrays["trajectory/rewards"] = arrays["trajectory/rewards"] + 1.0
    return _RECORD.encode(arrays, content)


@pytest.mark.parametrize("name", ["environment", "policy", "columns", "finished"])
def test_an_episode_with_a_damaged_snapshot_is_the_same_and_a_fault(blobs, name, tmp_path, weights, episode):
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    snapshots.for_round(BEHAVIOUR).save(ASSIGNMENT, damaged(blobs, name))
    played = EnvironmentPool(CONFIG, "cpu", 1, snapshots).play(ASSIGNMENT, BEHAVIOUR, weights)
    assert same(played.episode, episode)
    (fault,) = played.faults
    assert (fault.kind, fault.who) == ("snapshot_refused", "environment 3, episode 12")
    assert fault.detail.startswith("the episode restarts from its beginning: ")


def test_an_undamaged_snapshot_is_resumed_without_a_fault(blobs, tmp_path, weights, episode):
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    for kind in ("partial", "finished"):
        snapshots.for_round(BEHAVIOUR).save(ASSIGNMENT, blobs[kind])
        played = EnvironmentPool(CONFIG, "cpu", 1, snapshots).play(ASSIGNMENT, BEHAVIOUR, weights)
        assert (same(played.episode, episode), played.faults) == (True, ())


def test_a_worker_group_reports_a_refused_snapshot_to_its_watch(blobs, tmp_path, weights, episode):
    snapshots, faults = SnapshotPolicy(str(tmp_path), 0), []
    snapshots.for_round(BEHAVIOUR).save(ASSIGNMENT, damaged(blobs, "policy"))
    with LocalWorkerGroup(CONFIG, snapshots) as workers:
        workers.begin([ASSIGNMENT], BEHAVIOUR, weights)
        (played,) = workers.collect([ASSIGNMENT], Watch(lambda _: None, faults.append, lambda: False))
    assert same(played, episode)
    assert [fault.kind for fault in faults] == ["snapshot_refused"]

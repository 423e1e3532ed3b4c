"""Snapshots: a resumed episode equals an uninterrupted one."""

import numpy as np
import pytest
from learner_builders import Scripted, small_config

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.rollout.recorder import Assignment, PartialEpisode, RecordingError, pack_episode, unpack
from esper_actors.rollout.runner import EpisodeRunner, Interrupted
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_actors.training.learner.ppo import PPOLearner
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.log.finite import json_record

pytestmark = pytest.mark.integration

CONFIG = small_config(episode_length=9, policy__memory_size=8)
ASSIGNMENT = Assignment(index=12, env=3, seed=5)
BEHAVIOUR = Behaviour(round_index=4, version=4, digest="ab" * 32, epsilon=0.25)


@pytest.fixture(scope="module")
def weights():
    return PPOLearner(CONFIG).weights()


def pool_with_snapshots(tmp_path, every=1):
    return EnvironmentPool(CONFIG, "cpu", 1, SnapshotPolicy(str(tmp_path), every))


def stopping_after(steps):
    answers = iter([False] * steps + [True])
    return lambda: next(answers)


def assert_same(episode: Episode, expected: Episode) -> None:
    assert [json_record(record) for record in episode.log] == [json_record(record) for record in expected.log]
    for name in episode.trajectory.__slots__:
        actual, reference = getattr(episode.trajectory, name), getattr(expected.trajectory, name)
        np.testing.assert_array_equal(actual, reference)
        assert getattr(actual, "dtype", type(actual)) == getattr(reference, "dtype", type(reference))
    for name in set(episode.__slots__) - {"trajectory", "log"}:
        assert getattr(episode, name) == getattr(expected, name)


@pytest.fixture(scope="module")
def uninterrupted(weights):
    return EnvironmentPool(CONFIG, "cpu", 1).play(ASSIGNMENT, BEHAVIOUR, weights).episode


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_another_pool_resumes_an_interrupted_episode_bit_for_bit(tmp_path, weights, uninterrupted, steps):
    with pytest.raises(Interrupted):
        pool_with_snapshots(tmp_path).play(ASSIGNMENT, BEHAVIOUR, weights, stopping_after(steps))
    snapshot = SnapshotPolicy(str(tmp_path), 1).for_round(BEHAVIOUR).load(ASSIGNMENT)
    assert isinstance(snapshot, PartialEpisode)
    assert len(snapshot.recorder) == steps
    resumed = pool_with_snapshots(tmp_path)
    steps_played, step = [], MorphogenesisEnv.step
    env = resumed._environments[0].runner.runners[0].env
    env.step = lambda action: (steps_played.append(1), step(env, action))[1]
    assert_same(resumed.play(ASSIGNMENT, BEHAVIOUR, weights).episode, uninterrupted)
    assert len(steps_played) == 9 - steps


def test_at_most_one_interval_of_steps_is_repeated(tmp_path, weights, uninterrupted):
    with pytest.raises(Interrupted):
        pool_with_snapshots(tmp_path, every=3).play(ASSIGNMENT, BEHAVIOUR, weights, stopping_after(8))
    snapshot = SnapshotPolicy(str(tmp_path), 3).for_round(BEHAVIOUR).load(ASSIGNMENT)
    assert len(snapshot.recorder) == 6
    assert_same(pool_with_snapshots(tmp_path, every=3).play(ASSIGNMENT, BEHAVIOUR, weights).episode, uninterrupted)


def test_a_finished_episode_is_not_played_again(tmp_path, weights, uninterrupted):
    assert_same(pool_with_snapshots(tmp_path, every=0).play(ASSIGNMENT, BEHAVIOUR, weights).episode, uninterrupted)
    second_pool = pool_with_snapshots(tmp_path)
    second_pool._environments[0].runner.runners[0].env.reset = None  # would fail
    assert_same(second_pool.play(ASSIGNMENT, BEHAVIOUR, weights).episode, uninterrupted)


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(5, 4, BEHAVIOUR.digest, 0.25),
        Behaviour(4, 4, "cd" * 32, 0.25),
        Behaviour(4, 4, BEHAVIOUR.digest, 0.125),
    ],
)
def test_a_snapshot_of_another_round_or_policy_is_not_resumed(tmp_path, weights, behaviour):
    pool_with_snapshots(tmp_path).play(ASSIGNMENT, BEHAVIOUR, weights)
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    assert snapshots.for_round(BEHAVIOUR).load(ASSIGNMENT) is not None
    assert snapshots.for_round(behaviour).load(ASSIGNMENT) is None
    assert snapshots.for_round(BEHAVIOUR).load(Assignment(13, 3, 5)) is None


@pytest.mark.parametrize("finished", [False, True])
def test_an_episode_with_a_damaged_snapshot_restarts_from_its_beginning(
    tmp_path, weights, uninterrupted, finished, caplog
):
    pool = pool_with_snapshots(tmp_path)
    if finished:
        pool.play(ASSIGNMENT, BEHAVIOUR, weights)
    else:
        with pytest.raises(Interrupted):
            pool.play(ASSIGNMENT, BEHAVIOUR, weights, stopping_after(5))
    file = next(tmp_path.glob("*/episode-*"))
    file.write_bytes(file.read_bytes()[:-7])
    assert_same(pool.play(ASSIGNMENT, BEHAVIOUR, weights).episode, uninterrupted)
    assert "episode 12 restarts from its beginning: the record of an episode is damaged" in caplog.text


def test_an_episode_with_a_snapshot_of_another_environment_restarts(tmp_path, weights, caplog):
    with pytest.raises(Interrupted):
        pool_with_snapshots(tmp_path).play(ASSIGNMENT, BEHAVIOUR, weights, stopping_after(5))
    config = small_config(episode_length=9, policy__memory_size=8, training__lr=0.01)
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    resumed = EnvironmentPool(config, "cpu", 1, snapshots).play(ASSIGNMENT, BEHAVIOUR, weights).episode
    assert_same(resumed, EnvironmentPool(config, "cpu", 1).play(ASSIGNMENT, BEHAVIOUR, weights).episode)
    assert "episode 12 restarts from its beginning" in caplog.text


def test_an_episode_continues_when_the_storage_fails(tmp_path, weights, uninterrupted, caplog):
    (tmp_path / "snapshots").write_text("in the way")
    pool = EnvironmentPool(CONFIG, "cpu", 1, SnapshotPolicy(str(tmp_path / "snapshots"), 4))
    assert_same(pool.play(ASSIGNMENT, BEHAVIOUR, weights).episode, uninterrupted)
    assert "cannot be written" in caplog.text


def test_snapshots_of_earlier_rounds_are_removed(tmp_path, weights):
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    for index in (2, 3, 10):
        snapshots.for_round(Behaviour(index, 0, "", 0.0)).save(ASSIGNMENT, b"x")
    snapshots.remove_before(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000003", "round-000010"]


def test_every_snapshot_changes_the_stamp(tmp_path, weights):
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    assert snapshots.stamp(BEHAVIOUR, ASSIGNMENT) is None
    stamps = set()
    for text in (b"a", b"b", b"c"):
        snapshots.for_round(BEHAVIOUR).save(ASSIGNMENT, text)
        stamps.add(snapshots.stamp(BEHAVIOUR, ASSIGNMENT))
    assert len(stamps) == 3


def test_a_packed_and_unpacked_episode_is_equal(uninterrupted):
    assert_same(unpack(pack_episode(uninterrupted), ASSIGNMENT), uninterrupted)


def test_a_packed_episode_has_the_keys_of_earlier_versions(uninterrupted):
    blob = pack_episode(uninterrupted)
    assert (blob.count(b'fossilised\\": '), blob.count(b"fossilized")) == (2, 0)  # the figure, and the outcome's slots


def test_a_snapshot_of_another_episode_is_refused(uninterrupted):
    with pytest.raises(RecordingError, match=r"env=3, seed=5.*needed is .*env=4"):
        unpack(pack_episode(uninterrupted), Assignment(12, 4, 5))
    with pytest.raises(RecordingError, match="damaged"):
        unpack(b"{}", ASSIGNMENT)


def test_snapshots_of_a_policy_that_cannot_be_saved_raise(tmp_path):
    env = MorphogenesisEnv(CONFIG)
    env.reset(seed=5)
    from esper_ray.leyline.actions import WAIT
    from esper_ray.leyline.policy import Decision

    runner = EpisodeRunner(env, Scripted([Decision(WAIT)] * 9))
    with pytest.raises(TypeError, match="Scripted cannot be saved"):
        runner.play(ASSIGNMENT, snapshots=SnapshotPolicy(str(tmp_path), 1).for_round(BEHAVIOUR))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "generator, hidden and cell, got"),
        ({"generator": np.zeros(3, np.uint8)}, "generator"),
        (
            {"generator": np.zeros(5056, np.uint8)}
            | dict.fromkeys(("hidden", "cell"), np.zeros((1, 1, 4), np.float32)),
            r"a memory of 8 .*hidden has shape \(1, 1, 4\), it must be \(1, 1, 8\)",
        ),
    ],
)
def test_the_state_of_another_policy_is_refused(state, message):
    policy = LearnedPolicy(CONFIG.policy)
    before = policy.save_state()
    with pytest.raises(ValueError, match=message):
        policy.load_state(state)
    np.testing.assert_array_equal(policy.save_state()["generator"], before["generator"])


def test_a_removed_run_directory_is_not_made_again(tmp_path, caplog):
    snapshots = SnapshotPolicy(str(tmp_path / "run" / "snapshots"), 1).for_round(BEHAVIOUR)
    snapshots.save(ASSIGNMENT, b"state")
    assert f"{tmp_path / 'run'} does not exist" in caplog.text
    assert not (tmp_path / "run").exists()

"""Episodes that are gone on with after an interruption are the same episodes."""

import numpy as np
import pytest
from learner_builders import Scripted, small_config

from esper_actors.rollout.pool import EnvironmentPool
from esper_actors.rollout.recorder import Assignment, PartialEpisode, RecordingError, pack_episode, unpack
from esper_actors.rollout.runner import EpisodeRunner, Interrupted
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_actors.training.ppo_learner import PPOLearner
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.log.events import json_record

pytestmark = pytest.mark.integration

CONFIG = small_config(episode_length=9, policy__memory_size=8)
WHAT = Assignment(index=12, env=3, seed=5)
BEHAVIOUR = Behaviour(round_index=4, version=4, digest="ab" * 32, epsilon=0.25)


@pytest.fixture(scope="module")
def weights():
    return PPOLearner(CONFIG).weights()


def slots(tmp_path, every=1):
    return EnvironmentPool(CONFIG, "cpu", 1, SnapshotPolicy(str(tmp_path), every))


def stopping_after(steps):
    answers = iter([False] * steps + [True])
    return lambda: next(answers)


def assert_same(one: Episode, other: Episode) -> None:
    assert [json_record(record) for record in one.log] == [json_record(record) for record in other.log]
    for name in one.trajectory.__slots__:
        mine, theirs = getattr(one.trajectory, name), getattr(other.trajectory, name)
        np.testing.assert_array_equal(mine, theirs)
        assert getattr(mine, "dtype", type(mine)) == getattr(theirs, "dtype", type(theirs))
    for name in set(one.__slots__) - {"trajectory", "log"}:
        assert getattr(one, name) == getattr(other, name)


@pytest.fixture(scope="module")
def straight(weights):
    return EnvironmentPool(CONFIG, "cpu", 1).play(WHAT, BEHAVIOUR, weights).episode


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_an_episode_is_gone_on_with_by_somebody_else(tmp_path, weights, straight, steps):
    with pytest.raises(Interrupted):
        slots(tmp_path).play(WHAT, BEHAVIOUR, weights, stopping_after(steps))
    kept = SnapshotPolicy(str(tmp_path), 1).for_round(BEHAVIOUR).load(WHAT)
    assert isinstance(kept, PartialEpisode)
    assert len(kept.recorder) == steps
    resumed = slots(tmp_path)
    count, step = [], MorphogenesisEnv.step
    env = resumed._environments[0].runner.env
    env.step = lambda action: (count.append(1), step(env, action))[1]
    assert_same(resumed.play(WHAT, BEHAVIOUR, weights).episode, straight)
    assert len(count) == 9 - steps


def test_at_most_one_interval_of_steps_is_repeated(tmp_path, weights, straight):
    with pytest.raises(Interrupted):
        slots(tmp_path, every=3).play(WHAT, BEHAVIOUR, weights, stopping_after(8))
    kept = SnapshotPolicy(str(tmp_path), 3).for_round(BEHAVIOUR).load(WHAT)
    assert len(kept.recorder) == 6
    assert_same(slots(tmp_path, every=3).play(WHAT, BEHAVIOUR, weights).episode, straight)


def test_a_finished_episode_is_not_played_again(tmp_path, weights, straight):
    assert_same(slots(tmp_path, every=0).play(WHAT, BEHAVIOUR, weights).episode, straight)
    again = slots(tmp_path)
    again._environments[0].runner.env.reset = None  # would fail
    assert_same(again.play(WHAT, BEHAVIOUR, weights).episode, straight)


@pytest.mark.parametrize(
    "other",
    [
        Behaviour(5, 4, BEHAVIOUR.digest, 0.25),
        Behaviour(4, 4, "cd" * 32, 0.25),
        Behaviour(4, 4, BEHAVIOUR.digest, 0.125),
    ],
)
def test_what_another_policy_played_is_not_gone_on_with(tmp_path, weights, other):
    slots(tmp_path).play(WHAT, BEHAVIOUR, weights)
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    assert snapshots.for_round(BEHAVIOUR).load(WHAT) is not None
    assert snapshots.for_round(other).load(WHAT) is None
    assert snapshots.for_round(BEHAVIOUR).load(Assignment(13, 3, 5)) is None


@pytest.mark.parametrize("finished", [False, True])
def test_a_damaged_record_is_played_from_its_beginning(tmp_path, weights, straight, finished, caplog):
    player = slots(tmp_path)
    if finished:
        player.play(WHAT, BEHAVIOUR, weights)
    else:
        with pytest.raises(Interrupted):
            player.play(WHAT, BEHAVIOUR, weights, stopping_after(5))
    file = next(tmp_path.glob("*/episode-*"))
    file.write_bytes(file.read_bytes()[:-7])
    assert_same(player.play(WHAT, BEHAVIOUR, weights).episode, straight)
    assert "episode 12 restarts from its beginning: the record of an episode is damaged" in caplog.text


def test_a_record_of_another_environment_is_played_from_its_beginning(tmp_path, weights, caplog):
    with pytest.raises(Interrupted):
        slots(tmp_path).play(WHAT, BEHAVIOUR, weights, stopping_after(5))
    other = small_config(episode_length=9, policy__memory_size=8, training__lr=0.01)
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    resumed = EnvironmentPool(other, "cpu", 1, snapshots).play(WHAT, BEHAVIOUR, weights).episode
    assert_same(resumed, EnvironmentPool(other, "cpu", 1).play(WHAT, BEHAVIOUR, weights).episode)
    assert "episode 12 restarts from its beginning" in caplog.text


def test_a_storage_that_fails_does_not_stop_an_episode(tmp_path, weights, straight, caplog):
    (tmp_path / "snapshots").write_text("in the way")
    player = EnvironmentPool(CONFIG, "cpu", 1, SnapshotPolicy(str(tmp_path / "snapshots"), 4))
    assert_same(player.play(WHAT, BEHAVIOUR, weights).episode, straight)
    assert "cannot be written" in caplog.text


def test_episodes_of_earlier_rounds_are_forgotten(tmp_path, weights):
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    for index in (2, 3, 10):
        snapshots.for_round(Behaviour(index, 0, "", 0.0)).save(WHAT, b"x")
    snapshots.remove_before(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000003", "round-000010"]


def test_every_keeping_changes_the_stamp(tmp_path, weights):
    snapshots = SnapshotPolicy(str(tmp_path), 1)
    assert snapshots.stamp(BEHAVIOUR, WHAT) is None
    stamps = set()
    for text in (b"a", b"b", b"c"):
        snapshots.for_round(BEHAVIOUR).save(WHAT, text)
        stamps.add(snapshots.stamp(BEHAVIOUR, WHAT))
    assert len(stamps) == 3


def test_an_episode_survives_being_written_down(straight):
    assert_same(unpack(pack_episode(straight), WHAT), straight)


def test_the_record_of_another_episode_is_refused(straight):
    with pytest.raises(RecordingError, match=r"env=3, seed=5.*needed is .*env=4"):
        unpack(pack_episode(straight), Assignment(12, 4, 5))
    with pytest.raises(RecordingError, match="damaged"):
        unpack(b"{}", WHAT)


def test_a_policy_that_cannot_be_saved_is_refused_when_it_should_be(tmp_path):
    env = MorphogenesisEnv(CONFIG)
    env.reset(seed=5)
    from esper_ray.leyline.actions import WAIT
    from esper_ray.leyline.policy import Decision

    runner = EpisodeRunner(env, Scripted([Decision(WAIT)] * 9))
    with pytest.raises(TypeError, match="Scripted cannot be saved"):
        runner.play(WHAT, snapshots=SnapshotPolicy(str(tmp_path), 1).for_round(BEHAVIOUR))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "generator, hidden and cell, got"),
        ({"generator": np.zeros(3, np.uint8)}, "generator"),
        (
            {"generator": np.zeros(5056, np.uint8), "hidden": np.zeros((1, 1, 4)), "cell": np.zeros((1, 1, 4))},
            "memory is 8",
        ),
    ],
)
def test_the_state_of_another_policy_is_refused(state, message):
    policy = LearnedPolicy(CONFIG.policy)
    before = policy.save_state()
    with pytest.raises(ValueError, match=message):
        policy.load_state(state)
    np.testing.assert_array_equal(policy.save_state()["generator"], before["generator"])

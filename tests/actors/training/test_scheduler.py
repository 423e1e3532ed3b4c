"""The episode scheduler: order, retries, quarantine and stragglers."""

import time

import pytest

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.snapshots import Behaviour
from esper_actors.training.scheduler import EpisodeScheduler, EpisodeTask, straggler_faults


class FinishedEpisode:
    """The part of an episode that the scheduler reads."""

    def __init__(self, index):
        self.index = index


def tasks(*indices, envs=4):
    return [EpisodeTask(Assignment(index, index % envs, index), Behaviour(0, 0, "", 0.0), None) for index in indices]


def test_devices_of_one_kind_share_all_episodes_in_order():
    scheduler = EpisodeScheduler(["cuda:0", "cuda:1"], tries=3)
    scheduler.begin(tasks(0, 1, 2))
    assert [scheduler.next("cuda:1").assignment.index for _ in range(3)] == [0, 1, 2]
    assert scheduler.next("cuda:0") is None


def test_devices_of_different_kinds_keep_their_own_environments():
    scheduler = EpisodeScheduler(["cpu", "cuda:0"], tries=3)
    scheduler.begin(tasks(0, 1, 2, 3))
    assert [scheduler.next("cuda:0").assignment.index for _ in range(2)] == [1, 3]
    assert scheduler.next("cuda:0") is None
    assert [scheduler.next("cpu").assignment.index for _ in range(2)] == [0, 2]


def test_episodes_are_returned_in_the_order_of_their_assignments():
    scheduler, assignments = EpisodeScheduler(["cpu"], 3), [Assignment(i, i % 4, i) for i in (4, 2, 0)]
    scheduler.begin(tasks(4, 2, 0))
    assert not scheduler.done(assignments)
    for index in (0, 4, 2):
        scheduler.finished(FinishedEpisode(index))
    assert scheduler.done(assignments)
    assert [episode.index for episode in scheduler.pop_episodes(assignments)] == [4, 2, 0]
    assert not scheduler.done(assignments)


def test_a_failed_episode_is_retried_first():
    scheduler = EpisodeScheduler(["cpu"], tries=3)
    scheduler.begin(tasks(0, 1))
    task = scheduler.next("cpu")
    fault = scheduler.failed(task, "ValueError: no", None)
    assert (fault.kind, fault.who, fault.detail) == ("episode_failed", "environment 0, episode 0", "ValueError: no")
    assert scheduler.next("cpu") is task


def test_an_environment_that_fails_repeatedly_is_quarantined_and_others_continue():
    scheduler = EpisodeScheduler(["cpu"], tries=3)
    scheduler.begin(tasks(1, 2, 5))  # 5 is environment 1 again
    kinds = []
    for _ in range(3):
        task = scheduler.next("cpu")
        kinds.append(scheduler.failed(task, "boom", "snapshot at 4").kind)
    assert kinds == ["episode_failed", "episode_failed", "environment_quarantined"]
    assert scheduler.quarantined == {1: "boom"}
    assert scheduler.next("cpu").assignment.index == 2
    assert scheduler.next("cpu") is None
    scheduler.finished(FinishedEpisode(2))
    assignments = [Assignment(1, 1, 1), Assignment(2, 2, 2), Assignment(5, 1, 5)]
    assert scheduler.done(assignments)
    assert [episode.index for episode in scheduler.pop_episodes(assignments)] == [2]


def test_progress_between_failures_resets_the_count():
    scheduler = EpisodeScheduler(["cpu"], tries=2)
    scheduler.begin(tasks(0))
    for stamp in ("snapshot at 10", "snapshot at 20", "snapshot at 30"):
        assert scheduler.failed(scheduler.next("cpu"), "killed", stamp).kind == "episode_failed"
    assert scheduler.failed(scheduler.next("cpu"), "killed", "snapshot at 30").kind == "environment_quarantined"


def test_the_first_failure_of_an_episode_without_a_snapshot_counts():
    scheduler = EpisodeScheduler(["cpu"], tries=1)
    scheduler.begin(tasks(0))
    assert scheduler.failed(scheduler.next("cpu"), "killed", None).kind == "environment_quarantined"


def test_a_straggler_is_reported_once_and_continues():
    scheduler = EpisodeScheduler(["cpu"], tries=3)
    scheduler.begin(tasks(0, 1))
    late, fresh = scheduler.next("cpu"), scheduler.next("cpu")
    late.began = time.monotonic() - 7
    assert straggler_faults([late, fresh], None) == []
    (fault,) = straggler_faults([late, fresh], 5.0)
    assert (fault.kind, fault.who) == ("straggler", "environment 0, episode 0")
    assert fault.seconds == pytest.approx(7, abs=1)
    assert "the limit is 5 s" in fault.detail
    assert straggler_faults([late, fresh], 5.0) == []

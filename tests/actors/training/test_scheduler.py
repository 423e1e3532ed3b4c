"""Who plays what, and what becomes of episodes that fail."""

import time

import pytest

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.snapshots import Behaviour
from esper_actors.training.scheduler import EpisodeScheduler, EpisodeTask, straggler_faults


class Played:
    """As much of an episode as a dealer looks at."""

    def __init__(self, index):
        self.index = index


def jobs(*indices, envs=4):
    return [EpisodeTask(Assignment(index, index % envs, index), Behaviour(0, 0, "", 0.0), None) for index in indices]


def test_one_kind_of_device_shares_all_work_in_order():
    dealer = EpisodeScheduler(["cuda:0", "cuda:1"], tries=3)
    dealer.begin(jobs(0, 1, 2))
    assert [dealer.next("cuda:1").assignment.index for _ in range(3)] == [0, 1, 2]
    assert dealer.next("cuda:0") is None


def test_unequal_devices_keep_their_own_environments():
    dealer = EpisodeScheduler(["cpu", "cuda:0"], tries=3)
    dealer.begin(jobs(0, 1, 2, 3))
    assert [dealer.next("cuda:0").assignment.index for _ in range(2)] == [1, 3]
    assert dealer.next("cuda:0") is None
    assert [dealer.next("cpu").assignment.index for _ in range(2)] == [0, 2]


def test_episodes_come_back_in_the_order_in_which_they_are_wanted():
    dealer, wanted = EpisodeScheduler(["cpu"], 3), [Assignment(i, i % 4, i) for i in (4, 2, 0)]
    dealer.begin(jobs(4, 2, 0))
    assert not dealer.done(wanted)
    for index in (0, 4, 2):
        dealer.finished(Played(index))
    assert dealer.done(wanted)
    assert [episode.index for episode in dealer.pop_episodes(wanted)] == [4, 2, 0]
    assert not dealer.done(wanted)


def test_a_failed_episode_is_the_next_one_to_be_played():
    dealer = EpisodeScheduler(["cpu"], tries=3)
    dealer.begin(jobs(0, 1))
    job = dealer.next("cpu")
    fault = dealer.failed(job, "ValueError: no", None)
    assert (fault.kind, fault.who, fault.detail) == ("episode_failed", "environment 0, episode 0", "ValueError: no")
    assert dealer.next("cpu") is job


def test_an_environment_that_fails_again_and_again_is_given_up_and_the_rest_goes_on():
    dealer = EpisodeScheduler(["cpu"], tries=3)
    dealer.begin(jobs(1, 2, 5))  # 5 is environment 1 again
    kinds = []
    for _ in range(3):
        job = dealer.next("cpu")
        kinds.append(dealer.failed(job, "boom", "kept at 4").kind)
    assert kinds == ["episode_failed", "episode_failed", "environment_quarantined"]
    assert dealer.quarantined == {1: "boom"}
    assert dealer.next("cpu").assignment.index == 2
    assert dealer.next("cpu") is None
    dealer.finished(Played(2))
    wanted = [Assignment(1, 1, 1), Assignment(2, 2, 2), Assignment(5, 1, 5)]
    assert dealer.done(wanted)
    assert [episode.index for episode in dealer.pop_episodes(wanted)] == [2]


def test_a_step_forward_between_two_failures_begins_the_count_anew():
    dealer = EpisodeScheduler(["cpu"], tries=2)
    dealer.begin(jobs(0))
    for stamp in ("kept at 10", "kept at 20", "kept at 30"):
        assert dealer.failed(dealer.next("cpu"), "killed", stamp).kind == "episode_failed"
    assert dealer.failed(dealer.next("cpu"), "killed", "kept at 30").kind == "environment_quarantined"


def test_the_first_failure_of_an_episode_that_was_never_kept_counts():
    dealer = EpisodeScheduler(["cpu"], tries=1)
    dealer.begin(jobs(0))
    assert dealer.failed(dealer.next("cpu"), "killed", None).kind == "environment_quarantined"


def test_stragglers_are_reported_once_and_nothing_else_happens_to_them():
    dealer = EpisodeScheduler(["cpu"], tries=3)
    dealer.begin(jobs(0, 1))
    late, fresh = dealer.next("cpu"), dealer.next("cpu")
    late.began = time.monotonic() - 7
    assert straggler_faults([late, fresh], None) == []
    (fault,) = straggler_faults([late, fresh], 5.0)
    assert (fault.kind, fault.who) == ("straggler", "environment 0, episode 0")
    assert fault.seconds == pytest.approx(7, abs=1)
    assert "the limit is 5 s" in fault.detail
    assert straggler_faults([late, fresh], 5.0) == []

"""The episode scheduler: order, retries, quarantine and stragglers."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_a_shared_death_is_not_counted_and_its_tasks_are_repeated_alone():
    scheduler = EpisodeScheduler(["cpu"], tries=1)
    scheduler.begin(tasks(0, 1, 2))
    first, second = scheduler.next("cpu"), scheduler.next("cpu")
    for task in (first, second):
        fault = scheduler.failed(task, "the actor died", None, shared=True)
        assert fault.kind == "episode_failed"
        assert "not counted" in fault.detail
    assert scheduler.quarantined == {}
    third = scheduler.next("cpu", [first])
    assert third is None  # a suspect shares with nobody
    third = scheduler.next("cpu", tasks(3))
    assert third.assignment.index == 2  # and joins nobody
    alone = scheduler.next("cpu")
    assert alone.suspect
    assert scheduler.failed(alone, "the actor died", None).kind == "environment_quarantined"
    assert scheduler.quarantined.keys() == {alone.assignment.env}


class Processes:
    """Fake processes of some slots each; one that plays a deadly environment dies with everything that it plays."""

    def __init__(self, scheduler, count, slots, deadly, rng):
        self.scheduler, self.slots, self.deadly, self.rng = scheduler, slots, deadly, rng
        self.playing = [[] for _ in range(count)]
        self.deaths = 0

    def run(self, assignments):
        while not self.scheduler.done(assignments):
            for process in self.playing * self.slots:
                if len(process) < self.slots and (task := self.scheduler.next("cpu", process)) is not None:
                    process.append(task)
            busy = [process for process in self.playing if process]
            assert busy, "nothing is being played and nothing is done"
            self._advance(busy[self.rng.integers(len(busy))])

    def _advance(self, process):
        """End one of its episodes, or the process itself."""
        victim = process[self.rng.integers(len(process))]
        if victim.assignment.env not in self.deadly:
            process.remove(victim)
            self.scheduler.finished(FinishedEpisode(victim.assignment.index))
            return
        self.deaths += 1
        dead, shared = list(process), len(process) > 1
        process.clear()
        for task in dead:
            self.scheduler.failed(task, "the process died", None, shared=shared)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    envs=st.integers(1, 8),
    count=st.integers(1, 3),
    slots=st.integers(1, 4),
    tries=st.integers(1, 3),
    deadly=st.sets(st.integers(0, 7), max_size=3),
)
def test_only_environments_that_kill_their_process_are_quarantined(seed, envs, count, slots, tries, deadly):
    scheduler = EpisodeScheduler(["cpu"], tries)
    processes = Processes(scheduler, count, slots, deadly, np.random.default_rng(seed))
    for index in range(2):
        pending = tasks(*range(index * envs, (index + 1) * envs), envs=envs)
        begun = [task for task in pending if task.assignment.env not in scheduler.quarantined]
        scheduler.begin(begun)
        assignments = [task.assignment for task in begun]
        processes.run(assignments)
        innocent = [a.index for a in assignments if a.env not in deadly]
        assert [episode.index for episode in scheduler.pop_episodes(assignments)] == innocent
    assert scheduler.quarantined.keys() == deadly & set(range(envs))
    assert processes.deaths <= len(scheduler.quarantined) * (tries + 1)


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

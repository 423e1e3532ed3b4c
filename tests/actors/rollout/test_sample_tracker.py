"""Samples that do not arrive are counted, each once."""

from esper_actors.rollout.sampling import SampleBatch, SampleTracker, StreamSummary
from esper_ray.nissa.log.validation import record_problem

IDS = {"round": 1, "episode": 9, "env": 4}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def batch(before, count, stream_id="a"):
    samples = tuple({"kind": "profile", "number": before + index} for index in range(count))
    return SampleBatch(stream_id, before, {"kind": "env_epoch", **IDS, "step": before}, samples)


def losses(records):
    found = [record for record in records if record["kind"] == "samples_lost"]
    assert [record_problem(record) for record in found] == [None] * len(found)
    assert all({name: record[name] for name in IDS} == IDS for record in found)
    return [record["count"] for record in found]


def test_what_arrives_is_passed_on_in_order_and_nothing_is_missing():
    tracker = SampleTracker(Clock())
    records = list(tracker.receive([batch(0, 2), batch(2, 0), batch(2, 1)]))
    assert [record["kind"] for record in records] == [
        "env_epoch",
        "profile",
        "profile",
        "env_epoch",
        "env_epoch",
        "profile",
    ]
    tracker.finished(StreamSummary("a", IDS, 3))
    assert tracker.complete
    assert list(tracker.settle()) == []


def test_what_is_missing_in_between_is_known_when_the_next_one_arrives():
    tracker = SampleTracker(Clock())
    assert losses(tracker.receive([batch(0, 2), batch(5, 1), batch(5 + 1, 1), batch(9, 0)])) == [3, 2]
    tracker.finished(StreamSummary("a", IDS, 9))
    assert losses(tracker.settle(0.0)) == []


def test_what_is_missing_at_the_end_is_known_some_time_after_the_episode():
    clock = Clock()
    tracker = SampleTracker(clock)
    list(tracker.receive([batch(0, 2)]))
    tracker.finished(StreamSummary("a", IDS, 6))
    assert not tracker.complete
    clock.now += 4.9
    assert list(tracker.settle(5.0)) == []
    assert losses(tracker.receive([batch(2, 1)])) == []
    clock.now += 0.2
    assert losses(tracker.settle(5.0)) == [3]
    assert list(tracker.settle(5.0)) == []
    assert tracker.complete


def test_what_arrives_after_it_was_counted_as_lost_is_dropped():
    tracker = SampleTracker(Clock())
    tracker.finished(StreamSummary("a", IDS, 2))
    assert losses(tracker.settle(0.0)) == [2]
    assert list(tracker.receive([batch(0, 2)])) == []


def test_an_episode_that_is_gone_on_with_is_counted_anew():
    tracker = SampleTracker(Clock())
    assert losses(tracker.receive([batch(0, 2), batch(0, 1, "b"), batch(2, 1, "b")])) == [1]
    tracker.finished(StreamSummary("b", IDS, 3))
    assert tracker.complete


def test_an_episode_of_which_nothing_arrived_is_lost_as_a_whole():
    tracker = SampleTracker(Clock())
    tracker.finished(StreamSummary("a", IDS, 7))
    assert losses(tracker.settle(0.0)) == [7]

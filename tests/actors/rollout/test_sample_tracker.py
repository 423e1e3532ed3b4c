"""The sample tracker: lost samples are counted once."""

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
    lost = [record for record in records if record["kind"] == "samples_lost"]
    assert [record_problem(record) for record in lost] == [None] * len(lost)
    assert all({name: record[name] for name in IDS} == IDS for record in lost)
    return [record["count"] for record in lost]


def test_samples_are_returned_in_order_and_a_full_stream_is_complete():
    tracker = SampleTracker(Clock())
    records = list(tracker.records([batch(0, 2), batch(2, 0), batch(2, 1)]))
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


def test_a_gap_is_counted_when_the_next_batch_arrives():
    tracker = SampleTracker(Clock())
    assert losses(tracker.records([batch(0, 2), batch(5, 1), batch(5 + 1, 1), batch(9, 0)])) == [3, 2]
    tracker.finished(StreamSummary("a", IDS, 9))
    assert losses(tracker.settle(0.0)) == []


def test_missing_samples_at_the_end_are_counted_after_the_timeout():
    clock = Clock()
    tracker = SampleTracker(clock)
    list(tracker.records([batch(0, 2)]))
    tracker.finished(StreamSummary("a", IDS, 6))
    assert not tracker.complete
    clock.now += 4.9
    assert list(tracker.settle(5.0)) == []
    assert losses(tracker.records([batch(2, 1)])) == []
    clock.now += 0.2
    assert losses(tracker.settle(5.0)) == [3]
    assert list(tracker.settle(5.0)) == []
    assert tracker.complete


def test_samples_that_were_counted_as_lost_are_dropped():
    tracker = SampleTracker(Clock())
    tracker.finished(StreamSummary("a", IDS, 2))
    assert losses(tracker.settle(0.0)) == [2]
    assert list(tracker.records([batch(0, 2)])) == []


def test_a_resumed_episode_is_a_new_stream():
    tracker = SampleTracker(Clock())
    assert losses(tracker.records([batch(0, 2), batch(0, 1, "b"), batch(2, 1, "b")])) == [1]
    tracker.finished(StreamSummary("b", IDS, 3))
    assert tracker.complete


def test_all_samples_of_an_episode_without_batches_are_lost():
    tracker = SampleTracker(Clock())
    tracker.finished(StreamSummary("a", IDS, 7))
    assert losses(tracker.settle(0.0)) == [7]

"""Samples that do not arrive are counted, each once."""

from esper_actors.rollout.sampling import SampleBatch, SampleTracker, StreamSummary
from esper_ray.nissa.log.validation import record_problem

CLOCK = {"round": 1, "episode": 9, "env": 4}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def told(before, count, stream_id="a"):
    samples = tuple({"kind": "profile", "number": before + index} for index in range(count))
    return SampleBatch(stream_id, before, {"kind": "env_epoch", **CLOCK, "step": before}, samples)


def losses(records):
    found = [record for record in records if record["kind"] == "samples_lost"]
    assert [record_problem(record) for record in found] == [None] * len(found)
    assert all({name: record[name] for name in CLOCK} == CLOCK for record in found)
    return [record["count"] for record in found]


def test_what_arrives_is_passed_on_in_order_and_nothing_is_missing():
    arrivals = SampleTracker(Clock())
    records = list(arrivals.records([told(0, 2), told(2, 0), told(2, 1)]))
    assert [record["kind"] for record in records] == [
        "env_epoch",
        "profile",
        "profile",
        "env_epoch",
        "env_epoch",
        "profile",
    ]
    arrivals.finished(StreamSummary("a", CLOCK, 3))
    assert arrivals.complete
    assert list(arrivals.settle()) == []


def test_what_is_missing_in_between_is_known_when_the_next_one_arrives():
    arrivals = SampleTracker(Clock())
    assert losses(arrivals.records([told(0, 2), told(5, 1), told(5 + 1, 1), told(9, 0)])) == [3, 2]
    arrivals.finished(StreamSummary("a", CLOCK, 9))
    assert losses(arrivals.settle(0.0)) == []


def test_what_is_missing_at_the_end_is_known_some_time_after_the_episode():
    clock = Clock()
    arrivals = SampleTracker(clock)
    list(arrivals.records([told(0, 2)]))
    arrivals.finished(StreamSummary("a", CLOCK, 6))
    assert not arrivals.complete
    clock.now += 4.9
    assert list(arrivals.settle(5.0)) == []
    assert losses(arrivals.records([told(2, 1)])) == []
    clock.now += 0.2
    assert losses(arrivals.settle(5.0)) == [3]
    assert list(arrivals.settle(5.0)) == []
    assert arrivals.complete


def test_what_arrives_after_it_was_counted_as_lost_is_dropped():
    arrivals = SampleTracker(Clock())
    arrivals.finished(StreamSummary("a", CLOCK, 2))
    assert losses(arrivals.settle(0.0)) == [2]
    assert list(arrivals.records([told(0, 2)])) == []


def test_an_episode_that_is_gone_on_with_is_counted_anew():
    arrivals = SampleTracker(Clock())
    assert losses(arrivals.records([told(0, 2), told(0, 1, "b"), told(2, 1, "b")])) == [1]
    arrivals.finished(StreamSummary("b", CLOCK, 3))
    assert arrivals.complete


def test_an_episode_of_which_nothing_arrived_is_lost_as_a_whole():
    arrivals = SampleTracker(Clock())
    arrivals.finished(StreamSummary("a", CLOCK, 7))
    assert losses(arrivals.settle(0.0)) == [7]

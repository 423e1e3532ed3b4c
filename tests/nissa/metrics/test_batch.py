"""Changes of metrics gathered on their way."""

from esper_ray.nissa.metrics.batch import OBSERVATIONS, MetricsBatch
from esper_ray.nissa.metrics.projection import Change


def batch(*changes):
    made = MetricsBatch()
    made.add(changes)
    return made


def test_of_gauges_the_newest_is_gathered_and_of_counters_the_sum():
    made = batch(
        Change("esper_return_mean", 1.0),
        Change("esper_rounds_total", 1),
        Change("esper_return_mean", 2.0),
        Change("esper_rounds_total", 2),
        Change("esper_phase_duration_seconds", 0.5, ("play",)),
    )
    assert made.gauges == {("esper_return_mean", ()): 2.0}
    assert made.counters == {("esper_rounds_total", ()): 3.0}
    assert made.observations == [(("esper_phase_duration_seconds", ("play",)), 0.5)]
    assert bool(made)
    assert not bool(MetricsBatch())


def test_two_batches_are_one():
    first = batch(Change("esper_return_mean", 1.0), Change("esper_return_std", 3.0), Change("esper_rounds_total", 1))
    later = batch(Change("esper_return_mean", 2.0), Change("esper_rounds_total", 4))
    merged = first.before(later)
    assert merged.gauges == {("esper_return_mean", ()): 2.0, ("esper_return_std", ()): 3.0}
    assert merged.counters == {("esper_rounds_total", ()): 5.0}
    assert first.counters == {("esper_rounds_total", ()): 1.0}


def test_what_is_gathered_is_bounded_and_what_is_dropped_counted():
    made = batch(*[Change("esper_phase_duration_seconds", 0.5, ("play",))] * (OBSERVATIONS + 7))
    assert (len(made.observations), made.dropped) == (OBSERVATIONS, 7)

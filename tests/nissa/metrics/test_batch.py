"""Batches of metric changes."""

from esper_ray.nissa.metrics.batch import OBSERVATIONS, MetricsBatch
from esper_ray.nissa.metrics.projection import Change


def batch(*changes):
    metrics = MetricsBatch()
    metrics.add(changes)
    return metrics


def test_a_batch_keeps_the_latest_gauge_and_the_sum_of_a_counter():
    metrics = batch(
        Change("esper_return_mean", 1.0),
        Change("esper_rounds_total", 1),
        Change("esper_return_mean", 2.0),
        Change("esper_rounds_total", 2),
        Change("esper_phase_duration_seconds", 0.5, ("play",)),
    )
    assert metrics.gauges == {("esper_return_mean", ()): 2.0}
    assert metrics.counters == {("esper_rounds_total", ()): 3.0}
    assert metrics.observations == [(("esper_phase_duration_seconds", ("play",)), 0.5)]
    assert bool(metrics)
    assert not bool(MetricsBatch())


def test_merged_batches_equal_one_batch():
    first = batch(Change("esper_return_mean", 1.0), Change("esper_return_std", 3.0), Change("esper_rounds_total", 1))
    later = batch(Change("esper_return_mean", 2.0), Change("esper_rounds_total", 4))
    merged = first.before(later)
    assert merged.gauges == {("esper_return_mean", ()): 2.0, ("esper_return_std", ()): 3.0}
    assert merged.counters == {("esper_rounds_total", ()): 5.0}
    assert first.counters == {("esper_rounds_total", ()): 1.0}


def test_observations_beyond_the_bound_are_dropped_and_counted():
    metrics = batch(*[Change("esper_phase_duration_seconds", 0.5, ("play",))] * (OBSERVATIONS + 7))
    assert (len(metrics.observations), metrics.dropped) == (OBSERVATIONS, 7)

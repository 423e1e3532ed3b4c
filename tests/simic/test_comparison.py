"""Paired comparison: intervals against brute force, gains seed by seed, and the frontier."""

from itertools import product
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.leyline.results.evaluation import Interval, Score
from esper_ray.simic.comparison import bootstrap_interval, paired_comparisons, summaries


def score(policy, seed, test=50.0, parameters=100, rollbacks=0, **changes):
    fields = {
        "val_accuracy_pp": test + 1.0,
        "objective_pp": test - parameters / 100.0,
        "committed_accuracy_pp": test,
        "grown_parameters": 0,
        "train_flops": 2e9,
        "fossilized": 1,
        "total_reward": 0.5,
    }
    return Score(policy, seed, test, parameters=parameters, rollbacks=rollbacks, **(fields | changes))


def exact_interval(values, level=0.95):
    """Quantiles of the mean over all n**n resamples, each equally likely."""
    means = [fmean(resample) for resample in product(values, repeat=len(values))]
    tail = (1.0 - level) / 2.0
    return np.quantile(means, [tail, 1.0 - tail], method="inverted_cdf")


def test_an_interval_of_two_values_by_hand():
    """Of the four resamples one has mean 0 and one mean 1, so that the tails of 2.5 % lie at the ends."""
    assert bootstrap_interval([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)


def test_a_narrow_level_of_two_values_is_the_middle():
    """Half of all resamples have mean 0.5."""
    assert bootstrap_interval([0.0, 1.0], level=0.4) == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.0, 0.0, 10.0, 1.0], [-3.0, 5.0, 5.0, 7.0, 20.0]])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_equal_the_quantiles_over_all_resamples(values, level):
    interval = bootstrap_interval(values, level=level)
    low, high = exact_interval(values, level)
    width = max(values) - min(values)
    assert interval.mean == pytest.approx(fmean(values))
    assert interval.low == pytest.approx(low, abs=0.05 * width)
    assert interval.high == pytest.approx(high, abs=0.05 * width)


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    values = list(np.random.default_rng(1).normal(3.0, 2.0, 400))
    interval = bootstrap_interval(values)
    half = 1.96 * stdev(values) / 20.0
    assert interval.low == pytest.approx(fmean(values) - half, abs=0.02)
    assert interval.high == pytest.approx(fmean(values) + half, abs=0.02)


def test_equal_values_have_no_width_and_one_value_is_its_own_interval():
    assert bootstrap_interval([2.5, 2.5, 2.5]) == Interval(2.5, 2.5, 2.5)
    assert bootstrap_interval([2.5]) == Interval(2.5, 2.5, 2.5)


@settings(max_examples=25)
@given(st.lists(st.floats(-100.0, 100.0), min_size=1, max_size=12))
def test_intervals_are_within_the_values_shift_with_them_and_are_repeatable(values):
    interval = bootstrap_interval(values, resamples=500)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == bootstrap_interval(values, resamples=500)
    shifted = bootstrap_interval([value + 10.0 for value in values], resamples=500)
    assert shifted.low == pytest.approx(interval.low + 10.0)
    assert shifted.high == pytest.approx(interval.high + 10.0)


@pytest.mark.parametrize(("values", "message"), [([], "got none"), ([1.0, float("nan")], "got nan")])
def test_an_interval_of_no_values_or_nan_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values)


def test_intervals_as_text():
    assert str(Interval(50.0, 49.25, 51.0)) == "50.0 [49.2, 51.0]"
    assert Interval(0.26, -1.0, 2.0).signed == "+0.3 [-1.0, +2.0]"


def test_a_summary_by_hand():
    scores = [
        score("grown", 0, 60.0, 300, rollbacks=1, fossilized=2, total_reward=1.0),
        score("grown", 1, 64.0, 100, rollbacks=2, fossilized=1, total_reward=2.0),
        score("alone", 0, 50.0, 100, total_reward=None),
        score("alone", 1, 52.0, 100, total_reward=None),
    ]
    grown, alone = summaries(scores, "alone")
    assert (grown.policy, grown.episodes, grown.rollbacks) == ("grown", 2, 3)
    assert grown.test_accuracy_pp == Interval(62.0, 60.0, 64.0)
    assert grown.val_accuracy_pp == Interval(63.0, 61.0, 65.0)
    assert grown.objective_pp == Interval(60.0, 57.0, 63.0)
    assert (grown.parameters, grown.train_gflops, grown.fossilized) == (200.0, 2.0, 1.5)
    assert grown.spread_pp == pytest.approx(8.0**0.5)
    assert grown.total_reward == 1.5
    assert grown.test_gain_pp == Interval(11.0, 10.0, 12.0)
    assert grown.objective_gain_pp == Interval(10.0, 8.0, 12.0)
    assert (alone.test_gain_pp, alone.objective_gain_pp, alone.total_reward) == (None, None, None)


def test_gains_are_paired_by_seed_in_any_order():
    """Both differ by 20 points between seeds, and by exactly 1 on each."""
    scores = [score("a", 7, 71.0), score("a", 3, 51.0), score("control", 3, 50.0), score("control", 7, 70.0)]
    (first, control) = summaries(scores, "control")
    assert first.test_gain_pp == Interval(1.0, 1.0, 1.0)
    assert first.test_accuracy_pp.high - first.test_accuracy_pp.low == 20.0
    assert control.spread_pp == pytest.approx(200.0**0.5)


def test_one_seed_has_no_spread():
    (only,) = summaries([score("a", 0)], "a")
    assert only.spread_pp == 0.0


def test_an_unknown_control_and_other_seeds_are_refused():
    scores = [score("a", 0), score("a", 1), score("b", 0), score("b", 2)]
    with pytest.raises(ValueError, match="the control 'c' was not played; there are a, b"):
        summaries(scores, "c")
    with pytest.raises(ValueError, match=r"'b' was played on other seeds than 'a': \[0, 2\], \[0, 1\]"):
        summaries(scores, "a")


def test_the_frontier_by_hand():
    def scores_of(name, tests, parameters, rollbacks=0):
        return [score(name, seed, test, parameters, rollbacks) for seed, test in enumerate(tests)]

    scores = [
        *scores_of("best", (80.0, 80.0), 500),
        *scores_of("cheap", (50.0, 50.0), 100),
        *scores_of("dominated", (79.0, 79.0), 500),
        *scores_of("twin", (80.0, 80.0), 500),
        *scores_of("unstable but good", (95.0, 75.0), 500),
        *scores_of("rolled back", (80.0, 80.0), 400, rollbacks=1),
        *scores_of("as cheap, unstable", (60.0, 40.0), 100),
    ]
    on_frontier = [summary.policy for summary in summaries(scores, "best") if summary.on_frontier]
    assert on_frontier == ["best", "cheap", "twin", "unstable but good", "rolled back"]


NUMBERS = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(0, 1))
"""Test accuracy on two seeds, parameters, rollbacks; few values, so that ties are common."""


@settings(max_examples=60)
@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_the_frontier_is_the_set_of_undominated_policies(policies):
    scores = [
        score(f"p{i}", seed, float(test), parameters, rollbacks)
        for i, (first, second, parameters, rollbacks) in enumerate(policies)
        for seed, test in enumerate((first, second))
    ]
    frontier = {summary.policy for summary in summaries(scores, "p0") if summary.on_frontier}

    def burdens(numbers):
        first, second, parameters, rollbacks = numbers
        return (-(first + second), parameters, 2 * rollbacks, abs(first - second))

    def dominates(a, b):
        pairs = list(zip(burdens(a), burdens(b), strict=True))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    expected = {f"p{i}" for i, mine in enumerate(policies) if not any(dominates(other, mine) for other in policies)}
    assert frontier == expected
    assert frontier


def test_a_comparison_is_the_paired_gain_over_each_other_policy():
    """Ahead of b by 10 on both seeds, and of c by 0 and by 20."""
    scores = [score("a", 0, 50.0), score("a", 1, 60.0), score("b", 0, 40.0), score("b", 1, 50.0)]
    scores += [score("c", 0, 50.0), score("c", 1, 40.0)]
    over_b, over_c = paired_comparisons(scores, "a")
    assert (over_b.policy, over_b.over, over_b.test_gain_pp) == ("a", "b", Interval(10.0, 10.0, 10.0))
    assert (over_c.over, over_c.objective_gain_pp) == ("c", Interval(10.0, 0.0, 20.0))
    assert [comparison.test_gain_pp.mean for comparison in paired_comparisons(scores, "b")] == [-10.0, 0.0]
    with pytest.raises(ValueError, match="other seeds"):
        paired_comparisons([*scores, score("b", 2)], "a")

"""Interquartile means by hand and against SciPy; bootstrap intervals against brute force; the order of choices."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from esper_ray.simic.ranking import interquartile_mean, ranking, stratified_resamples

scores = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # a quarter of three values is less than one value
        ([1.0, 2.0, 4.0, 100.0], 3.0),  # one is left out on each side
        ([5.0, -100.0, 1.0, 2.0, 3.0, 100.0, 4.0], 3.0),  # one of seven on each side
        ([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 90.0, 90.0], 2.5),  # two of eight on each side
    ],
)
def test_interquartile_means_by_hand(values, expected):
    assert interquartile_mean(values) == pytest.approx(expected)
    assert interquartile_mean(values[::-1]) == pytest.approx(expected)


@given(scores)
def test_interquartile_means_equal_those_of_scipy(values):
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25), abs=1e-9)


def test_resamples_draw_within_strata():
    """An easy and a hard setting, two runs each: a resample always has two of each."""
    means = stratified_resamples([[0.0, 1.0], [10.0, 11.0]], 400, seed=0)
    possible = {
        interquartile_mean([*a, *b]) for a in product((0.0, 1.0), repeat=2) for b in product((10.0, 11.0), repeat=2)
    }
    assert set(means.tolist()) == possible
    assert max(possible) == 6.0  # a resample without strata could have four easy runs


def test_an_interval_equals_the_quantiles_over_all_resamples():
    values = [1.0, 4.0, 6.0, 13.0, 20.0]
    exact = [interquartile_mean(resample) for resample in product(values, repeat=5)]
    low, high = np.quantile(exact, [0.025, 0.975], method="inverted_cdf")
    (ranked,) = ranking({"a": [values]}, resamples=40_000)
    assert ranked.score_pp.mean == pytest.approx(23 / 3)
    assert ranked.score_pp.low == pytest.approx(low, abs=0.35)
    assert ranked.score_pp.high == pytest.approx(high, abs=0.35)
    assert ranked.spread_pp == pytest.approx(np.std(values, ddof=1))


def test_choices_are_ranked_with_the_share_in_which_they_are_best():
    ranked = ranking({"low": [[1.0, 2.0]], "high": [[5.0, 6.0]], "between": [[3.0, 4.0]]}, stopped={"low": 1})
    assert [(r.choice, r.trials, r.best_share, r.stopped) for r in ranked] == [
        ("high", 2, 1.0, 0),
        ("between", 2, 0.0, 0),
        ("low", 2, 0.0, 1),
    ]


def test_equal_choices_share_the_first_place_and_keep_their_order():
    ranked = ranking({"b": [[1.0]], "a": [[1.0]]})
    assert [(r.choice, r.best_share, r.spread_pp) for r in ranked] == [("b", 0.5, 0.0), ("a", 0.5, 0.0)]
    assert [(r.score_pp.low, r.score_pp.high) for r in ranked] == [(1.0, 1.0), (1.0, 1.0)]


def test_overlapping_choices_have_best_shares_equal_to_chance():
    """Of two coins with values 0 and 1, each is ahead in a quarter of the draws, and half are ties."""
    ranked = ranking({"a": [[0.0, 1.0]], "b": [[0.0, 1.0]]}, resamples=40_000)
    assert [r.best_share for r in ranked] == pytest.approx([0.5, 0.5], abs=0.01)


@given(st.lists(scores, min_size=1, max_size=3))
def test_an_interval_lies_within_the_scores_and_is_repeatable(strata):
    (ranked,), (repeated,) = (ranking({"a": strata}, resamples=50) for _ in range(2))
    everything = [value for values in strata for value in values]
    assert ranked == repeated
    assert min(everything) - 1e-9 <= ranked.score_pp.low <= ranked.score_pp.high <= max(everything) + 1e-9


def test_an_empty_ranking_is_empty_and_invalid_scores_are_refused():
    assert ranking({}) == []
    with pytest.raises(ValueError, match="at least one score of each choice, got none"):
        ranking({"a": [[]]})
    with pytest.raises(ValueError, match="finite scores, got nan"):
        ranking({"a": [[1.0, float("nan")]]})

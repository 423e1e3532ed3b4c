"""Verdict of a paired comparison, and the number of seeds that it needs."""

import math

import numpy as np
import pytest

from esper_ray.simic.comparison import bootstrap_interval, verdict


def test_an_interval_above_zero_is_for_the_first_and_below_for_the_second():
    differences = [3.0, 2.0, 4.0, 3.5, 2.5]
    assert verdict(differences).better == "first"
    assert verdict([-d for d in differences]).better == "second"
    assert verdict(differences).difference == bootstrap_interval(differences)


def test_an_interval_across_zero_is_undecided():
    assert verdict([3.0, -2.0, 1.0, -1.5]).better == "undecided"


def test_the_seeds_needed_follow_the_power_formula():
    """Mean 1, deviation 2: (1.96 + 0.8416)^2 * 4 = 31.4."""
    result = verdict([3.0, -1.0, 3.0, -1.0, 1.0])
    assert np.std([3.0, -1.0, 3.0, -1.0, 1.0], ddof=1) == 2.0
    assert (result.seeds, result.seeds_needed) == (5, 32)


def test_the_seeds_needed_detect_the_difference_in_four_of_five_cases():
    """Power of the 32 seeds above, by simulation."""
    rng = np.random.default_rng(0)
    needed = 32
    draws = rng.normal(1.0, 2.0, (4000, needed))
    z = draws.mean(axis=1) / (2.0 / math.sqrt(needed))
    assert (np.abs(z) > 1.959964).mean() == pytest.approx(0.8, abs=0.02)


def test_equal_scores_are_undecided_and_need_no_number_of_seeds():
    result = verdict([0.0, 0.0])
    assert (result.better, result.seeds_needed) == ("undecided", None)


def test_one_seed_is_no_comparison():
    with pytest.raises(ValueError, match="at least two seeds, got 1"):
        verdict([1.0])

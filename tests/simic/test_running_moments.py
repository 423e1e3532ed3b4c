"""Running moments: any split of the data gives the moments of all of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esper_ray.simic.running_moments import Moments

rows = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 30), st.integers(1, 4)),
    elements=st.floats(-1e3, 1e3, allow_nan=False, width=32),
)


def test_moments_by_hand():
    moments = Moments.none(2).merged(np.array([[1.0, 5.0], [3.0, 5.0]])).merged(np.array([[8.0, 5.0]]))
    assert moments.count == 3.0
    assert moments.mean.tolist() == [4.0, 5.0]
    assert moments.squares == pytest.approx([26.0, 0.0])
    assert moments.deviation == pytest.approx([np.sqrt(26.0 / 3.0), 1.0])


@settings(max_examples=40)
@given(data=rows, cuts=st.lists(st.integers(0, 30), max_size=5))
def test_merged_moments_equal_those_of_all_rows_at_once(data, cuts):
    merged = Moments.none(data.shape[1])
    for part in np.split(data, sorted(min(cut, len(data)) for cut in cuts)):
        merged = merged.merged(part)
    assert merged.count == len(data)
    np.testing.assert_allclose(merged.mean, data.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged.squares, data.var(axis=0) * len(data), rtol=1e-9, atol=1e-6)


@settings(max_examples=40)
@given(data=rows)
def test_deviation_is_the_population_deviation_where_there_is_spread(data):
    spread = data.std(axis=0)
    expected = np.where(spread > 1e-3, spread, np.nan)
    measured = ~np.isnan(expected)
    deviation = Moments.none(data.shape[1]).merged(data).deviation
    np.testing.assert_allclose(deviation[measured], expected[measured], rtol=1e-9)
    assert (deviation > 0).all()


def test_deviation_is_one_where_there_is_no_spread_or_no_data():
    assert Moments.none(3).deviation.tolist() == [1.0, 1.0, 1.0]
    assert Moments.none(1).merged(np.array([[7.0]])).deviation.tolist() == [1.0]


def test_merging_an_empty_batch_changes_nothing():
    moments = Moments.none(2).merged(np.array([[1.0, 2.0], [4.0, 9.0]]))
    assert moments.merged(np.zeros((0, 2))) is moments


def test_merging_does_not_change_the_old_moments():
    old = Moments.none(1).merged(np.array([[1.0], [3.0]]))
    old.merged(np.array([[100.0]]))
    assert (old.count, old.mean.tolist(), old.squares.tolist()) == (2.0, [2.0], [2.0])


def test_a_large_offset_does_not_cancel_the_variance():
    """A sum of squares would lose everything here; merging deviations does not."""
    data = 1e9 + np.array([[0.0], [1.0], [2.0], [3.0]])
    assert Moments.none(1).merged(data[:1]).merged(data[1:]).squares == pytest.approx([5.0], rel=1e-6)

"""Splits of rows in groups: groups stay whole, and rows without equals are divided as before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.tolaria.data.splitting import equal_images, split_rows


def test_rows_without_equals_are_stretches_of_one_permutation():
    """The numbers are those of NumPy's generator; shipped results depend on them."""
    order = np.random.default_rng(np.random.SeedSequence([7])).permutation(10)
    test, validation, train = split_rows(np.arange(10), (2, 3), seed=7)
    assert [*test, *validation, *train] == order.tolist()
    assert [len(test), len(validation), len(train)] == [2, 3, 5]


def test_the_split_of_ten_rows_is_the_published_one():
    parts = split_rows(np.arange(10), (2, 3), seed=0)
    assert [part.tolist() for part in parts] == [[4, 6], [2, 7, 3], [5, 9, 0, 8, 1]]


def test_groups_are_taken_in_the_order_of_their_first_member():
    """The permutation of seed 0 is 4 6 2 7 3 5 9 0 8 1; the groups are {4, 0}, {6}, {2, 1}, {7}, {3}, ..."""
    groups = np.array([4, 2, 2, 3, 4, 5, 6, 7, 8, 9])
    assert [part.tolist() for part in split_rows(groups, (3, 3), seed=0)] == [[4, 0, 6], [2, 1, 7], [3, 5, 9, 8]]


def test_a_group_that_is_too_large_for_a_part_is_left_to_the_next_one():
    groups = np.array([4, 2, 2, 3, 4, 5, 6, 7, 8, 9])
    assert [part.tolist() for part in split_rows(groups, (1, 4), seed=0)] == [[6], [4, 0, 2, 1], [7, 3, 5, 9, 8]]


def test_groups_that_do_not_add_up_to_a_part_are_refused_with_the_numbers():
    message = "add up to a split of 5 images: the smallest has 2, the largest 4"
    with pytest.raises(ValueError, match=message):
        split_rows(np.array([0, 0, 1, 1, 2, 2, 3, 3, 3, 3]), (5,), seed=1)


@pytest.mark.parametrize("seed", range(10))
def test_groups_that_add_up_in_one_way_only_are_found(seed):
    """Of 3, 3, 3, 2 and 2 rows only 3 + 3 + 2 are 8."""
    groups = np.repeat([0, 1, 2, 3, 4], [3, 3, 3, 2, 2])
    part, rest = split_rows(groups, (8,), seed)
    assert sorted(np.unique(groups[part], return_counts=True)[1].tolist()) == [2, 3, 3]
    assert sorted([*part, *rest]) == list(range(13))


@settings(max_examples=100)
@given(groups=st.lists(st.integers(0, 30), min_size=3, max_size=120), seed=st.integers(0, 2**31), draw=st.data())
def test_no_group_is_in_two_parts_and_every_row_in_one(groups, seed, draw):
    sizes = [draw.draw(st.integers(1, len(groups) // 3)) for _ in range(2)]
    groups = np.array(groups)
    try:
        parts = split_rows(groups, sizes, seed)
    except ValueError:
        assert np.unique(groups, return_counts=True)[1].max() > 1
        return
    assert [len(part) for part in parts[:-1]] == sizes
    assert sorted(row for part in parts for row in part) == list(range(len(groups)))
    assert sum(len(np.unique(groups[part])) for part in parts) == len(np.unique(groups))
    again = split_rows(groups, sizes, seed)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))


def test_equal_images_have_the_number_of_the_first():
    images = np.zeros((5, 1, 2, 2), dtype=np.uint8)
    images[1, 0, 1, 1], images[2, 0, 0, 0], images[4, 0, 1, 1] = 7, 7, 7
    assert equal_images(images).tolist() == [0, 1, 2, 0, 1]

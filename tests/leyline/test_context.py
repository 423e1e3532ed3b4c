"""The context of slots: numbers by hand, and what is refused."""

import numpy as np
import pytest

from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.context import CONTEXT_SIZE, SLOT_CONTEXT, SlotPlace, context_of


def test_the_numbers_of_places_by_hand():
    image = SlotPlace(0.25, channels=32, positions=64, upstream_share=0.125, topology=Topology.IMAGES)
    vector = SlotPlace(1.0, 1024, 1, 0.5, Topology.FEATURES, on_span=True)
    tokens = SlotPlace(0.0, 1, 2, 0.0, Topology.SEQUENCES)
    context = context_of((image, vector, tokens), 3)
    assert context.dtype == np.float32
    expected = [
        [0.25, 0.5, 0.6, 0.125, 1, 0, 0, 0],
        [1.0, 1.0, 0.0, 0.5, 0, 0, 1, 1],
        [0.0, 0.0, 0.1, 0.0, 0, 1, 0, 0],
    ]
    assert np.array_equal(context, np.array(expected, dtype=np.float32))
    assert (
        *("depth", "channels", "positions", "upstream_share"),
        *("images", "sequences", "features", "span"),
    ) == SLOT_CONTEXT
    assert context.shape == (3, CONTEXT_SIZE)


def test_unknown_places_are_zeros():
    assert context_of((), 2).tolist() == [[0.0] * CONTEXT_SIZE] * 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"depth": 1.01}, r"depth of a place must be in \[0, 1\], got 1\.01"),
        ({"upstream_share": -0.1}, r"upstream_share of a place must be in \[0, 1\], got -0\.1"),
        ({"depth": float("nan")}, "depth of a place must be in"),
        ({"channels": 0}, "at least 1 of channels, got 0"),
        ({"positions": 0}, "at least 1 of positions, got 0"),
    ],
)
def test_impossible_places_are_refused(changes, match):
    numbers = {"depth": 0.5, "channels": 4, "positions": 4, "upstream_share": 0.5, "topology": Topology.IMAGES}
    with pytest.raises(ValueError, match=match):
        SlotPlace(**(numbers | changes))


def test_each_slot_needs_a_place():
    place = SlotPlace(0.5, 4, 4, 0.5, Topology.IMAGES)
    with pytest.raises(ValueError, match="3 slots need a place each, got 1"):
        context_of((place,), 3)

"""Collections are paused inside of the context only."""

import gc

import pytest

from esper_ray.leyline.process.garbage import paused_collection


def test_collections_are_paused_until_the_context_ends():
    with paused_collection():
        assert not gc.isenabled()
        with paused_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_ends_the_pause():
    with pytest.raises(ValueError, match="x"), paused_collection():
        raise ValueError("x")
    assert gc.isenabled()

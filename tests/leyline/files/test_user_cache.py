"""Cache folder of the user."""

from pathlib import Path

import pytest

from esper_ray.leyline.files.user_cache import named_cache, user_cache


def test_the_cache_folder_is_below_that_of_the_desktop(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert user_cache() == Path("/xdg/esper-ray")


@pytest.mark.parametrize("value", ["", "relative"])
def test_without_an_absolute_path_it_is_in_the_home_folder(monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/home/tamiyo")
    assert user_cache() == Path("/home/tamiyo/.cache/esper-ray")


def test_a_variable_names_another_one(monkeypatch):
    monkeypatch.delenv("ESPER_RAY_CACHE", raising=False)
    assert named_cache() is None
    monkeypatch.setenv("ESPER_RAY_CACHE", "/fast")
    assert named_cache() == Path("/fast")

"""Public names of the package."""

import sys

import pytest

import esper_ray.kasmina


def test_every_public_name_is_the_object_of_its_home_module():
    assert sorted(esper_ray.kasmina.__all__) == sorted(esper_ray.kasmina._HOMES)
    for name, home in esper_ray.kasmina._HOMES.items():
        assert getattr(esper_ray.kasmina, name) is getattr(sys.modules[home], name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'esper_ray\.kasmina' has no attribute 'Model'"):
        esper_ray.kasmina.Model  # noqa: B018

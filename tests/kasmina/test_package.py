"""Public names of the package."""

import subprocess
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


def test_the_lifecycle_is_imported_without_torch():
    code = "import sys, esper_ray.kasmina.lifecycle.reducer; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_compiler_of_torch_is_not_imported_before_it_is_used():
    """Its import takes seconds."""
    code = "import sys, esper_ray.growing, esper_ray.kasmina.organism; print('torch._dynamo' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout == "False\n"

"""Extras that are not installed."""

import importlib
import sys

import pytest

from esper_ray.leyline.errors import MissingExtraError


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_missing_extra_is_an_error_with_the_command_that_installs_it(name, monkeypatch):
    package = "lightning.pytorch" if name == "lightning" else name
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"esper_ray.integrations.{name}", raising=False)
    message = rf"the package {name} is not installed; install it with .* --extra {name}` or `pip install 'esper-ray\["
    with pytest.raises(MissingExtraError, match=message):
        importlib.import_module(f"esper_ray.integrations.{name}")

"""Parts of other packages: found by name or place, and refused with what to do."""

import sys

import pytest
from plugin_builders import write_package

from esper_ray.leyline.plugins.entry_points import HOST_PLUGINS, REWARD_PLUGINS, PluginError, checked_part

SOURCE = '''
def pay(t):
    """Pay one.

    And more.
    """
    return []

THREE = 3
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a package of rewards."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(package, module, **points):
        write_package(tmp_path, package, module, SOURCE, "esper_ray.rewards", points)

    return make


def test_an_entry_point_is_found_by_its_name_and_listed_without_an_import(install):
    install("paying", "paying", one="paying:pay")
    assert "one" in REWARD_PLUGINS.offered()
    assert REWARD_PLUGINS.is_present("one")
    assert "paying" not in sys.modules
    plugin = REWARD_PLUGINS.find("one")
    assert (plugin.part(None), plugin.about) == ([], "Pay one.")
    assert plugin.origin == "reward 'one' of the package paying 1.2"
    assert REWARD_PLUGINS.package("one") == ("paying", "1.2")


def test_a_place_is_found_without_an_entry_point(install):
    install("paying", "paying")
    plugin = REWARD_PLUGINS.find("paying:pay")
    assert (plugin.origin, REWARD_PLUGINS.is_present("paying:pay")) == ("reward 'paying:pay'", True)
    assert REWARD_PLUGINS.package("paying:pay") == ("paying", "1.2")


def test_the_groups_are_apart(install):
    install("paying", "paying", one="paying:pay")
    with pytest.raises(PluginError, match="unknown host 'one': no package here offers one by an entry point of the gr"):
        HOST_PLUGINS.find("one")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paid", r"unknown reward 'paid' \(known: one, shaped\)"),
        ("on", r"unknown reward 'on'; did you mean 'one'\?"),
        ("nowhere:pay", "'nowhere:pay' cannot be imported: ModuleNotFoundError.*put its folder on PYTHONPATH"),
        ("paying:nothing", "'paying:nothing' cannot be imported: AttributeError"),
        ("paying:THREE", r"must be a function \(Transition, options\) -> ledger entries, got 3"),
    ],
)
def test_a_part_that_cannot_be_used_is_refused_by_name(install, name, message):
    install("paying", "paying", one="paying:pay")
    assert REWARD_PLUGINS.is_present(name) is (name.startswith("paying:"))
    with pytest.raises(PluginError, match=message):
        REWARD_PLUGINS.find(name, ["shaped"])


def test_taken_names_and_two_packages_with_one_name_are_refused(install):
    install("greedy", "greedy", shaped="greedy:pay")
    with pytest.raises(PluginError, match=r"the package greedy 1\.2 offers the reward 'shaped', which is already"):
        REWARD_PLUGINS.offered(["shaped"])
    install("copied", "copied", shaped="copied:pay")
    with pytest.raises(PluginError, match=r"'shaped', which is offered by the package (greedy|copied) 1\.2 too"):
        REWARD_PLUGINS.offered()


@pytest.mark.parametrize("name", ["", "two words", ":build", "package:", "a:b:c", "a/b", "x" * 101, "mine=other"])
def test_a_name_that_is_neither_name_nor_place_is_refused(name):
    with pytest.raises(ValueError, match="is neither the name of an entry point nor a place"):
        checked_part(name)


@pytest.mark.parametrize("name", ["mine", "my-reward.v2", "package:build", "package.module:Class.make"])
def test_names_and_places_are_accepted(name):
    assert checked_part(name) == name

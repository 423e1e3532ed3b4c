"""Options of own parts: the annotation of the parameter is their section."""

import pytest
from pydantic import Field

from esper_ray.leyline.config.base import Integer, Section
from esper_ray.leyline.config.loading import ConfigError
from esper_ray.leyline.plugins.entry_points import Plugin
from esper_ray.leyline.plugins.options import with_options


class Inner(Section):
    """A section within the section."""

    depth: Integer = Field(1, ge=1, le=9)


class Options(Section):
    """Options of a part."""

    width: Integer = Field(4, ge=1, le=64)
    inner: Inner = Inner()


def sectioned(t, options: Options):
    return t, options


def late(t, options: "Options"):
    return t, options


def free(t, options):
    return t, options


def without(t):
    return t


class Built:
    def __init__(self, t, options: Options) -> None:
        self.content = t, options


def bound(part, options):
    return with_options(Plugin("mine", part, "host 'mine'"), options, "host.options")


@pytest.mark.parametrize("part", [sectioned, late, lambda t, options: Built(t, Options(**options)).content])
def test_a_part_gets_its_section_with_defaults(part):
    assert bound(part, {"width": 8})(3) == (3, Options(width=8, inner=Inner(depth=1)))


def test_a_class_can_be_a_part():
    assert bound(Built, {"inner": {"depth": 2}})(3).content == (3, Options(inner=Inner(depth=2)))


def test_a_part_without_an_annotation_gets_the_mapping():
    assert bound(free, {"anything": [1, "x"]})(3) == (3, {"anything": [1, "x"]})


def test_a_part_without_options_refuses_any():
    assert bound(without, {})(3) == 3
    with pytest.raises(ConfigError, match=r"host\.options: host 'mine' has no options \(got \{'width': 8\}\)"):
        bound(without, {"width": 8})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "host.options.width: Input should be greater than or equal to 1 (got 0)"),
        ({"width": "8"}, "host.options.width: Input should be a valid integer (got '8')"),
        ({"widht": 8}, "unknown key 'host.options.widht' (known here: width, inner)"),
        ({"inner": {"depth": 10}}, "host.options.inner.depth: Input should be less than or equal to 9 (got 10)"),
    ],
)
def test_an_invalid_option_is_refused_with_key_value_and_constraint(options, message):
    with pytest.raises(ConfigError) as caught:
        bound(sectioned, options)
    assert str(caught.value) == message

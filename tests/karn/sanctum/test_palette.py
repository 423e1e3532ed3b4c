"""Colors of the terminal: readable on the background that they are for."""

import pytest

from esper_ray.karn.reports.html.style import contrast
from esper_ray.karn.sanctum.palette import from_environment, palette

BACKGROUNDS = {False: "#000000", True: "#FFFFFF"}
"""Background by whether the palette is the light one."""


@pytest.mark.parametrize("light", BACKGROUNDS)
def test_every_color_has_the_contrast_of_level_aa_on_its_background(light):
    colors = {role: style.color.triplet.hex for role, style in palette(light=light).items() if style.color}
    assert len(colors) > 8
    weak = {role: contrast(color, BACKGROUNDS[light]) for role, color in colors.items()}
    assert {role: value for role, value in weak.items() if value < 4.5} == {}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, palette()),
        ({"COLORFGBG": "15;0"}, palette()),
        ({"COLORFGBG": "0;15"}, palette(light=True)),
        ({"COLORFGBG": "0;default;7"}, palette(light=True)),
        ({"COLORFGBG": "?"}, palette()),
        ({"COLORFGBG": "0;15", "NO_COLOR": "1"}, palette(color=False)),
        ({"NO_COLOR": ""}, palette()),
    ],
)
def test_the_environment_chooses_the_palette(environment, expected):
    assert from_environment(environment) == expected

"""Colors of the pages: enough contrast in both schemes, members of one palette."""

import pytest

from esper_ray.karn.reports.html.style import DARK, LIGHT, OKABE_ITO, STAGE_FILLS, contrast, stylesheet
from esper_ray.leyline.stages import Stage

TEXT, SHAPE = 4.5, 3.0
"""Least contrast of level AA, of text and of shapes that carry meaning."""


def test_black_on_white_has_the_greatest_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(scheme):
    for paper in ("paper", "panel"):
        assert contrast(scheme["ink"], scheme[paper]) >= TEXT
        assert contrast(scheme["soft"], scheme[paper]) >= TEXT
    for name in ("c1", "c2", "c3", "grey"):
        assert contrast(scheme[name], scheme["paper"]) >= SHAPE, name


def test_letters_on_stages_have_enough_contrast():
    assert all(contrast("#000000", fill) >= TEXT for _, fill in STAGE_FILLS.values())


def test_every_stage_of_a_seed_has_a_letter_of_its_own():
    assert set(STAGE_FILLS) == set(Stage) - {Stage.UNKNOWN, Stage.DORMANT}
    assert len({letter for letter, _ in STAGE_FILLS.values()}) == len(STAGE_FILLS)


def test_the_colors_of_data_are_of_one_palette():
    assert {scheme[name] for scheme in (LIGHT, DARK) for name in ("c1", "c2", "c3")} <= set(OKABE_ITO.values())


def test_the_style_has_both_schemes_and_print_and_loads_nothing():
    text = stylesheet()
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert not any(word in text for word in ("url(", "@import", "http", "<"))

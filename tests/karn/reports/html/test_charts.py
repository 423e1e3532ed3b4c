"""Charts: geometry, gaps, text alternatives, tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_builders import check_geometry, checked, pictures

from esper_ray.karn.reports.html.charts import Band, Chart, ChartLevel, Marks, Series, alternative, figure, picture

VALUES = st.none() | st.floats(-1e9, 1e9)


def chart(values, **more):
    points = [(index, value) for index, value in enumerate(values, 1)]
    return Chart("key", "Title", "Quantity", (Series("mean", points, form=".1f", unit="%"),), **more)


def drawn(given_chart):
    (tree,) = pictures(picture(given_chart))
    return tree


@given(st.lists(VALUES, min_size=1, max_size=60).filter(any), st.sampled_from([280.0, 560.0, 960.0]))
def test_nothing_lies_outside_and_no_labels_overlap(values, width):
    band = [(x, y - 1.0, y + 1.0) for x, y in enumerate(values, 1) if y is not None]
    rows = (Marks("R", "rollbacks", [(1, 1)]), Marks("A", "anomalies", [(1, len(values))]))
    more = {"bands": (Band("spread", band),), "levels": (ChartLevel("control", 3.0),), "marks": rows}
    check_geometry(drawn(chart(values, width=width, **more)))


@pytest.mark.parametrize("count", [1, 2, 7, 40, 333, 12_345])
def test_any_number_of_rounds_has_readable_ticks(count):
    tree = drawn(chart([float(index % 10) for index in range(count)]))
    check_geometry(tree)
    assert len(str(tree.find(".//polyline"))) < 10_000


def test_a_missing_value_interrupts_the_curve():
    tree = drawn(chart([1.0, 2.0, None, 3.0, 4.0, None, 5.0]))
    assert [len(line.attrib["points"].split()) for line in tree.iter("polyline")] == [2, 2]
    assert len(list(tree.iter("circle"))) == 1


def test_the_text_alternative_has_first_last_lowest_and_highest():
    words = alternative(chart([1.0, 5.0, None, -2.0, 3.0], levels=(ChartLevel("control", 2.5),)))
    assert words == (
        "Quantity by round. mean: 1.0 % in round 1, 3.0 % in round 5, lowest -2.0 in 4, highest 5.0 in 2. control: 2.5."
    )


def test_a_chart_has_title_description_key_and_table():
    page = figure(chart([1.0, None], note="A note.", marks=(Marks("R", "rollbacks (1 in all)", [(1, 1)]),)))
    words = " ".join(checked(page).words)
    assert 'role="img" aria-labelledby="key-t key-d"' in page
    assert [word in words for word in ("Title", "A note.", "rollbacks (1 in all)", "mean, %")] == [True] * 4
    assert '<th scope="row">2</th><td class="n">-</td>' in page


def test_a_chart_without_values_says_so_and_draws_nothing():
    page = figure(chart([None, None]))
    assert "There are no values." in page
    assert "<svg" not in page


def test_a_long_table_is_thinned_and_says_so():
    page = figure(chart([1.0] * 1000))
    assert "Numbers, every 5th round" in page
    assert page.count("<tr>") == 1 + 200 + 1


def test_names_are_escaped():
    evil = "<script>alert(1)</script>"
    page = figure(
        Chart("k", evil, evil, (Series(evil, [(1, 1.0)], unit=evil),), note=evil, levels=(ChartLevel(evil, 2.0),))
    )
    assert "<script" not in page
    checked(page)

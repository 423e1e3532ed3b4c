"""Pure functions of the scripts, called in a browser: thinning, numbers, merging of sections."""

import math
import random

import pytest
from overwatch_data import Site, sections
from overwatch_site import TestServer

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.integration
CALL = """async ([file, name, values]) => {
    const module = await import(file);
    return module[name](...values);
}"""


@pytest.fixture(scope="module")
def call(chromium):
    """Calls an exported function of a script, in one page."""
    server = TestServer(Site(sections=sections()))
    page = chromium.new_page()
    page.goto(f"{server.url}/login")

    def called(file, name, *values):
        return page.evaluate(CALL, [f"{server.url}/static/{file}", name, list(values)])

    yield called
    page.close()
    server.stop()


def extremes(xs, values, first, last, width):
    """Least and greatest value of each pixel column, one by one."""
    span = (last - first) / width
    found = {}
    for x, value in zip(xs, values, strict=True):
        if value is not None and first <= x <= last:
            column = math.floor((x - first) / span)
            low, high = found.get(column, (value, value))
            found[column] = (min(low, value), max(high, value))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_thinning_keeps_least_and_greatest_of_every_pixel_column(call, seed):
    rng = random.Random(seed)
    count, width = 5000, 137
    xs = list(range(1, count + 1))
    values = [None if rng.random() < 0.05 else rng.gauss(0, 1) for _ in xs]
    first, last = (0.5, count + 0.5) if seed % 2 else (1000, 4000)
    thin = call("charts/thinning.js", "thinned", xs, [values], [first, last], width)
    kept = dict(zip(thin["xs"], thin["columns"][0], strict=True))
    assert len(kept) <= 2 * width + 4
    assert all(values[x - 1] == value for x, value in kept.items())
    assert extremes(list(kept), list(kept.values()), first, last, width) == extremes(xs, values, first, last, width)
    assert thin["dropped"] > 0


def test_few_points_are_not_thinned_and_a_gap_stays_a_gap(call):
    thin = call("charts/thinning.js", "thinned", [1, 2, 3], [[1.0, None, 3.0]], [0.5, 3.5], 100)
    assert thin == {"xs": [1, 2, 3], "columns": [[1.0, None, 3.0]], "dropped": 0}


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("percent", [0.491], "49.1 %"),
        ("percent", [None], "-"),
        ("points", [21.06], "+21.1 pp"),
        ("points", [-0.04], "+0.0 pp"),
        ("withError", [None, 0.5], "not measured"),
        ("withError", [-1.25, 0.7], "-1.3 ± 0.7 pp"),
        ("growth", [1.234], "1.23x"),
        ("growth", [13.4], "13.4x"),
        ("duration", [3725], "1 h 2 min"),
        ("duration", [-1], "0 s"),
        ("count", [1234567], "1,234,567"),
        ("short", [0.000123456], "1.23e-4"),
        ("short", [0], "0"),
        ("setting", [None], "none"),
        ("setting", [[1, 2]], "[1,2]"),
        ("interval", [{"mean_pp": 2.0, "low_pp": -0.5, "high_pp": 3.5}], "+2.0 pp [-0.5, +3.5]"),
    ],
)
def test_a_number_is_written_with_its_unit(call, name, values, text):
    assert call("numbers.js", name, *values) == text


def test_numbers_are_ordered_as_numbers_and_texts_as_texts(call):
    pairs = [(0.0003, "0.001"), ("s9", "s10"), ("a", "b"), (2, 10)]
    assert all(call("numbers.js", "compared", first, second) < 0 for first, second in pairs)


def test_changed_environments_are_laid_over_known_ones_and_null_removes_one(call):
    known = {"facts": {"name": "a"}, "environments": {"0": {"step": 1}, "1": {"step": 2}, "2": {"step": 3}}}
    newer = {"environments": {"1": {"step": 9}, "2": None}}
    expected = {"facts": {"name": "a"}, "environments": {"0": {"step": 1}, "1": {"step": 9}}}
    assert call("state/feed.js", "merged", known, newer) == expected


def test_no_two_of_sixteen_lines_look_alike(call):
    styles = [call("words.js", "lineStyle", index) for index in range(16)]
    assert len({(style["color"], style["dash"]) for style in styles}) == 16

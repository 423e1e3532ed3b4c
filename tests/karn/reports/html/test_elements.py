"""Elements of a page: text is escaped, markup is not escaped again."""

import pytest

from esper_ray.karn.reports.html.elements import Markup, coordinate, joined, table, tag, text


def test_plain_text_is_escaped_in_content_and_attributes():
    element = tag("p", '<script>alert("x")</script> & more', title="\"><script>'")
    assert element == (
        '<p title="&quot;&gt;&lt;script&gt;&#x27;">&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; more</p>'
    )


def test_markup_is_not_escaped_again():
    assert tag("p", tag("b", "a<b"), "c") == "<p><b>a&lt;b</b>c</p>"


def test_text_that_was_formatted_is_plain_again():
    assert text(f"{tag('b', 'x')}!") == "&lt;b&gt;x&lt;/b&gt;!"


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\ud800", "\u202e", "\uffff"])
def test_a_character_that_no_page_may_hold_is_replaced(letter):
    assert text(f"a{letter}b") == "a\ufffdb"
    text(letter).encode()


def test_attributes_have_dashes_and_no_missing_values():
    assert tag("line", x1=1, y1=2.04, stroke_width=0.5, class_="axis", stroke_dasharray=None) == (
        '<line x1="1" y1="2" stroke-width="0.5" class="axis"/>'
    )


@pytest.mark.parametrize(("value", "shown"), [(1.0, "1"), (1.25, "1.2"), (-0.01, "0"), (100, "100"), (-3.55, "-3.5")])
def test_a_coordinate_has_at_most_one_digit_after_the_point(value, shown):
    assert coordinate(value) == shown


def test_joined_parts_are_escaped_one_by_one():
    assert joined([Markup("<i>"), "<"], "&") == "<i>&&lt;"


def test_a_table_has_scopes_and_numbers_to_the_right():
    assert 'scope="row">a</th><td class="n">1</td>' in table(("name", "count"), [("a", "1")])

"""Elements of HTML and SVG. Plain text is escaped, wherever it comes from; markup is not escaped again."""

from collections.abc import Iterable, Sequence
from html import escape

VOID = frozenset({"meta", "br", "hr", "rect", "line", "path", "polyline", "circle", "col"})
"""Elements that are written without an end tag. Those of SVG are closed in themselves."""
SVG_VOID = VOID - {"meta", "br", "hr", "col"}

CAMEL = frozenset({"viewBox"})
"""Attributes with capital letters."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | Markup


def text(content: Content) -> Markup:
    """``content`` as markup: escaped if it is plain text. Characters that no page may hold are replaced."""
    if isinstance(content, Markup):
        return content
    clean = "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in content)
    return Markup(escape(clean))


def joined(parts: Iterable[Content], between: str = "") -> Markup:
    """All ``parts`` after one another."""
    return Markup(between.join(text(part) for part in parts))


def tag(element: str, /, *content: Content, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        attributes: ``class_`` stands for ``class``, ``stroke_width`` for ``stroke-width``; ``None`` is left out.
    """
    words = [element]
    for key, value in attributes.items():
        if value is not None:
            name = key if key in CAMEL else key.rstrip("_").replace("_", "-")
            words.append(f'{name}="{text(value if isinstance(value, str) else coordinate(value))}"')
    if element in VOID:
        return Markup(f"<{' '.join(words)}{'/' if element in SVG_VOID else ''}>")
    return Markup(f"<{' '.join(words)}>{joined(content)}</{element}>")


def coordinate(value: float) -> str:
    """A coordinate with at most one digit after the point."""
    digits = f"{value:.1f}".removesuffix(".0")
    return "0" if digits == "-0" else digits


def paragraph(*content: Content, class_: str | None = None) -> Markup:
    """A paragraph."""
    return tag("p", *content, class_=class_)


def code(content: str) -> Markup:
    """Words of a command or a file."""
    return tag("code", content)


def table(headings: Sequence[Content], rows: Iterable[Sequence[Content]], *, numbers_from: int = 1) -> Markup:
    """A table with a row of headings. The first cell of a row is its heading.

    Args:
        numbers_from: first column of numbers, which are aligned to the right.
    """
    head = tag("tr", *(tag("th", name, scope="col", class_=_side(i, numbers_from)) for i, name in enumerate(headings)))
    body = []
    for row in rows:
        first, *others = row
        cells = [tag("td", cell, class_=_side(i, numbers_from)) for i, cell in enumerate(others, 1)]
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    inner = tag("table", tag("thead", head), tag("tbody", joined(body, "\n")))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label="table")


def _side(column: int, numbers_from: int) -> str | None:
    return "n" if column >= numbers_from else None


def details(summary: str, *content: Content) -> Markup:
    """Content that is shown on demand."""
    return tag("details", tag("summary", summary), *content)


def section(identifier: str, heading: str, *content: Content) -> Markup:
    """A part of the page with its heading."""
    return tag("section", tag("h2", heading, id=identifier), *content, aria_labelledby=identifier)

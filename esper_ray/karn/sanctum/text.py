"""Lines of styled text, and the pieces that they are made of. No terminal is involved."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Role = Literal[
    "", "dim", "title", "ok", "look", "wrong", "unknown", "early", "blend", "kept", "lost", "cursor", "chosen", "bar"
]
"""Meaning of a piece of text; the palette gives it a color."""
BARS = "▁▂▃▄▅▆▇█"
ASCII = str.maketrans(BARS + "·│├└─±…", "_.:-=+*#" + ".||`-~~")
"""Replacements for terminals without Unicode."""


@dataclass(frozen=True, slots=True)
class Ink:
    """A piece of a line in one style."""

    text: str
    role: Role = ""


TextLine = tuple[Ink, ...]
"""A line of a screen."""
Piece = Ink | str


def line(*pieces: Piece | TextLine) -> TextLine:
    """A line of these pieces."""
    spans: list[Ink] = []
    for piece in pieces:
        if isinstance(piece, str):
            spans.append(Ink(piece))
        elif isinstance(piece, Ink):
            spans.append(piece)
        else:
            spans += piece
    return tuple(spans)


def plain(spans: TextLine) -> str:
    """The text of a line."""
    return "".join(span.text for span in spans)


def printable(text: str) -> str:
    """``text`` with a question mark for each character that a terminal may execute."""
    return "".join(letter if letter.isprintable() and ord(letter) < 0x3000 else "?" for letter in text)


def fitted(spans: TextLine, width: int) -> TextLine:
    """The line in exactly ``width`` columns; what is cut ends in ``…``."""
    length = sum(len(span.text) for span in spans)
    if length <= width:
        return spans if length == width else (*spans, Ink(" " * (width - length)))
    room, kept = width - 1, list[Ink]()
    for span in spans:
        if room <= 0:
            break
        kept.append(Ink(span.text[:room], span.role))
        room -= len(kept[-1].text)
    return (*kept, Ink("…", "dim"))[: len(kept) + (width > 0)]


def between(left: TextLine, right: TextLine, width: int) -> TextLine:
    """``left`` at the left edge and ``right`` at the right one."""
    room = width - sum(len(span.text) for span in right)
    return fitted((*fitted(left, max(room - 1, 0)), Ink(" "), *right), width)


def beside(left: Sequence[TextLine], right: Sequence[TextLine], width: int, total: int) -> list[TextLine]:
    """Two blocks, the left one in ``width`` of ``total`` columns, with a rule between them."""
    rows = max(len(left), len(right))
    blank: TextLine = ()
    result = []
    for index in range(rows):
        first = left[index] if index < len(left) else blank
        second = right[index] if index < len(right) else blank
        rest = fitted(second, total - width - 3)
        result.append((*fitted(first, width), Ink(" │ ", "dim"), *rest))
    return result


def rule(title: str, width: int) -> TextLine:
    """A horizontal rule that ends in a title."""
    return (Ink("-" * max(0, width - len(title) - 1), "dim"), Ink(f" {title}", "title"))


def restyled(spans: TextLine, role: Role) -> TextLine:
    """The line in one style."""
    return tuple(Ink(span.text, role) for span in spans)


def sparkline(values: Iterable[float | None], width: int, bounds: tuple[float, float] | None = None) -> str:
    """The newest values as bars; unmeasured ones are blank.

    Args:
        bounds: values of the lowest and the highest bar; by default the least and the greatest value.
    """
    shown = list(values)[-width:] if width > 0 else []
    measured = [value for value in shown if value is not None and math.isfinite(value)]
    if not measured:
        return ""
    low, high = bounds or (min(measured), max(measured))
    bars = []
    for value in shown:
        if value is None or not math.isfinite(value):
            bars.append(" ")
        else:
            bars.append(BARS[3 if high <= low else max(0, min(7, int((value - low) / (high - low) * 8)))])
    return "".join(bars)


def meter(share: float, width: int, role: Role = "bar") -> TextLine:
    """A share in [0, 1] as a bar of ``width`` columns."""
    full = round(max(0.0, min(1.0, share)) * width)
    return (Ink("█" * full, role), Ink("·" * (width - full), "dim"))


def number(value: float | None, form: str = "", unmeasured: str = "-") -> str:
    """A number in a format, or a dash if it was not measured."""
    return unmeasured if value is None or not math.isfinite(value) else format(value, form)


def percent(ratio: float | None, form: str = ".1f") -> str:
    """A ratio in percent without the sign."""
    return number(None if ratio is None else 100.0 * ratio, form)


def duration(seconds: float) -> str:
    """A duration in its greatest two units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def window(count: int, rows: int, cursor: int, offset: int) -> int:
    """First shown row of a list: the former one, moved no further than the cursor needs."""
    rows = max(1, rows)
    offset = min(offset, cursor)
    offset = max(offset, cursor - rows + 1)
    return max(0, min(offset, count - rows))


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` columns, broken at spaces."""
    lines: list[str] = []
    present = ""
    for word in text.split():
        if present and len(present) + 1 + len(word) > width:
            lines.append(present)
            present = word
        else:
            present = f"{present} {word}".strip()
    return [*lines, present] if present else lines


def local_time(text: str) -> str:
    """A recorded time as local time with its zone; empty if it is none."""
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M %Z}"
    except ValueError:
        return ""

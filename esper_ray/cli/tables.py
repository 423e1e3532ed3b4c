"""Text of cells and tables, for commands that print records."""

import json
import sys
from collections.abc import Iterator, Sequence
from shutil import get_terminal_size
from typing import Any

from esper_ray.nissa.log.values import json_value


def cell(value: Any) -> str:
    """Text of a value in a table: ``-`` for null, six digits, hexadecimal bytes, JSON for lists and mappings."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(json_value(value))
    if isinstance(value, bytes):
        return value.hex()
    text = str(value)
    return text if text.isprintable() else repr(text)[1:-1]


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Aligned columns of cells, cut at the width of a terminal."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    room = get_terminal_size((120, 0)).columns if sys.stdout.isatty() else None
    for row in [columns, ["-" * width for width in widths], *rows]:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        yield line[:room]

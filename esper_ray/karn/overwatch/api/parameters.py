"""Parameters of requests: numbers, switches, texts."""

from collections.abc import Mapping
from typing import Any

from esper_ray.leyline.errors import UsageError, shortened

MOST_TEXT = 500
MOST_NUMBER = 10**15


def number(parameters: Mapping[str, Any], name: str, default: int, *, least: int = 0, most: int = MOST_NUMBER) -> int:
    """A whole number; ``default`` if it is absent or empty. One above ``most`` counts as ``most``.

    Raises:
        UsageError: if it is not a number from ``least`` on.
    """
    words = str(parameters.get(name, ""))
    if not words:
        return default
    digits = words.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 15) or int(words) < least:
        raise UsageError(f"{name} {shortened(words)}: it must be a whole number from {least} on")
    return min(int(words), most)


def flag(parameters: Mapping[str, Any], name: str) -> bool:
    """A switch, which is off if it is absent, empty, 0 or false."""
    return str(parameters.get(name, "")).lower() not in ("", "0", "false", "no", "off")


def text(parameters: Mapping[str, Any], name: str, default: str = "") -> str:
    """A text; ``default`` if it is absent or empty.

    Raises:
        UsageError: if it is too long.
    """
    words = str(parameters.get(name, "")) or default
    if len(words) > MOST_TEXT:
        raise UsageError(f"{name}: at most {MOST_TEXT} characters are accepted, got {len(words)}")
    return words

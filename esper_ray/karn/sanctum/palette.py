"""Colors of the terminal view: Okabe-Ito, on whatever background the terminal has."""

from collections.abc import Mapping
from types import MappingProxyType

from rich.style import Style

from esper_ray.karn.sanctum.text import Role

Palette = Mapping[Role, Style]
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
_SHAPES: Mapping[Role, Style] = MappingProxyType(
    {
        "": Style(),
        "dim": Style(dim=True),
        "title": Style(bold=True),
        "ok": Style(),
        "look": Style(bold=True),
        "wrong": Style(bold=True, reverse=True),
        "unknown": Style(dim=True),
        "early": Style(),
        "blend": Style(),
        "kept": Style(bold=True),
        "lost": Style(dim=True),
        "cursor": Style(reverse=True),
        "chosen": Style(bold=True),
        "bar": Style(),
    }
)
"""What is left without color."""
_DARK: Mapping[Role, str] = {
    "ok": GREEN,
    "look": ORANGE,
    "wrong": VERMILLION,
    "early": SKY,
    "blend": ORANGE,
    "kept": GREEN,
    "lost": PURPLE,
    "bar": SKY,
    "chosen": ORANGE,
}
_LIGHT: Mapping[Role, str] = {
    **_DARK,
    "ok": "#00785A",
    "look": "#9A6A00",
    "wrong": "#B04E00",
    "early": BLUE,
    "blend": "#9A6A00",
    "kept": "#00785A",
    "lost": "#9C4F7C",
    "bar": BLUE,
    "chosen": "#9A6A00",
}
"""The same hues for a light background, darker where the contrast would be below 4.5."""


def palette(*, color: bool = True, light: bool = False) -> Palette:
    """Styles by role.

    Args:
        color: whether there are colors; without them bold, dim and reverse text is left.
        light: whether the background is light.
    """
    if not color:
        return _SHAPES
    colors = _LIGHT if light else _DARK
    plain = {**_SHAPES, "lost": Style()}  # dim colors are hard to read
    return {role: style + Style(color=colors[role]) if role in colors else style for role, style in plain.items()}


def from_environment(environment: Mapping[str, str]) -> Palette:
    """The palette for these environment variables: ``NO_COLOR``, and the background in ``COLORFGBG``."""
    background = environment.get("COLORFGBG", "").rpartition(";")[2]
    return palette(color=not environment.get("NO_COLOR"), light=background in ("7", "15"))

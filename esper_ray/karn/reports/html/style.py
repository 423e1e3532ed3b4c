"""Style of the pages: colors for light and dark, and for print.

The colors of data are those of Okabe and Ito (Color Universal Design, 2008), which people with any color vision tell
apart. Each is used with a letter, a symbol or a line style. In a scheme a line has the member of the palette that has
enough contrast there.
"""

from collections.abc import Mapping
from types import MappingProxyType

from esper_ray.leyline.stages import Stage

BLACK, WHITE = "#000000", "#ffffff"
OKABE_ITO = MappingProxyType(
    {
        "black": "#000000",
        "orange": "#e69f00",
        "sky": "#56b4e9",
        "green": "#009e73",
        "yellow": "#f0e442",
        "blue": "#0072b2",
        "vermillion": "#d55e00",
        "purple": "#cc79a7",
    }
)
LIGHT = MappingProxyType(
    {
        "paper": "#ffffff",
        "panel": "#f6f7f8",
        "ink": "#1a1a1a",
        "soft": "#555555",
        "rule": "#d0d4d8",
        "c1": OKABE_ITO["blue"],
        "c2": OKABE_ITO["vermillion"],
        "c3": OKABE_ITO["green"],
        "grey": "#767676",
    }
)
"""Colors of the light scheme: page, boxes, text, lesser text, rules, and three colors and a gray of data."""
DARK = MappingProxyType(
    {
        "paper": "#14171a",
        "panel": "#1d2125",
        "ink": "#ececec",
        "soft": "#b4b9be",
        "rule": "#41474d",
        "c1": OKABE_ITO["sky"],
        "c2": OKABE_ITO["orange"],
        "c3": OKABE_ITO["green"],
        "grey": "#9a9fa4",
    }
)
STAGE_FILLS = MappingProxyType(
    {
        Stage.GERMINATED: ("G", OKABE_ITO["yellow"]),
        Stage.TRAINING: ("T", OKABE_ITO["orange"]),
        Stage.BLENDING: ("B", OKABE_ITO["sky"]),
        Stage.HOLDING: ("H", OKABE_ITO["purple"]),
        Stage.FOSSILIZED: ("F", OKABE_ITO["green"]),
        Stage.PRUNED: ("P", OKABE_ITO["vermillion"]),
        Stage.EMBARGOED: ("E", "#b0b0b0"),
        Stage.RESETTING: ("R", "#dddddd"),
    }
)
"""Letter and color of each stage. The letter is black on it, in both schemes."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Line styles of the series of a chart, in their order."""

_RULES = """
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; }
.lead { font-size: 1.1rem; }
.soft, figcaption, summary { color: var(--soft); }
a { color: inherit; }
code, pre { font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: .9em; }
pre { background: var(--panel); border: 1px solid var(--rule); padding: .6rem .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: .75rem 0; padding: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1.25rem; }
.small { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(13rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0 0 .75rem; min-width: 0; }
figure h3 { margin: 0 0 .1rem; }
svg.chart { display: block; width: 100%; height: auto; }
.wide svg.chart { max-width: 60rem; }
.key { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; list-style: none; margin: .1rem 0; padding: 0;
  font-size: .875rem; }
.key li { display: flex; align-items: center; gap: .4rem; }
.key svg { flex: none; }
summary { cursor: pointer; font-size: .875rem; padding: .2rem 0; }
.scroll { overflow-x: auto; max-height: 30rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--rule);
  font-weight: normal; }
thead th { color: var(--soft); vertical-align: bottom; }
.n { text-align: right; }
.answers th { font-weight: 600; white-space: nowrap; }
.level { display: inline-block; min-width: 5.5rem; padding: 0 .45rem; border: 1px solid var(--ink);
  font-size: .8rem; white-space: nowrap; }
.level.look { border-style: dashed; }
.level.wrong { border-width: 2px; font-weight: 700; }
.level.unknown { border-style: dotted; }
:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: var(--soft); }
text.ink { fill: var(--ink); }
text.on { fill: #000000; font-weight: 600; }
.axis { stroke: var(--rule); stroke-width: 1; fill: none; }
.s1, .s2, .s3, .sg { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); } .sg { stroke: var(--grey); }
.f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); } .fg { fill: var(--grey); }
.band { opacity: .2; }
.tick { stroke: var(--ink); stroke-width: 1.5; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  figure, tr, h2, h3 { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { max-height: none; overflow: visible; }
  details:not([open]) { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def _variables(colors: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


def stylesheet() -> str:
    """Text of the style element."""
    light, dark = _variables(LIGHT), _variables(DARK)
    dark_screens = "@media screen and (prefers-color-scheme: dark)"
    return f":root {{ {light} }}\n{dark_screens} {{ :root {{ {dark} }} }}{_RULES}"


def contrast(first: str, second: str) -> float:
    """Contrast of two colors ``#rrggbb``, from 1 to 21.

    Source: W3C, Web Content Accessibility Guidelines 2.2, definition of contrast ratio.
    """
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

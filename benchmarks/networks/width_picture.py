"""Picture of the benchmark ``width``: gains of growth over its controls, with 95 % intervals."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.report import RESULTS

PICTURE = RESULTS / "width.png"
CONTROLS = {
    "alone": "the host alone",
    "scratch_epochs": "from scratch, equal epochs",
    "scratch_flops": "from scratch, equal operations",
}


def draw(figures: Mapping[str, float], path: Path = PICTURE) -> None:
    """Write the picture: one panel for each control, one row for each host."""
    from matplotlib.figure import Figure

    names = [name.removesuffix("_over_alone_pp") for name in figures if name.endswith("_over_alone_pp")]
    figure = Figure(figsize=(10, 1.2 + 0.6 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(CONTROLS), sharey=True)
    for panel, (control, title) in zip(panels, CONTROLS.items(), strict=True):
        for row, name in enumerate(names):
            gain = figures[f"{name}_over_{control}_pp"]
            error = gain - figures[f"{name}_over_{control}_lower_pp"]
            panel.errorbar(gain, row, xerr=error, fmt="o", color="#1f77b4", capsize=3)
        panel.axvline(0.0, color="gray", linewidth=0.8)
        panel.set_title(f"over {title}", fontsize=9)
        panel.set_xlabel("points of test accuracy")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=120)

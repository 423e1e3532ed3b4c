"""Tables of the documentation that are made from results.

A table stands between two comments: ``<!-- table: NAME -->`` and ``<!-- end of table -->``. What is between them
follows from the CSV files; a test compares both.
"""

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from esper_ray.simic.comparison import paired_comparisons
from evidence import paths
from evidence.joining import read_scores

_TABLE = re.compile(r"(<!-- table: ([\w /.-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
PAGES = (
    paths.ROOT / "README.md",
    *sorted((paths.ROOT / "docs" / "pages").rglob("*.md")),
    *sorted((paths.ROOT / "policies").rglob("*.md")),
)
"""Files that may have tables."""
CONTROL_NAMES = {
    "static": "static: the host alone",
    "wide-host": "wide-host: the host alone, as many parameters from the start",
    "from-scratch": "from-scratch: the final topology from the start, as many epochs",
    "from-scratch-flops": "from-scratch-flops: the same, as many operations",
    "schedule-best": "schedule-best: the best fixed script of a search",
    "best-of-4": "best-of-4: the best of four growths by the heuristic",
}
"""Names of controls in tables."""

CsvRows = list[dict[str, str]]


def read(path: Path) -> CsvRows:
    """Lines of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def interval(row: Mapping[str, str], name: str, *, signed: bool = False) -> str:
    """An interval as text; empty if there is none."""
    if not row[f"{name}_mean"]:
        return ""
    mean, low, high = (float(row[f"{name}_{part}"]) for part in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" if signed else f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def number(text: str) -> str:
    """A number with three significant figures, or with thousands; empty if there is none."""
    if not text:
        return ""
    return f"{float(text):.3g}" if float(text) < 100 else f"{float(text):,.0f}"


def comparison_table(name: str) -> list[str]:
    """The table of a comparison, one line per policy; the learned one comes first."""
    rows = read(paths.PUBLISHED / name / "summary.csv")
    lines = [
        "| policy | test accuracy, % | objective over static | parameters | train GFLOP | GFLOP to find | rollbacks |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for index, row in enumerate(rows):
        label = "**Tamiyo, learned**" if index == 0 else CONTROL_NAMES.get(row["policy"], row["policy"])
        cells = (
            label,
            interval(row, "test_accuracy_pp"),
            interval(row, "objective_gain_pp", signed=True),
            f"{float(row['parameters']):,.0f}",
            number(row["train_gflops"]),
            number(row["finding_gflops"]),
            row["rollbacks"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def gains_table(name: str) -> list[str]:
    """What the learned policy of a comparison gains, paired by seed, in falling order."""
    scores = read_scores(paths.PUBLISHED / name / "scores.csv")
    gains = sorted(
        paired_comparisons(scores, scores[0].policy), key=lambda gain: gain.objective_gain_pp.mean, reverse=True
    )
    rows = [f"| {gain.over} | {gain.test_gain_pp.signed} | {gain.objective_gain_pp.signed} |" for gain in gains]
    return ["| over | test accuracy | objective |", "|---|---:|---:|", *rows]


def ablation_table(name: str) -> list[str]:
    """The table of an ablation, one line per arm."""
    rows = read(paths.PUBLISHED / f"{name}.csv")
    lines = [
        "| arm | seeds | rounds | objective, points | over the preset | explained variance | entropy, nats |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]

        def cells(column: str, form: str, own: CsvRows = own) -> str:
            values = [format(float(row[column]), form) if row[column] else "" for row in own]
            return " / ".join(values) if any(values) else "stopped at half"

        lines.append(
            f"| {arm} | {', '.join(row['seed'] for row in own)} | {max(row['rounds'] for row in own)} | "
            f"{cells('objective_pp', '.1f')} | {'' if arm == rows[0]['arm'] else cells('over_preset_pp', '+.1f')} | "
            f"{cells('explained_variance', '.2f')} | {cells('entropy_last', '.2f')} |"
        )
    return lines


def tables() -> dict[str, Callable[[], list[str]]]:
    """Tables whose results are there, by name."""
    found: dict[str, Callable[[], list[str]]] = {}
    for path in sorted(paths.PUBLISHED.glob("*/summary.csv")):
        found[path.parent.name] = lambda name=path.parent.name: comparison_table(name)  # type: ignore[misc]
        found[f"{path.parent.name} gains"] = lambda name=path.parent.name: gains_table(name)  # type: ignore[misc]
    for path in sorted(paths.PUBLISHED.glob("ablations*.csv")):
        found[path.stem] = lambda name=path.stem: ablation_table(name)  # type: ignore[misc]
    return found


def with_tables(text: str) -> str:
    """``text`` with its tables as they follow from the results.

    Raises:
        ValueError: if a table has no results.
    """
    known = tables()

    def table(match: re.Match[str]) -> str:
        name = match[2].strip()
        if name not in known:
            raise ValueError(f"table {name!r} has no results; there are {', '.join(known) or 'none'}")
        return match[1] + "\n" + "\n".join(known[name]()) + "\n\n" + match[3]

    return _TABLE.sub(table, text)


def write_tables() -> list[Path]:
    """Write the tables of all pages; the files that changed."""
    changed = []
    for path in PAGES:
        before = path.read_text()
        after = with_tables(before)
        if after != before:
            path.write_text(after)
            changed.append(path)
    return changed

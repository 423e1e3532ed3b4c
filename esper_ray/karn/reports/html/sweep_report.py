"""The report of a sweep: one page of HTML."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_ray.karn.reports.html.charts import Chart, Series, figure
from esper_ray.karn.reports.html.elements import Markup, details, joined, paragraph, table, tag
from esper_ray.karn.reports.html.forest import IntervalRow, forest
from esper_ray.karn.reports.html.numbers import counted, shown
from esper_ray.karn.reports.html.page import page
from esper_ray.karn.reports.html.run.sections import SECTION_ROWS, command_line
from esper_ray.karn.reports.html.style import DASHES
from esper_ray.leyline.config.documents import dump_yaml
from esper_ray.leyline.results.sweep import TrialResult
from esper_ray.nissa.log.lines import read_object
from esper_ray.nissa.runs.run_files import RunDirectoryError
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

RANKING = "ranking.csv"
SWEEP_CURVES = 6
"""Greatest number of curves in a chart."""


def sweep_page(folder: Path) -> str:
    """Text of the report of the sweep in ``folder``.

    Raises:
        RunDirectoryError: if a file of it is damaged.
    """
    directory = SweepDirectory.open(folder)
    results, rankings = directory.results(), read_rankings(folder / RANKING)
    tree = read_object(folder / "sweep.json")
    done = sum(result.status == "finished" for result in results)
    subtitle = f"Report of a sweep of {counted(len(results), 'trial')}, {done} of them finished."
    parts = [
        ("verdict", "Verdict", _verdict(rankings, results)),
        ("ranking", "Ranking", _rankings(rankings)),
        ("curves", "Curves", _curves(results)),
        ("trials", "Trials", _trials(results)),
        ("repeat", "How to repeat it", _repetition(tree, directory)),
    ]
    return page(folder.absolute().name, subtitle, parts)


@dataclass(frozen=True, slots=True)
class RankingRow(IntervalRow):
    """One choice of a ranking."""

    choice: str = ""
    trials: int = 0


def read_rankings(file: Path) -> dict[str, list[RankingRow]]:
    """Choices by ranking, best first; none before the sweep is over.

    Raises:
        RunDirectoryError: if the file is damaged.
    """
    if not file.is_file():
        return {}
    rankings: dict[str, list[RankingRow]] = defaultdict(list)
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                mean, low, high = (float(row[name]) for name in ("score_pp", "score_pp_low", "score_pp_high"))
                choice, trials = row["choice"], int(row["trials"])
                ranked = RankingRow(f"{choice}, n = {trials}", mean, low, high, choice=choice, trials=trials)
                rankings[row["ranking"]].append(ranked)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunDirectoryError(f"{file} cannot be used: {error!s:.200}") from error
    return dict(rankings)


def _verdict(rankings: Mapping[str, Sequence[IntervalRow]], results: Sequence[TrialResult]) -> Markup:
    if not rankings:
        done = sum(result.status in ("finished", "stopped") for result in results)
        text = f"There is no ranking yet: {done} of {counted(len(results), 'trial')} are over."
        return paragraph(text, class_="lead")
    sentences = []
    for title, rows in rankings.items():
        best = rows[0]
        words = f"{best.mean:.1f} points (95 % interval {best.low:.1f} to {best.high:.1f})"
        sentence = f"{title}: the best choice is {best.name}, with an objective of {words}."
        if len(rows) > 1:
            second = rows[1]
            overlap = "overlaps" if second.high >= best.low else "does not overlap"
            sentence += f" The interval of the second, {second.name}, {overlap} with it ({second.mean:.1f} points)."
        sentences.append(sentence)
    return paragraph(" ".join(sentences), class_="lead")


def _rankings(rankings: Mapping[str, Sequence[IntervalRow]]) -> Markup:
    if not rankings:
        return paragraph("The ranking is written when the sweep is over.")
    parts = []
    for number, (title, rows) in enumerate(rankings.items(), 1):
        parts.append(forest(f"ranking{number}", title, "objective in points", rows, reference=None))
        cells = [(str(i), r.name, f"{r.mean:.1f}", f"{r.low:.1f} to {r.high:.1f}") for i, r in enumerate(rows, 1)]
        parts.append(details("Numbers", table(("rank", "choice", "points", "95 % interval"), cells, numbers_from=2)))
    note = "Interquartile means of the scores of the trials with stratified bootstrap intervals."
    return joined((*parts, paragraph(note, class_="soft")))


def _curves(results: Sequence[TrialResult]) -> Markup:
    """Objective of the best trials by round."""
    scored = [result for result in results if result.curve_pp and result.score_pp is not None]
    ranked = sorted(scored, key=lambda result: (-(result.score_pp or 0.0), result.trial))
    if not ranked:
        return paragraph("No trial has finished a round.")
    series = [
        Series(
            result.trial,
            list(enumerate(result.curve_pp, 1)),
            str(index % 3 + 1),
            index // 3 % len(DASHES),
            ".1f",
            "points",
        )
        for index, result in enumerate(ranked[:SWEEP_CURVES])
    ]
    title = "Objective of the best trials" if len(ranked) > SWEEP_CURVES else "Objective of the trials"
    note = "Accuracy with fossilized seeds only, minus the price of all parameters beyond those of the host."
    return figure(Chart("objective", title, "Objective in points", series, note=note))


def _trials(results: Sequence[TrialResult]) -> Markup:
    keys = list(results[0].settings) if results else []
    rows = [
        (
            result.trial,
            *(str(result.settings.get(key)) for key in keys),
            result.status,
            f"{result.round_index} of {result.rounds}",
            shown(result.score_pp, ".1f"),
            str(result.rollbacks),
            f"{result.env_steps:,}",
        )
        for result in results[:SECTION_ROWS]
    ]
    headings = ("trial", *keys, "status", "rounds", "score, points", "rollbacks", "steps")
    cut = paragraph(f"The first {SECTION_ROWS} of {len(results):,}.") if len(results) > SECTION_ROWS else Markup()
    return joined((table(headings, rows, numbers_from=len(keys) + 2), cut))


def _repetition(tree: Mapping[str, Any], directory: SweepDirectory) -> Markup:
    versions = tree.get("versions")
    words = ", ".join(f"{name} {value}" for name, value in versions.items()) if isinstance(versions, dict) else "-"
    definition = details("The sweep", tag("pre", dump_yaml(directory.sweep.model_dump(mode="json"))))
    base = details("The base configuration", tag("pre", dump_yaml(directory.base.model_dump(mode="json"))))
    digest = f"SHA-256 of the base configuration: {directory.base.digest()}."
    lines = (paragraph(f"Versions: {words}."), paragraph(digest))
    return joined((tag("pre", command_line(tree.get("command"))), *lines, definition, base))

"""The report of a comparison of two runs (``--dual-ab``): one page of HTML."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from pydantic import TypeAdapter, ValidationError

from esper_ray.karn.reports.html.charts import Band, Chart, ChartLevel, Series, figure
from esper_ray.karn.reports.html.elements import Markup, joined, paragraph, table, tag
from esper_ray.karn.reports.html.evaluation_content import EVALUATION, EvaluationContent, read_evaluation
from esper_ray.karn.reports.html.evaluation_report import policies
from esper_ray.karn.reports.html.forest import IntervalRow, forest
from esper_ray.karn.reports.html.numbers import counted
from esper_ray.karn.reports.html.page import page
from esper_ray.karn.reports.html.run.charts import column
from esper_ray.karn.reports.html.run.content import RunContent, read_run
from esper_ray.karn.reports.html.run.sections import differences, evidence, repetition
from esper_ray.karn.reports.html.run.verdict import answers_table, verdict
from esper_ray.leyline.config.run import flatten
from esper_ray.leyline.results.evaluation import ComparisonVerdict
from esper_ray.nissa.log.lines import read_object
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

VERDICT = "verdict.json"
_VERDICT = TypeAdapter(ComparisonVerdict)


def sides_of(folder: Path) -> list[Path]:
    """Run directories of the two sides of a comparison; none if ``folder`` is not one."""
    if not folder.is_dir():
        return []
    runs = sorted(path for path in folder.iterdir() if (path / "manifest.json").is_file())
    return runs if len(runs) == 2 else []


def comparison_page(folder: Path) -> str:
    """Text of the report of the comparison in ``folder``.

    Raises:
        RunDirectoryError: if a file of it is damaged.
        EventLogError: if the log of a run is damaged.
    """
    contents = [read_run(RunDirectory.open(path)) for path in sides_of(folder)]
    evaluation = read_evaluation(folder / "evaluation") if (folder / "evaluation" / EVALUATION).is_file() else None
    result = read_verdict(folder / VERDICT)
    names = [content.run_id for content in contents]
    parts = [
        ("verdict", "Verdict", _verdict(result, names)),
        ("settings", "Settings that differ", _settings(contents)),
        ("curves", "Curves", _curves(contents)),
    ]
    if evaluation is not None:
        parts.append(("evaluation", "Evaluation", _evaluated(evaluation)))
    parts += [(f"side{i}", f"Run {c.run_id}", _side(c)) for i, c in enumerate(contents, 1)]
    title = folder.absolute().name
    return page(title, f"Report of a comparison of {names[0]} and {names[1]}.", parts)


def read_verdict(file: Path) -> tuple[ComparisonVerdict, tuple[str, str]] | None:
    """The verdict and the names of both sides; ``None`` before the evaluation is over.

    Raises:
        RunDirectoryError: if it is damaged.
    """
    if not file.is_file():
        return None
    try:
        tree: dict[str, Any] = read_object(file)
        pair = tree.pop("pair")
        return _VERDICT.validate_python(tree), (str(pair["first"]), str(pair["second"]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RunDirectoryError(f"{file} cannot be used: {first['loc']}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{file} cannot be used: {error!s:.200}") from error


def _verdict(result: tuple[ComparisonVerdict, tuple[str, str]] | None, names: Sequence[str]) -> Markup:
    if result is None:
        text = f"There is no verdict on {names[0]} and {names[1]}: their evaluation is not over."
        return paragraph(text, " Curves of training are no verdict.", class_="lead")
    found, (first, second) = result
    gain, text = found.difference, verdict_sentence(found, first, second)
    row = IntervalRow(f"{first} minus {second}", gain.mean, gain.low, gain.high)
    picture = forest("difference", "Difference of the objectives", "points, paired by seed", [row])
    return joined((paragraph(text, class_="lead"), picture))


def verdict_sentence(found: ComparisonVerdict, first: str, second: str) -> str:
    """The verdict on two sides with its interval and the number of seeds."""
    gain = found.difference
    words = (
        f"{gain.mean:+.1f} points (95 % interval {gain.low:+.1f} to {gain.high:+.1f}, n = {found.seeds} paired seeds)"
    )
    text = f"The objective of {first} minus that of {second} is {words}."
    if found.better == "undecided":
        text = f"It is undecided which is better. {text}"
        if found.seeds_needed is not None:
            text += f" A difference of this size needs about {counted(found.seeds_needed, 'seed')}."
    else:
        text = f"{first if found.better == 'first' else second} is better. {text}"
    return text


def _settings(contents: Sequence[RunContent]) -> Markup:
    trees = [flatten(content.config.model_dump(mode="json")) for content in contents]
    rows = differences(trees[0], trees[1])
    if not rows:
        return paragraph("Both runs have the same configuration.")
    return table(("key", *(content.run_id for content in contents)), rows, numbers_from=99)


def _curves(contents: Sequence[RunContent]) -> Markup:
    if not all(content.state.rounds for content in contents):
        return paragraph("A run has no finished round, so there are no curves.")
    note = "The bands are one standard deviation of the episodes of a round to both sides."
    accuracy = Chart(
        "accuracy",
        "Validation accuracy at the end of an episode",
        "Accuracy in percent",
        [_curve(content, side, "val_accuracy_ratio", 100.0, ".1f", "%") for side, content in enumerate(contents)],
        bands=[Band(f"{c.run_id}, one standard deviation", _spread(c), str(s + 1)) for s, c in enumerate(contents)],
        levels=[level for side, content in enumerate(contents) for level in _control(content, side)],
        note=note,
    )
    growth = Chart(
        "growth",
        "Growth at the end of an episode",
        "Parameters over those of the host",
        [_curve(content, side, "growth_ratio", 1.0, ".2f", "") for side, content in enumerate(contents)],
        floor=0.0,
    )
    hint = "Returns are not shown: rewards of two modes cannot be compared."
    return joined((tag("div", figure(accuracy), figure(growth), class_="grid"), paragraph(hint, class_="soft")))


def _curve(content: RunContent, side: int, name: str, factor: float, form: str, unit: str) -> Series:
    points = column(content.state.rounds, name, factor)
    return Series(content.run_id, points, str(side + 1), side, form, unit)


def _spread(content: RunContent) -> list[tuple[float, float, float]]:
    spreads = [(i + 1, fmean(values), pstdev(values)) for i, values in sorted(content.accuracies_pp.items())]
    return [(x, max(0.0, mean - spread), min(100.0, mean + spread)) for x, mean, spread in spreads]


def _control(content: RunContent, side: int) -> list[ChartLevel]:
    controls = content.state.control_accuracies_pp
    name = f"{content.run_id} without growth, n = {len(controls)}"
    return [ChartLevel(name, fmean(controls), str(side + 1), 2 + side)] if controls else []


def _evaluated(evaluation: EvaluationContent) -> Markup:
    seeds = evaluation.tree["seeds"]
    lead = paragraph(f"Both policies and the control were played on {counted(len(seeds), 'seed')}.")
    return joined((lead, policies(evaluation)))


def _side(content: RunContent) -> Markup:
    headings = [tag("h3", words) for words in ("Evidence", "How to repeat it")]
    parts = (
        *verdict(content),
        answers_table(content),
        headings[0],
        evidence(content),
        headings[1],
        repetition(content),
    )
    return joined(parts)

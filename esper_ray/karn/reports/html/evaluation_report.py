"""The report of an evaluation: one page of HTML."""

from collections.abc import Sequence
from pathlib import Path

from esper_ray.karn.reports.html.elements import Markup, code, details, joined, paragraph, table, tag
from esper_ray.karn.reports.html.evaluation_content import EvaluationContent, read_evaluation
from esper_ray.karn.reports.html.forest import IntervalRow, forest
from esper_ray.karn.reports.html.numbers import NOT_RECORDED, counted, shown
from esper_ray.karn.reports.html.page import page
from esper_ray.karn.reports.html.run.sections import differences
from esper_ray.leyline.config.documents import dump_yaml
from esper_ray.leyline.config.loading import preset_names, read_preset
from esper_ray.leyline.config.run import flatten
from esper_ray.leyline.results.evaluation import Interval, PairedComparison, Summary

HEADINGS = (
    *("policy", "test, %", "test gain, points", "objective, points", "objective gain, points", "parameters"),
    *("training, GFLOP", "spread, points", "rollbacks", "fossilized", "frontier"),
)


def evaluation_page(folder: Path) -> str:
    """Text of the report of the evaluation in ``folder``.

    Raises:
        RunDirectoryError: if it is not a complete evaluation.
    """
    content = read_evaluation(folder)
    control = str(content.tree.get("control"))
    subtitle = f"Report of an evaluation on {counted(len(content.tree['seeds']), 'seed')}, control {control}."
    parts = [
        ("verdict", "Verdict", evaluation_verdict(content)),
        ("policies", "Policies", policies(content)),
        ("configuration", "Configuration", _configuration(content)),
    ]
    return page(content.name, subtitle, parts)


def evaluation_verdict(content: EvaluationContent) -> Markup:
    """The first policy against each other one, in sentences."""
    first, seeds = content.summaries[0], content.tree["seeds"]
    text = (
        f"On {counted(len(seeds), 'seed')} ({min(seeds)} to {max(seeds)}) {first.policy} reached "
        f"{first.test_accuracy_pp.mean:.1f} % test accuracy (95 % interval {first.test_accuracy_pp.low:.1f} to "
        f"{first.test_accuracy_pp.high:.1f} %, n = {first.episodes}) with {first.parameters:,.0f} parameters on "
        "average."
    )
    sentences = [text, *(_against(comparison, first.episodes) for comparison in content.comparisons)]
    note = (
        "Gains are paired by seed; intervals are of percentiles of bootstrap samples over seeds. The test split is "
        "used by evaluations alone."
    )
    return joined((paragraph(" ".join(sentences), class_="lead"), paragraph(note, class_="soft")))


def _against(comparison: PairedComparison, seeds: int) -> str:
    gain = comparison.test_gain_pp
    words = f"{gain.mean:+.1f} points ({gain.low:+.1f} to {gain.high:+.1f}, n = {seeds})"
    if gain.low > 0 or gain.high < 0:
        return f"It was {'better' if gain.low > 0 else 'worse'} than {comparison.over} by {words}."
    return f"A difference from {comparison.over} is not shown: {words}."


def policies(content: EvaluationContent) -> Markup:
    """All policies: test accuracy and gain as intervals, and the table."""
    accuracy = [_row(s.policy, s.test_accuracy_pp, content.tests_pp.get(s.policy, ())) for s in content.summaries]
    gains = [_row(s.policy, s.test_gain_pp) for s in content.summaries if s.test_gain_pp is not None]
    pictures = [forest("testaccuracy", "Test accuracy", "test accuracy in percent", accuracy, reference=None)]
    if gains:
        title = f"Gain over {content.tree.get('control')}"
        pictures.append(forest("testgain", title, "test accuracy in points, paired by seed", gains))
    note = (
        "Dots are means, bars 95 % intervals, gray dots single episodes. Objective: validation accuracy minus the "
        "price of the grown parameters. Spread: standard deviation of the test accuracy over seeds. Frontier: no other "
        "policy is at least as good in test accuracy, parameters, rollbacks and spread, and better in one of them."
    )
    rows = [_cells(summary) for summary in content.summaries]
    return joined((*pictures, table(HEADINGS, rows), paragraph(note, class_="soft")))


def _row(name: str, interval: Interval, values: Sequence[float] = ()) -> IntervalRow:
    return IntervalRow(name, interval.mean, interval.low, interval.high, values)


def _cells(summary: Summary) -> tuple[str, ...]:
    return (
        summary.policy,
        str(summary.test_accuracy_pp),
        "control" if summary.test_gain_pp is None else summary.test_gain_pp.signed,
        str(summary.objective_pp),
        "control" if summary.objective_gain_pp is None else summary.objective_gain_pp.signed,
        f"{summary.parameters:,.0f}",
        shown(summary.train_gflops),
        f"{summary.spread_pp:.1f}",
        str(summary.rollbacks),
        f"{summary.fossilized:.1f}",
        "yes" if summary.on_frontier else "no",
    )


def _configuration(content: EvaluationContent) -> Markup:
    tree = content.tree["config"]
    name = str(tree.get("name"))
    digest = paragraph("SHA-256 of the configuration: ", code(str(content.tree.get("config_sha256", NOT_RECORDED))))
    actions = "sampled" if content.tree.get("sample") else "greedy"
    lead = paragraph(f"Actions are {actions}, without exploration.")
    whole = details("The whole configuration", tag("pre", dump_yaml(tree)))
    if name not in preset_names():
        return joined((lead, digest, whole))
    rows = differences(flatten(tree), flatten(read_preset(name)))
    same = paragraph("It is the preset ", code(name), " as it is.")
    return joined(
        (lead, table(("key", "evaluation", "preset"), rows, numbers_from=99) if rows else same, digest, whole)
    )

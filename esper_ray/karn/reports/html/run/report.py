"""The report of a run: one page of HTML."""

from esper_ray.karn.reports.html.elements import Markup, joined, paragraph
from esper_ray.karn.reports.html.lanes import lanes
from esper_ray.karn.reports.html.page import page
from esper_ray.karn.reports.html.run.charts import curves
from esper_ray.karn.reports.html.run.content import RunContent, read_run
from esper_ray.karn.reports.html.run.sections import blueprints, configuration, evidence, repetition, troubles
from esper_ray.karn.reports.html.run.totals import decisions, rewards
from esper_ray.karn.reports.html.run.verdict import answers_table, verdict
from esper_ray.nissa.runs.run_directory import RunDirectory


def run_report(run: RunDirectory) -> str:
    """Text of the report of a run. Equal logs give equal texts.

    Raises:
        RunDirectoryError: if a small file of the run is damaged.
        EventLogError: if its log is damaged, or of another version.
    """
    return run_page(read_run(run))


def run_page(content: RunContent) -> str:
    """Text of the report of what was read of a run."""
    config = content.config
    reward = config.reward.mode if config.reward.family == "contribution" else f"{config.reward.mode}, family loss"
    subtitle = (
        f"Report of a training run on {config.task.name}, host {config.host.family}, reward {reward}, "
        f"seed {config.seed}; {content.status}."
    )
    parts = [
        ("verdict", "Verdict", joined(verdict(content))),
        ("answers", "Five answers", answers_table(content)),
        ("curves", "Curves", curves(content)),
        ("blueprints", "Blueprints", blueprints(content)),
        ("rewards", "Reward by source", rewards(content)),
        ("decisions", "Operations and gates", decisions(content)),
        ("episodes", "Episodes", _episodes(content)),
        ("troubles", "Rollbacks, anomalies, faults", troubles(content)),
        ("evidence", "Evidence", evidence(content)),
        ("configuration", "Configuration", configuration(content)),
        ("repeat", "How to repeat it", repetition(content)),
    ]
    return page(content.run_id, subtitle, parts)


def _episodes(content: RunContent) -> Markup:
    if not content.episodes:
        return paragraph("No episode is over.")
    lead = (
        "The episodes with the highest, the median and the lowest validation accuracy at their end, of all "
        f"{len(content.outcomes):,}. A block is a seed in a stage; the longest block of a seed names its blueprint."
    )
    return joined((paragraph(lead), *map(lanes, content.episodes)))

"""The report of whatever a folder holds: a run, a comparison, a sweep or an evaluation."""

from pathlib import Path

from esper_ray.karn.reports.html.comparison_report import comparison_page, sides_of
from esper_ray.karn.reports.html.evaluation_content import EVALUATION
from esper_ray.karn.reports.html.evaluation_report import evaluation_page
from esper_ray.karn.reports.html.run.report import run_report
from esper_ray.karn.reports.html.sweep_report import sweep_page
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError, nearest_run


def place_report(folder: Path) -> str:
    """Text of the page about ``folder``.

    Raises:
        RunDirectoryError: if it holds nothing of these, or a file of it is damaged.
        EventLogError: if the log of a run is damaged, or of another version.
    """
    if (folder / "manifest.json").exists():
        return run_report(RunDirectory.open(folder))
    if (folder / "sweep.json").is_file():
        return sweep_page(folder)
    if (folder / EVALUATION).is_file():
        return evaluation_page(folder)
    if sides_of(folder):
        return comparison_page(folder)
    kinds = "a run (manifest.json), a comparison (two runs), a sweep (sweep.json) or an evaluation (evaluation.json)"
    near = None if folder.exists() else nearest_run(folder)
    hint = f"; did you mean {near}?" if near else ""
    raise RunDirectoryError(f"{folder} is not a folder of {kinds}{hint}")

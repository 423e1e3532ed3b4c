"""Evaluations, verdicts of comparisons, and sweeps, from the files that their commands have written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from esper_ray.karn.reports.html.comparison_report import VERDICT, read_verdict, verdict_sentence
from esper_ray.karn.reports.html.evaluation_content import EVALUATION, EvaluationContent, read_evaluation
from esper_ray.karn.reports.html.sweep_report import RANKING, read_rankings
from esper_ray.leyline.results.evaluation import Summary
from esper_ray.leyline.results.sweep import DONE, TrialResult
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

SWEEP_NOTE = "Interquartile means of the scores of the trials with stratified bootstrap intervals."


def evaluation_account(folder: Path) -> dict[str, Any]:
    """Policies and their differences.

    Raises:
        RunDirectoryError: if it is not a complete evaluation.
    """
    content = read_evaluation(folder)
    seeds = content.tree["seeds"]
    return {
        "name": content.name,
        "seeds": len(seeds),
        "control": content.tree.get("control"),
        "policies": [_policy(summary, _host_parameters(content)) for summary in content.summaries],
        "comparisons": [
            {
                "first": pair.policy,
                "second": pair.over,
                "mean_pp": pair.test_gain_pp.mean,
                "low_pp": pair.test_gain_pp.low,
                "high_pp": pair.test_gain_pp.high,
                "seeds": len(seeds),
            }
            for pair in content.comparisons
        ],
        "scores": {name: list(values) for name, values in content.tests_pp.items()},
    }


def _host_parameters(content: EvaluationContent) -> float | None:
    """Parameters without growth, from the control; ``None`` if it was not evaluated."""
    control = content.tree.get("control")
    return next((summary.parameters for summary in content.summaries if summary.policy == control), None)


def _policy(summary: Summary, host_parameters: float | None) -> dict[str, Any]:
    gain, accuracy = summary.test_gain_pp, summary.test_accuracy_pp
    return {
        "name": summary.policy,
        "accuracy_pp": accuracy.mean,
        "low_pp": accuracy.low,
        "high_pp": accuracy.high,
        "gain_pp": None if gain is None else gain.mean,
        "parameters": summary.parameters,
        "growth_ratio": summary.parameters / host_parameters if host_parameters else None,
        "fossilized": summary.fossilized,
        "rollbacks": summary.rollbacks,
        "episodes": summary.episodes,
    }


def verdict_account(folder: Path) -> dict[str, Any]:
    """Verdict and evaluation of a comparison; null where its evaluation is not over.

    Raises:
        RunDirectoryError: if a file is damaged.
    """
    result = read_verdict(folder / VERDICT)
    evaluated = (folder / "evaluation" / EVALUATION).is_file()
    tree: dict[str, Any] = {"evaluation": evaluation_account(folder / "evaluation") if evaluated else None}
    if result is None:
        missing = "There is no verdict: the evaluation of these runs is not over."
        return tree | {"verdict": None, "verdict_missing": missing}
    found, (first, second) = result
    verdict = {
        "text": verdict_sentence(found, first, second),
        "better": found.better,
        "first": first,
        "second": second,
        "mean_pp": found.difference.mean,
        "low_pp": found.difference.low,
        "high_pp": found.difference.high,
        "seeds": found.seeds,
        "seeds_needed": found.seeds_needed,
    }
    return tree | {"verdict": verdict, "verdict_missing": None}


def sweep_account(folder: Path, url_of: Callable[[str], str | None]) -> dict[str, Any]:
    """Trials and rankings of a sweep.

    Args:
        url_of: address of the run with this path below the sweep; ``None`` if it has none.

    Raises:
        RunDirectoryError: if a file is damaged.
    """
    directory = SweepDirectory.open(folder)
    results = directory.results()
    rankings = read_rankings(folder / RANKING)
    keys = dict.fromkeys(key for result in results for key in result.settings)
    return {
        "name": folder.absolute().name,
        "status": _status(results),
        "settings": list(keys),
        "trials": [_trial(result, directory.host_parameters, url_of) for result in results],
        "rankings": [
            {
                "title": title,
                "rows": [
                    {
                        "choice": row.choice, "mean_pp": row.mean, "low_pp": row.low, "high_pp": row.high,
                        "trials": row.trials,
                    }
                    for row in rows
                ],
            }
            for title, rows in rankings.items()
        ],
        "note": SWEEP_NOTE,
    }  # fmt: skip


def _status(results: list[TrialResult]) -> str:
    statuses = {result.status for result in results}
    if statuses and statuses <= set(DONE):
        return "finished"
    return "running" if "running" in statuses else "waiting"


def _trial(result: TrialResult, parameters: Mapping[str, int], url_of: Callable[[str], str | None]) -> dict[str, Any]:
    accuracy, growth = result.means.get("val_accuracy_ratio"), result.means.get("growth_ratio")
    return {
        "id": result.trial,
        "name": result.trial,
        "url": url_of(result.run) if result.run else None,
        "settings": dict(result.settings),
        "status": result.status,
        "round": result.round_index,
        "rounds": result.rounds,
        "score_pp": result.score_pp,
        "accuracy_pp": None if accuracy is None else 100.0 * accuracy,
        "parameters": None if growth is None else growth * parameters[result.trial],
        "growth_ratio": growth,
        "rollbacks": result.rollbacks,
        "curve_pp": list(result.curve_pp),
    }

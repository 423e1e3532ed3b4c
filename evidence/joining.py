"""Parts of one comparison joined into one table and picture."""

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from esper_ray.karn.reports import evaluation_report
from esper_ray.leyline.policy import attribute_of
from esper_ray.leyline.results.evaluation import Score
from esper_ray.simic.comparison import paired_comparisons, summaries
from evidence import paths
from evidence.studies import Comparison

COPIED = ("learning.png", "schedule-best.json")
"""Files of the parts that are kept as they are, from the first part that has them."""
CONTROL = "static"


def joined(comparison: Comparison, folders: Sequence[Path]) -> Path:
    """The folder of a comparison among the documentation, with the scores of all parts.

    Raises:
        ValueError: if two parts disagree about the same episode.
    """
    target = paths.PUBLISHED / comparison.name
    target.mkdir(parents=True, exist_ok=True)
    scores = distinct(score for folder in folders for score in read_scores(folder / "scores.csv"))
    finding = {label: flops for folder in folders for label, flops in _finding_flops(folder).items()}
    by_policy = summaries(scores, CONTROL, finding)
    reference = scores[0].policy
    manifest = json.loads((folders[0] / "evaluation.json").read_text())
    title = f"{comparison.name}: seeds {comparison.seeds}, {manifest['config']['episode_length']} epochs"
    evaluation_report.write_scores(target, scores)
    evaluation_report.write_summary(target, by_policy)
    evaluation_report.write_markdown(target, by_policy, paired_comparisons(scores, reference), title, ())
    evaluation_report.draw_comparison(target, scores, by_policy, title)
    copied = set[str]()
    for folder in folders:
        for name in COPIED:
            if (folder / name).exists() and name not in copied:
                shutil.copyfile(folder / name, target / name)
                copied.add(name)
    shown = paths.SHOWN / comparison.name
    shown.mkdir(parents=True, exist_ok=True)
    for path in sorted(target.iterdir()):
        if path.suffix == ".png" or path.name == "scores.csv":
            shutil.copyfile(path, shown / path.name)
    return target


def distinct(scores: Iterable[Score]) -> list[Score]:
    """Scores without those of episodes that were there before.

    Raises:
        ValueError: if the same episode has two scores.
    """
    found: dict[tuple[str, int], Score] = {}
    for score in scores:
        known = found.setdefault((score.policy, score.seed), score)
        if known != score:
            raise ValueError(f"{score.policy}, seed {score.seed}: two parts have different scores, {known} and {score}")
    return list(found.values())


def read_scores(path: Path) -> list[Score]:
    """The scores in a file of ``esper evaluate``."""
    kinds = {field.name: field.type for field in fields(Score)}

    def value(name: str, text: str) -> object:
        if name == "seeds_grown":
            return tuple((slot, blueprint) for slot, blueprint in (pair.split(":") for pair in text.split()))
        if kinds[name] is str:
            return text
        return None if not text else int(text) if kinds[name] is int else float(text)

    with path.open(newline="") as file:
        rows = [{attribute_of(name): text for name, text in row.items()} for row in csv.DictReader(file)]
    return [Score(**{name: value(name, text) for name, text in row.items()}) for row in rows]  # type: ignore[arg-type]


def _finding_flops(folder: Path) -> dict[str, float]:
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["policy"]: float(row["finding_gflops"]) * 1e9 for row in rows if row["finding_gflops"]}

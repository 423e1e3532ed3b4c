"""What an evaluation left, from ``evaluation.json`` and ``scores.csv``."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from esper_ray.leyline.policy import attribute_of
from esper_ray.leyline.results.evaluation import PairedComparison, Summary
from esper_ray.nissa.log.lines import read_object
from esper_ray.nissa.runs.run_files import RunDirectoryError

EVALUATION = "evaluation.json"
_SUMMARIES = TypeAdapter(list[Summary])
_COMPARISONS = TypeAdapter(list[PairedComparison])


@dataclass(frozen=True, slots=True)
class EvaluationContent:
    """Content of an evaluation."""

    name: str
    tree: Mapping[str, Any]
    """Content of ``evaluation.json``."""
    summaries: Sequence[Summary]
    comparisons: Sequence[PairedComparison]
    tests_pp: Mapping[str, Sequence[float]]
    """Test accuracies of the single episodes, by policy."""


def read_evaluation(folder: Path) -> EvaluationContent:
    """Content of the folder of an evaluation.

    Raises:
        RunDirectoryError: if it is none, was stopped before its end, or a file is damaged.
    """
    file = folder / EVALUATION
    if not file.is_file():
        raise RunDirectoryError(f"{folder} is not a complete evaluation: it has no {EVALUATION}")
    try:
        tree = read_object(file)
        found = [{attribute_of(name): value for name, value in entry.items()} for entry in tree["summaries"]]
        summaries = _SUMMARIES.validate_python(found)
        comparisons = _COMPARISONS.validate_python(tree["comparisons"])
        if not summaries or not isinstance(tree["config"], dict):
            raise ValueError("cannot be used: it has no policy or no configuration")
        list(map(int, tree["seeds"]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RunDirectoryError(f"{file} cannot be used: {place}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirectoryError(f"{file} cannot be used: {error!s:.200}") from error
    return EvaluationContent(folder.absolute().name, tree, summaries, comparisons, _tests(folder / "scores.csv"))


def _tests(file: Path) -> dict[str, list[float]]:
    """Test accuracies by policy; none if the file is missing.

    Raises:
        RunDirectoryError: if it is damaged.
    """
    if not file.is_file():
        return {}
    tests: dict[str, list[float]] = defaultdict(list)
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                tests[row["policy"]].append(float(row["test_accuracy_pp"]))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunDirectoryError(f"{file} cannot be used: {error!s:.200}") from error
    return dict(tests)

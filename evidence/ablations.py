"""Ablations: one factor at a time against a preset, at equal environment steps.

An arm whose trainings are all behind those of the preset at half of the rounds is stopped there.
"""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

from evidence import paths, work
from evidence.studies import ALONE, Ablation, Training

WINDOW = 5
"""Rounds whose mean return judges a training at half of its rounds."""


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """ArmOutcome of one training."""

    arm: str
    seed: int
    rounds: int
    return_half: float
    """Mean return of the rounds before half of them."""
    return_last: float
    """Mean return of the last rounds."""
    explained_variance: float
    """Mean over the last quarter of the rounds."""
    entropy_last: float
    """Entropy of an action in nats, in the last round."""
    objective_pp: float | None = None
    """Mean objective of greedy actions on the seeds of tuning, in points; ``None`` if the arm was stopped."""
    test_pp: float | None = None
    over_preset_pp: float | None = None
    """Objective minus that of the preset's training with the same seed."""


def study(ablation: Ablation, serial: bool) -> Path:
    """Do what is missing of an ablation; the file of its outcomes."""
    half, seeds = ablation.rounds // 2, ablation.training_seeds
    for arm in ablation.arms:
        trainings = [ablation.training(arm, seed) for seed in seeds]
        if arm != ablation.base:
            for training in trainings:
                work.train(training, serial, rounds=half, schedule=ablation.rounds)
            if is_behind(ablation, arm):
                continue
        schedule = None if arm == ablation.base else ablation.rounds
        for training in trainings:
            work.train(training, serial, rounds=ablation.rounds, schedule=schedule)
            work.evaluate(f"tuning-{training.name}", training, ALONE, ablation.seeds, serial)
            write(ablation)
    return write(ablation)


def is_behind(ablation: Ablation, arm: str) -> bool:
    """Whether at half of the rounds all trainings of ``arm`` are behind."""

    def value(name: str, seed: int) -> float:
        return at_half(ablation, ablation.training(name, seed))

    return all(value(arm, seed) < value(ablation.base, seed) for seed in ablation.training_seeds)


def at_half(ablation: Ablation, training: Training) -> float:
    """Mean return of the last rounds before half of them."""
    half = ablation.rounds // 2
    return _mean(work.rounds_done(training)[half - WINDOW : half], "return_mean")


def outcome(ablation: Ablation, arm: str, seed: int) -> ArmOutcome | None:
    """ArmOutcome of a training so far; ``None`` before half of its rounds."""
    training = ablation.training(arm, seed)
    rounds = work.rounds_done(training)
    if len(rounds) < ablation.rounds // 2:
        return None
    scores = _scores(training)
    base = _scores(ablation.training(ablation.base, seed))
    over = None if not scores or not base else fmean(scores[s][0] - base[s][0] for s in scores)
    return ArmOutcome(
        arm=arm,
        seed=seed,
        rounds=len(rounds),
        return_half=at_half(ablation, training),
        return_last=_mean(rounds[-WINDOW:], "return_mean"),
        explained_variance=_mean(rounds[-(len(rounds) // 4) :], "explained_variance"),
        entropy_last=float(rounds[-1]["entropy"]),
        objective_pp=fmean(score[0] for score in scores.values()) if scores else None,
        test_pp=fmean(score[1] for score in scores.values()) if scores else None,
        over_preset_pp=over,
    )


def write(ablation: Ablation) -> Path:
    """Write the outcomes so far as CSV, and return its path."""
    path = paths.PUBLISHED / f"{ablation.name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [outcome(ablation, arm, seed) for arm in ablation.arms for seed in ablation.training_seeds]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(ArmOutcome)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in asdict(each).items()} for each in found if each is not None)
    return path


def _scores(training: Training) -> dict[int, tuple[float, float]]:
    """Objective and test accuracy by seed, of the policy of a training."""
    path = paths.EVALUATIONS / f"tuning-{training.name}" / "scores.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["policy"] != "static"]
    return {int(row["seed"]): (float(row["objective_pp"]), float(row["test_accuracy_pp"])) for row in rows}


def _mean(rows: list[dict[str, str]], column: str) -> float:
    return fmean(float(row[column]) for row in rows if row[column])


def _cell(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else value

"""Pools of evaluators: the interface and the local pool. Both give the same results.

Dataflow::

    driver --(candidate, seed)--> a free evaluator --EpisodeResult--> driver
    driver --(control, seed, final network)--> a free evaluator, once that network is known
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, Self

import torch

from esper_actors.evaluation.candidates import Candidate
from esper_actors.evaluation.evaluator import EpisodeResult, Evaluator, FinalNetwork
from esper_actors.training.workers import ShouldStop
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.results.evaluation import Score

OnScore = Callable[[Score], None]
EVALUATION_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """One episode of the candidate or control ``label``. A control is made after a final network."""

    label: str
    seed: int
    after: FinalNetwork | None = None


TaskResult = tuple[EvaluationTask, EpisodeResult]


class EvaluatorPool(AbstractContextManager["EvaluatorPool"], Protocol):
    """A pool of evaluators. Used within ``with``, which stops all processes."""

    def describe(self) -> str:
        """A one-line description of the evaluators."""

    def play(self, tasks: Sequence[EvaluationTask], should_stop: ShouldStop) -> Iterator[TaskResult]:
        """The result of every task, in the order of arrival.

        Raises:
            Interrupted: if a stop is requested before the last result.
        """


class LocalEvaluatorPool:
    """A pool of one evaluator in this process."""

    def __init__(self, config: RunConfig, candidates: Mapping[str, Candidate], *, greedy: bool) -> None:
        torch.set_num_threads(config.system.threads)
        self._candidates = candidates
        self._evaluator = Evaluator(config, config.system.devices[0], greedy=greedy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def describe(self) -> str:
        """See :class:`EvaluatorPool`."""
        return f"one process on {self._evaluator.device}"

    def play(self, tasks: Sequence[EvaluationTask], should_stop: ShouldStop) -> Iterator[TaskResult]:
        """See :class:`EvaluatorPool`."""
        for task in tasks:
            yield task, evaluate(self._evaluator, self._candidates, task, should_stop)


def evaluate(
    evaluator: Evaluator,
    candidates: Mapping[str, Candidate],
    task: EvaluationTask,
    should_stop: ShouldStop = lambda: False,
) -> EpisodeResult:
    """Run one task with an evaluator of this process."""
    if task.after is not None:
        return evaluator.unsteered(task.label, task.seed, task.after, should_stop)
    return evaluator.play(candidates[task.label], task.seed, should_stop)


def all_scores(
    evaluators: EvaluatorPool,
    labels: Sequence[str],
    controls: Sequence[str],
    reference: str,
    seeds: Sequence[int],
    on_score: OnScore,
    should_stop: ShouldStop,
) -> list[Score]:
    """Scores of all candidates and controls on all seeds, ordered by label and seed.

    Args:
        labels: labels of the candidates.
        controls: controls, built from the final network of ``reference`` for each seed.
        reference: one of ``labels``.

    Raises:
        Interrupted: if a stop is requested before the last result.
    """
    scores: dict[tuple[str, int], Score] = {}
    finals: dict[int, FinalNetwork] = {}
    ordered = sorted(labels, key=lambda label: label != reference)
    for task, result in evaluators.play(
        [EvaluationTask(label, seed) for label in ordered for seed in seeds], should_stop
    ):
        scores[task.label, task.seed] = result.score
        on_score(result.score)
        if task.label == reference:
            finals[task.seed] = result.final
    tasks = [EvaluationTask(control, seed, finals[seed]) for control in controls for seed in seeds]
    for task, result in evaluators.play(tasks, should_stop):
        scores[task.label, task.seed] = result.score
        on_score(result.score)
    return [scores[label, seed] for label in (*labels, *controls) for seed in seeds]

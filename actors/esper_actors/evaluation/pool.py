"""Pools of evaluators: the interface, and the pool of this process. Results do not depend on which is used.

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
from esper_ray.leyline.evaluation_results import Score

OnScore = Callable[[Score], None]
EVALUATION_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """One episode: of the candidate ``label``, or of the control ``label`` made after a final network."""

    label: str
    seed: int
    after: FinalNetwork | None = None


TaskResult = tuple[EvaluationTask, EpisodeResult]


class EvaluatorPool(AbstractContextManager["EvaluatorPool"], Protocol):
    """Plays jobs. Used within ``with``, which ends what was started."""

    def describe(self) -> str:
        """One line about who plays."""

    def play(self, tasks: Sequence[EvaluationTask], should_stop: ShouldStop) -> Iterator[TaskResult]:
        """The result of every task, in the order of arrival.

        Raises:
            Interrupted: if ``should_stop`` said so before the last had come.
        """


class LocalEvaluatorPool:
    """This process."""

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
    job: EvaluationTask,
    should_stop: ShouldStop = lambda: False,
) -> EpisodeResult:
    """One job."""
    if job.after is not None:
        return evaluator.unsteered(job.label, job.seed, job.after, should_stop)
    return evaluator.play(candidates[job.label], job.seed, should_stop)


def all_scores(
    players: EvaluatorPool,
    labels: Sequence[str],
    controls: Sequence[str],
    reference: str,
    seeds: Sequence[int],
    on_score: OnScore,
    should_stop: ShouldStop,
) -> list[Score]:
    """Every candidate and every unsteered control on every seed; ordered by candidate and seed.

    Args:
        labels: candidates.
        controls: unsteered ones, made after the final networks of ``reference``, seed by seed.
        reference: one of ``labels``.

    Raises:
        Interrupted: if ``should_stop`` said so before all had been played.
    """
    found: dict[tuple[str, int], Score] = {}
    finals: dict[int, FinalNetwork] = {}
    ordered = sorted(labels, key=lambda label: label != reference)
    for job, verdict in players.play([EvaluationTask(label, seed) for label in ordered for seed in seeds], should_stop):
        found[job.label, job.seed] = verdict.score
        on_score(verdict.score)
        if job.label == reference:
            finals[job.seed] = verdict.final
    jobs = [EvaluationTask(control, seed, finals[seed]) for control in controls for seed in seeds]
    for job, verdict in players.play(jobs, should_stop):
        found[job.label, job.seed] = verdict.score
        on_score(verdict.score)
    return [found[label, seed] for label in (*labels, *controls) for seed in seeds]

"""Who plays the episodes of an evaluation: actors on Ray, or this process. Results do not depend on which.

Dataflow::

    driver --(candidate, seed)--> a free player --Verdict--> driver
    driver --(control, seed, final network)--> a free player, once that network is known
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch

from esper_actors.cluster.settings import choose_ray_settings
from esper_actors.evaluation.candidates import Candidate
from esper_actors.evaluation.evaluator import EpisodeResult, Evaluator, FinalNetwork
from esper_actors.rollout.runner import Interrupted
from esper_actors.training.workers import ShouldStop
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.evaluation_results import Score

OnScore = Callable[[Score], None]
POLL_SECONDS = 0.2


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


class RayEvaluatorPool:
    """One actor for each CPU, or as many as are wanted; the devices of the run in turn."""

    def __init__(
        self, config: RunConfig, candidates: Mapping[str, Candidate], *, greedy: bool, workers: int | None
    ) -> None:
        """
        Args:
            workers: actors; one for each CPU of the cluster if there is no wish.
        """
        self._config, self._candidates, self._greedy, self._workers = config, candidates, greedy, workers
        self._devices: list[str] = []
        self._actors: list[Any] = []
        self._started_ray = False

    def __enter__(self) -> Self:
        import ray

        from esper_actors.cluster.connection import start_ray

        if not ray.is_initialized():
            start_ray(self._workers or len(self._config.system.devices))
            self._started_ray = True
        try:
            self._hire()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def _hire(self) -> None:
        """Start the actors.

        Raises:
            ResourceError: if the cluster does not have what they need.
        """
        import ray

        from esper_actors.cluster.placement import ResourceError
        from esper_actors.evaluation.actor import EvaluationActor

        has, devices = ray.cluster_resources(), self._config.system.devices
        wanted = max(self._workers or int(has.get("CPU", 0)), len(devices))
        self._devices = [devices[index % len(devices)] for index in range(wanted)]
        gpus = {device for device in devices if device != "cpu"}
        for kind, needed in {"CPU": wanted, "GPU": len(gpus)}.items():
            if needed > has.get(kind, 0):
                what = f"{wanted} actors" if kind == "CPU" else ", ".join(sorted(gpus))
                raise ResourceError(
                    f"the evaluation needs {needed} {kind} ({what}), the cluster has {has.get(kind, 0):g}"
                )
        candidates = ray.put(dict(self._candidates))
        actor: Any = EvaluationActor
        for device in self._devices:
            share = {} if device == "cpu" else {"num_gpus": 1.0 / self._devices.count(device)}
            options = actor.options(num_cpus=1, **share)
            self._actors.append(options.remote(self._config, candidates, device.partition(":")[0], self._greedy))

    def describe(self) -> str:
        """See :class:`EvaluatorPool`."""
        counts = Counter(self._devices).items()
        return "Ray actors: " + ", ".join(f"{count} on {device}" for device, count in counts)

    def play(self, tasks: Sequence[EvaluationTask], should_stop: ShouldStop) -> Iterator[TaskResult]:
        """See :class:`EvaluatorPool`."""
        import ray

        waiting, free = deque(tasks), deque(self._actors)
        running: dict[Any, tuple[EvaluationTask, Any]] = {}
        while waiting or running:
            while waiting and free:
                job, actor = waiting.popleft(), free.popleft()
                running[actor.play.remote(job)] = (job, actor)
            done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
            if should_stop():
                raise Interrupted
            for reference in done:
                job, actor = running.pop(reference)
                free.append(actor)
                yield job, ray.get(reference)


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


def make_evaluators(
    config: RunConfig, candidates: Mapping[str, Candidate], *, serial: bool, greedy: bool, workers: int | None
) -> EvaluatorPool:
    """Players of this process, or on Ray."""
    if serial:
        return LocalEvaluatorPool(config, candidates, greedy=greedy)
    choose_ray_settings()
    return RayEvaluatorPool(config, candidates, greedy=greedy, workers=workers)


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

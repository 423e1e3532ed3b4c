"""The Ray shells of an evaluator and of a pool of evaluators."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import ray
import torch

from esper_actors.cluster.connection import start_ray
from esper_actors.cluster.placement import ResourceError
from esper_actors.evaluation.candidates import Candidate
from esper_actors.evaluation.evaluator import EpisodeResult, Evaluator
from esper_actors.evaluation.pool import EVALUATION_POLL_SECONDS, EvaluationTask, TaskResult, evaluate
from esper_actors.rollout.runner import Interrupted
from esper_actors.training.workers import ShouldStop
from esper_ray.leyline.config.run import RunConfig


@ray.remote
class EvaluationActor:
    """An actor with an evaluator on one device."""

    def __init__(self, config: RunConfig, candidates: Mapping[str, Candidate], device: str, greedy: bool) -> None:
        torch.set_num_threads(config.system.threads)
        self._candidates = candidates
        self._evaluator = Evaluator(config, device, greedy=greedy)

    def play(self, task: EvaluationTask) -> EpisodeResult:
        """Run one evaluation task."""
        return evaluate(self._evaluator, self._candidates, task)


class RayEvaluatorPool:
    """A pool of evaluation actors, assigned to the devices of the run in turn."""

    def __init__(
        self, config: RunConfig, candidates: Mapping[str, Candidate], *, greedy: bool, workers: int | None
    ) -> None:
        """
        Args:
            workers: number of actors; ``None``: one for each CPU of the cluster.
        """
        self._config, self._candidates, self._greedy, self._workers = config, candidates, greedy, workers
        self._devices: list[str] = []
        self._actors: list[Any] = []
        self._started_ray = False

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            start_ray(self._workers or len(self._config.system.devices))
            self._started_ray = True
        try:
            self._start_actors()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def _start_actors(self) -> None:
        """Start the actors.

        Raises:
            ResourceError: if the cluster has too few CPUs or GPUs.
        """
        has, devices = ray.cluster_resources(), self._config.system.devices
        count = max(self._workers or int(has.get("CPU", 0)), len(devices))
        self._devices = [devices[index % len(devices)] for index in range(count)]
        gpus = {device for device in devices if device != "cpu"}
        for kind, needed in {"CPU": count, "GPU": len(gpus)}.items():
            if needed > has.get(kind, 0):
                what = f"{count} actors" if kind == "CPU" else ", ".join(sorted(gpus))
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
        return "Ray actors: " + ", ".join(f"{number} on {device}" for device, number in counts)

    def play(self, tasks: Sequence[EvaluationTask], should_stop: ShouldStop) -> Iterator[TaskResult]:
        """See :class:`EvaluatorPool`."""
        waiting, free = deque(tasks), deque(self._actors)
        running: dict[Any, tuple[EvaluationTask, Any]] = {}
        while waiting or running:
            while waiting and free:
                task, actor = waiting.popleft(), free.popleft()
                running[actor.play.remote(task)] = (task, actor)
            done, _ = ray.wait(list(running), num_returns=1, timeout=EVALUATION_POLL_SECONDS)
            if should_stop():
                raise Interrupted
            for reference in done:
                task, actor = running.pop(reference)
                free.append(actor)
                yield task, ray.get(reference)

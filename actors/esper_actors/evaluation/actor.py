"""The Ray shells of an evaluator and of a pool of evaluators."""

import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import ray
import torch
from ray.exceptions import RayError

from esper_actors.cluster.connection import start_ray
from esper_actors.cluster.control_processes import ControlProcesses
from esper_actors.cluster.placement import ResourceError
from esper_actors.cluster.supervisor import is_lost, reason
from esper_actors.evaluation.candidates import Candidate
from esper_actors.evaluation.evaluator import EpisodeResult, Evaluator
from esper_actors.evaluation.pool import EVALUATION_POLL_SECONDS, EvaluationTask, TaskResult, evaluate
from esper_actors.rollout.runner import Interrupted
from esper_actors.training.workers import ShouldStop, WorkerGroupError
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
        self._control: ControlProcesses | None = None
        self._started_ray = False

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            start_ray(self._workers or len(self._config.system.devices))
            self._started_ray = True
        try:
            self._control = ControlProcesses()
            self._start_actors()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        control, self._control = self._control, None
        failure = None if control is None else control.verdict(exception[1])
        if control is None or control.answer():
            for actor in self._actors:
                ray.kill(actor)
        if control is not None:
            control.stop()
        self._actors = []
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False
        if failure is not None:
            raise failure

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
        self._shared = ray.put(dict(self._candidates))
        self._actors = [self._start_actor(device) for device in self._devices]

    def _start_actor(self, device: str) -> Any:
        actor: Any = EvaluationActor
        share = {} if device == "cpu" else {"num_gpus": 1.0 / self._devices.count(device)}
        options = actor.options(num_cpus=1, **share)
        return options.remote(self._config, self._shared, device.partition(":")[0], self._greedy)

    def describe(self) -> str:
        """See :class:`EvaluatorPool`."""
        counts = Counter(self._devices).items()
        return "Ray actors: " + ", ".join(f"{number} on {device}" for device, number in counts)

    def play(self, tasks: Sequence[EvaluationTask], should_stop: ShouldStop) -> Iterator[TaskResult]:
        """See :class:`EvaluatorPool`. A lost actor is replaced, and its task repeated.

        Raises:
            WorkerGroupError: if the actor of one task is lost ``system.tries`` times.
        """
        waiting, free = deque(tasks), deque(range(len(self._actors)))
        running: dict[Any, tuple[EvaluationTask, int]] = {}
        losses: Counter[tuple[str, int]] = Counter()
        while waiting or running:
            while waiting and free:
                task, index = waiting.popleft(), free.popleft()
                running[self._actors[index].play.remote(task)] = (task, index)
            done, _ = ray.wait(list(running), num_returns=1, timeout=EVALUATION_POLL_SECONDS)
            if should_stop():
                raise Interrupted
            if self._control is not None:
                self._control.check()
            for reference in done:
                task, index = running.pop(reference)
                free.append(index)
                try:
                    result = ray.get(reference)
                except RayError as error:
                    losses[task.label, task.seed] += 1
                    self._replace(index, task, error, losses[task.label, task.seed])
                    waiting.appendleft(task)
                else:
                    yield task, result

    def _replace(self, index: int, task: EvaluationTask, error: RayError, losses: int) -> None:
        """Start a lost actor again.

        Raises:
            WorkerGroupError: if that was the last try of the task.
            RayError: if the actor was not lost.
        """
        if not is_lost(error):
            raise error
        if losses >= self._config.system.tries:
            raise WorkerGroupError(
                f"{task.label}, seed {task.seed}: the evaluation actor was lost {losses} times: {reason(error)}"
            ) from error
        if self._control is not None:
            self._control.confirm()
        ray.kill(self._actors[index])
        self._actors[index] = self._start_actor(self._devices[index])

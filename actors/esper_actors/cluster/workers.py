"""The worker group on a Ray cluster: a learner actor and environment actors.

Each actor may die at any time.

One loop drives everything. It waits for the next event: an episode, an update, an actor that is ready. A dead
actor is restarted in its place, and its task is repeated from the newest snapshot. The driver holds the state of
the learner after every update, so that a dead learner repeats one update.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from esper_actors.cluster.connection import dashboard_links, start_ray
from esper_actors.cluster.control_processes import ClusterLostError, ControlProcesses
from esper_actors.cluster.environment_actor import EnvironmentActor
from esper_actors.cluster.interruption import interruptible
from esper_actors.cluster.learner_actor import LearnerActor
from esper_actors.cluster.metrics_exporter import RayExporter
from esper_actors.cluster.placement import Place, Plan, ResourceError, make_plan
from esper_actors.cluster.supervisor import LOST_ACTOR_ERRORS, SupervisedActor, is_lost, reason
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import Interrupted
from esper_actors.rollout.sampling import ARRIVAL_SECONDS, SampleTracker
from esper_actors.rollout.snapshots import Behaviour, SnapshotPolicy
from esper_actors.training.learner.state import LearnerState
from esper_actors.training.scheduler import EpisodeScheduler, EpisodeTask, straggler_faults
from esper_actors.training.workers import Watch, Weights, WorkerGroupError
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.policy import Episode

Learner: Any = LearnerActor
Environment: Any = EnvironmentActor

POLL_SECONDS = 0.2
"""Longest time, in seconds, until a wait checks for a request to stop."""
START_SECONDS = 60.0
"""Seconds after which an actor that has not started is reported."""
LOOK_SECONDS = 0.02
LAST_SAMPLES_SECONDS = 2.0
"""Seconds to wait for late samples after the last round."""


class RayWorkerGroup:
    """One learner actor, and one environment actor for every ``envs_per_actor`` environments."""

    def __init__(
        self,
        config: RunConfig,
        snapshots: SnapshotPolicy | None = None,
        label: str = "esper",
        player: Callable[..., Any] | None = None,
        metrics: tuple[str, str] | None = None,
        final_scrape_s: float = 0.0,
    ) -> None:
        """
        Args:
            snapshots: where unfinished episodes are saved; without it a fault costs the whole episode.
            label: begins the names of the actors.
            metrics: run and group, as metrics name them; without it there is no telemetry actor.
            final_scrape_s: seconds for which the last metrics stay visible at the end.
            player: replaces the environments of an actor, for measuring everything else.

        Raises:
            ResourceError: if the configuration requires more of a GPU than there is of one.
        """
        self.config, self.snapshots, self._label, self._player = config, snapshots, label, player
        self._metrics, self._final_scrape_s = metrics, final_scrape_s
        self.exporter: RayExporter | None = None
        self._tracker = SampleTracker()
        self._plan = make_plan(config.system)
        self._scheduler = EpisodeScheduler(config.system.devices, config.system.tries)
        self._group: PlacementGroup | None = None
        self._workers: list[SupervisedActor] = []
        self._learner = SupervisedActor(self._make_learner, f"{label}/learner")
        self._running: dict[Any, tuple[SupervisedActor, int, EpisodeTask]] = {}
        self._weights: dict[str, Any] = {}
        self._state: LearnerState | None = None
        self._started_ray = False
        self._control: ControlProcesses | None = None

    @property
    def quarantined(self) -> dict[int, str]:
        """See ``WorkerGroup.quarantined``."""
        return self._scheduler.quarantined

    @property
    def links(self) -> dict[str, str]:
        """See ``WorkerGroup.links``: Ray's dashboard, if the cluster has one."""
        return dashboard_links()

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            start_ray(self._plan.total("CPU"))
            self._started_ray = True
        try:
            self._control = ControlProcesses()
            if get_current_placement_group() is None:  # a trial of a sweep has a group already
                with interruptible():
                    self._group = _reserve(self._plan, self.config.system.wait_for_resources_s, self._label)
            self._learner.start()
            if self._metrics is not None:
                self.exporter = RayExporter(*self._metrics, before_restart=self._confirm_control)
            for index, place in enumerate(self._plan.environments):
                worker = SupervisedActor(partial(self._make_environment, place), f"{self._label}/environment-{index}")
                self._workers.append(worker)
                worker.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._control is not None:
            control, self._control = self._control, None
            failure = control.verdict(exception[1])
            lost = not control.answer()
            control.stop()
            if lost:
                self._leave_lost_cluster()
                if failure is not None:
                    raise failure
                return
        if self.exporter is not None:
            gives_up = exception[0] is SystemExit  # a second Ctrl-C
            self.exporter.close(0.0 if gives_up else self._final_scrape_s)
            self.exporter = None
        for worker in [*self._workers, self._learner]:
            worker.stop()
        self._workers = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def _leave_lost_cluster(self) -> None:
        """Leave without calls to processes that do not answer."""
        if self.exporter is not None:
            self.exporter.abandon()
        self.exporter, self._workers, self._group = None, [], None
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def plan(self) -> str:
        """See ``WorkerGroup.plan``."""
        return self._plan.describe()

    def describe(self) -> str:
        """One line about the placement of the workers."""
        devices = Counter(place.device for place in self._plan.environments)
        counts = ", ".join(f"{count} on {device}" for device, count in devices.items())
        address = ray.get_runtime_context().gcs_address
        return f"Ray at {address}: environment actors {counts}; learner actor on {self.config.system.device}"

    def begin(self, assignments: Sequence[Assignment], behaviour: Behaviour, weights: Weights) -> None:
        """See ``WorkerGroup.begin``."""
        shared = ray.put(dict(weights))
        self._scheduler.begin(EpisodeTask(assignment, behaviour, shared) for assignment in assignments)

    def collect(self, assignments: Sequence[Assignment], watch: Watch) -> list[Episode]:
        """See ``WorkerGroup.collect``."""
        self._run_until(lambda: self._scheduler.done(assignments), watch)
        return self._scheduler.pop_episodes(assignments)

    def update(self, episodes: Sequence[Episode], round_index: int, watch: Watch) -> dict[str, float]:
        """See ``WorkerGroup.update``. Environments continue their episodes meanwhile."""
        state = self.state()
        bare = ray.put([replace(episode, log=()) for episode in episodes])
        began, deaths = time.monotonic(), 0
        while True:
            result = self._learner.call("update", round_index, bare)
            self._run_until(partial(_has_arrived, result), watch, result)
            try:
                diagnostics, self._state = ray.get(result)
            except RayError as error:
                if not is_lost(error):
                    raise
                deaths += 1
                if deaths >= self.config.system.tries:
                    raise WorkerGroupError(
                        f"the learner died {deaths} times in the same update: {reason(error)}"
                    ) from error
                watch.on_fault(Fault("learner_died", self._learner.name, reason(error)))
                self._confirm_control()
                self._learner.stop()
                self._state = state
                self._learner.start()
                began = time.monotonic()
            else:
                if deaths:
                    watch.on_fault(Fault("learner_recovered", self._learner.name, "", time.monotonic() - began))
                return dict(diagnostics)

    def drain(self, watch: Watch) -> None:
        """See ``WorkerGroup.drain``."""
        deadline = time.monotonic() + LAST_SAMPLES_SECONDS
        while not self._tracker.complete and time.monotonic() < deadline:
            self._poll_samples(watch)
            time.sleep(LOOK_SECONDS)
        self._poll_samples(watch, 0.0)

    def state(self) -> LearnerState:
        """See ``WorkerGroup.state``."""
        if self._state is None:
            try:
                state: LearnerState = ray.get(self._learner.call("state"))
            except LOST_ACTOR_ERRORS as error:
                raise WorkerGroupError(f"the learner cannot be started: {reason(error)}") from error
            self._state = state
        return self._state

    def load(self, state: LearnerState) -> None:
        """See ``WorkerGroup.load``."""
        self._state = state
        self._learner.stop()
        self._learner.start()

    def _run_until(self, until: Callable[[], bool], watch: Watch, awaited: Any = None) -> None:
        """Dispatch tasks and process results until ``until`` returns true."""
        while not until():
            self._dispatch()
            starting = {worker.starting: worker for worker in self._workers if worker.starting is not None}
            references = [*self._running, *starting, *([] if awaited is None else [awaited])]
            done, _ = ray.wait(references, num_returns=1, timeout=POLL_SECONDS)
            if watch.should_stop():
                raise Interrupted
            try:
                self._process(done, starting, watch)
            except ClusterLostError:
                if watch.should_stop():  # a signal to the whole process group ends Ray too
                    raise Interrupted from None
                raise

    def _process(self, done: Sequence[Any], starting: Mapping[Any, SupervisedActor], watch: Watch) -> None:
        """Process what has arrived, and check time limits and the cluster."""
        if self._control is not None:
            self._control.check()
        for reference in done:
            if reference in self._running:
                self._on_result(reference, watch)
            elif reference in starting:
                self._on_started(starting[reference], watch)
        self._check_timeouts(watch)
        self._poll_samples(watch)

    def _poll_samples(self, watch: Watch, patience_s: float = ARRIVAL_SECONDS) -> None:
        """Pass on the samples and the faults of the telemetry actor."""
        if self.exporter is None:
            return
        samples = [*self._tracker.records(self.exporter.poll_samples()), *self._tracker.settle(patience_s)]
        if samples and watch.on_samples is not None:
            watch.on_samples(samples)
        while self.exporter.faults:
            watch.on_fault(self.exporter.faults.pop(0))

    def _dispatch(self) -> None:
        playing: dict[str, list[EpisodeTask]] = {worker.name: [] for worker in self._workers}
        for worker, _, running in self._running.values():
            playing[worker.name].append(running)
        for _ in range(self.config.system.slots_per_actor):  # one each first, then the second ones
            for worker, place in zip(self._workers, self._plan.environments, strict=True):
                tasks = playing[worker.name]
                if not worker.alive or len(tasks) >= self.config.system.slots_per_actor:
                    continue
                task = self._scheduler.next(place.device, tasks)
                if task is not None:
                    tasks.append(task)
                    telemetry = None if self.exporter is None else self.exporter.actor
                    reference = worker.call("play", task.assignment, task.behaviour, task.weights, telemetry)
                    self._running[reference] = (worker, worker.attempt, task)

    def _on_result(self, reference: Any, watch: Watch) -> None:
        """Process the result of a task: an episode or an error."""
        worker, attempt, task = self._running.pop(reference)
        try:
            played = ray.get(reference)
        except RayError as error:
            shared = False
            if is_lost(error):
                others = any(other is worker and number == attempt for other, number, _ in self._running.values())
                # else a task that shared it would have restarted the actor
                shared = others or worker.attempt != attempt
                if worker.attempt == attempt:
                    self._restart(worker, error, watch)
            elif not isinstance(error, RayTaskError):
                raise
            self._failed(task, reason(error), watch, shared=shared)
        else:
            if played.summary is not None:
                self._tracker.finished(played.summary)
            for fault in played.faults:
                watch.on_fault(fault)
            self._scheduler.finished(played.episode)
            watch.on_episode(played.episode)

    def _failed(self, task: EpisodeTask, error: str, watch: Watch, *, shared: bool = False) -> None:
        stamp = None if self.snapshots is None else self.snapshots.stamp(task.behaviour, task.assignment)
        watch.on_fault(self._scheduler.failed(task, error, stamp, shared=shared))

    def _restart(self, worker: SupervisedActor, error: BaseException, watch: Watch) -> None:
        watch.on_fault(Fault("environment_actor_died", worker.name, reason(error)))
        self._confirm_control()
        worker.stop()
        worker.start()

    def _confirm_control(self) -> None:
        if self._control is not None:
            self._control.confirm()

    def _on_started(self, worker: SupervisedActor, watch: Watch) -> None:
        """Process the start of an actor, or its failure."""
        try:
            seconds = worker.started()
        except RayError as error:
            worker.stop()
            watch.on_fault(Fault("environment_actor_failed_to_start", worker.name, reason(error)))
            if worker.failures < self.config.system.tries:
                worker.start()
            elif not any(other.alive or other.starting is not None for other in self._workers):
                raise WorkerGroupError(f"no environment actor can be started: {reason(error)}") from error
        else:
            if worker.attempt > 1:
                watch.on_fault(Fault("environment_actor_recovered", worker.name, "", seconds))

    def _check_timeouts(self, watch: Watch) -> None:
        for fault in straggler_faults((task for _, _, task in self._running.values()), self.config.system.straggler_s):
            watch.on_fault(fault)
        for worker in self._workers:
            if worker.starting is not None and worker.waiting_s > START_SECONDS and not worker.reported_waiting:
                worker.reported_waiting = True
                what = f"it waits for resources, or is still starting; the {self._plan.describe()}"
                watch.on_fault(Fault("environment_actor_waits", worker.name, what, worker.waiting_s))

    def _make_learner(self, name: str) -> Any:
        place = self._plan.learner
        options = self._placed(place) | {"num_cpus": place.cpus, "num_gpus": place.gpus, "name": name}
        return Learner.options(**options).remote(self.config, place.device.partition(":")[0], self._state)

    def _make_environment(self, place: Place, name: str) -> Any:
        slots = self.config.system.slots_per_actor
        options = self._placed(place) | {"num_cpus": place.cpus, "num_gpus": place.gpus, "name": name}
        actor = Environment.options(**options, max_concurrency=slots)
        return actor.remote(self.config, place.device.partition(":")[0], place.gpus, self.snapshots, self._player)

    def _placed(self, place: Place) -> dict[str, Any]:
        if self._group is None or place.bundle is None:
            return {}
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, place.bundle)}


def _reserve(plan: Plan, patience_s: float, label: str) -> PlacementGroup:
    """Reserve all resources of the plan, waiting for nodes to come if there is patience.

    Raises:
        ResourceError: if they cannot be had.
    """
    deadline = time.monotonic() + patience_s
    if not patience_s:
        plan.check(_nodes())
    group = placement_group(list(plan.bundles), strategy=plan.strategy, name=f"{label}#{os.getpid()}")
    while not group.wait(1):
        nodes = _nodes()
        if time.monotonic() > max(deadline, deadline - patience_s + START_SECONDS):
            remove_placement_group(group)
            plan.check(nodes)
            free = ray.available_resources()
            raise ResourceError(
                f"the {plan.describe()}; not free within {max(patience_s, START_SECONDS):g} s: "
                f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU are, others use the rest"
            )
    return group


def _has_arrived(reference: Any) -> bool:
    """Whether a result, or an error in its place, has arrived."""
    return bool(ray.wait([reference], timeout=0)[0])


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]

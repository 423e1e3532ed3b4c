"""The controller: the loop over the rounds of a run.

Dataflow of a round::

    controller --assignments, weights v--> worker group      (a worker gets its next episode when it is free)
    workers --episodes--> controller                         (in the order of arrival: log, observers)
    workers --snapshots of unfinished episodes--> storage    (every few steps, asynchronous)
    controller --episodes, ordered by environment--> learner (it waits for all of them)
    learner --diagnostics, state v+1--> controller
    controller: rounds.csv, events, checkpoint, next round

Nothing is dropped, and the learner uses every episode once. With ``system.staleness`` 0 the policy that plays
round r has been updated r times. With 1 the episodes of round r + 1 start while round r is still being played
and learned from, with the policy of round r: one version behind, never more, the same in every run, and
recorded in ``rounds.csv``.

Between two rounds the run is a checkpoint. Within a round it is the checkpoint and the snapshots of episodes:
a restarted worker or a resumed run repeats the steps since the last snapshot.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import Interrupted, episode_seed
from esper_actors.rollout.snapshots import Behaviour
from esper_actors.training.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    finished_rounds,
    remove_later,
    save_checkpoint,
)
from esper_actors.training.learner.ppo import exploration_share
from esper_actors.training.round_summary import Progress, round_events, round_row, round_timing
from esper_actors.training.workers import Watch, Weights, WorkerGroup, WorkerGroupError
from esper_policies.bundle import weights_digest
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.records import Record
from esper_ray.nissa.metrics.publisher import head_choices
from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy
from esper_ray.nissa.runs.copies.storage import StorageError
from esper_ray.nissa.runs.observer import RunObserver
from esper_ray.nissa.runs.position import START
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import as_numbers


class Controller:
    """Runs rounds until all are done or a stop is requested."""

    def __init__(
        self,
        config: RunConfig,
        workers: WorkerGroup,
        run: RunDirectory,
        observer: RunObserver,
        should_stop: Callable[[], bool],
        remote_copy: RemoteCopy | None = None,
        *,
        samples: bool = True,
    ) -> None:
        """
        Args:
            remote_copy: updated after every round.
            samples: whether steps of unfinished episodes are sampled for the observer.
        """
        self.config, self.workers, self.run_directory = config, workers, run
        self.observer, self.should_stop, self.remote_copy = observer, should_stop, remote_copy
        self.progress = Progress()
        sampled = observer.samples_received if samples and config.telemetry.level != "off" else None
        self._watch = Watch(observer.episode_finished, self.report_fault, should_stop, sampled)
        self._rows: list[dict[str, Any]] = []
        self._choices = head_choices(config)
        self._begun_rounds: dict[int, tuple[list[Assignment], Behaviour]] = {}
        self._stale_weights: Weights | None = None
        """Weights of the next round's behaviour policy, if they differ from the learner's."""

    def start(self, *records: Record) -> None:
        """Start a run: its first checkpoint holds the untrained policy.

        Traces of an earlier start that ended before its first checkpoint are removed.

        Args:
            records: further events at the start of the log, such as the description of the host.
        """
        self.run_directory.rewind(START)
        self.run_directory.log([{"kind": "run_started", "config_sha256": self.config.digest()}, *records])
        self._save()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Resume from ``checkpoint``. Records and checkpoints written after it are dropped."""
        self.workers.load(checkpoint.learner)
        folder = self.run_directory.checkpoints
        if any(finished_rounds(path) > checkpoint.round_index for path in checkpoint_folders(folder)):
            if self.remote_copy is not None:
                self.remote_copy.remove_later(checkpoint.round_index)
            remove_later(folder, checkpoint.round_index)
        self.run_directory.rewind(checkpoint.position)
        if self.remote_copy is not None:
            self.remote_copy.rewind(checkpoint.position)
        self.progress = Progress(**checkpoint.progress)
        self._stale_weights = checkpoint.stale_weights
        self._rows = [as_numbers(row) for row in self.run_directory.rounds()]

    def run(self) -> bool:
        """Run rounds until all are done (true) or a stop is requested (false).

        Either way the newest checkpoint holds every finished round.

        Raises:
            WorkerGroupError: if no environment or no learner is left.
        """
        done = self._run_rounds()
        self.workers.drain(self._watch)
        return done

    def weights_digest(self) -> str:
        """Digest of the policy's weights, normalizer included; equal for equal runs."""
        return weights_digest(self.workers.state().weights())

    def report_fault(self, fault: Fault) -> None:
        """Record a fault of the run and pass it to the observer."""
        self.run_directory.add_fault({"round": self.progress.round_index, **asdict(fault)})
        self.observer.fault_occurred(fault)

    def _run_rounds(self) -> bool:
        while self.progress.round_index < self.config.ppo.rounds:
            if self.should_stop():
                return False
            try:
                self._run_round()
            except Interrupted:
                return False
        return True

    def _run_round(self) -> None:
        index = self.progress.round_index
        self._begin_rounds(index)
        assignments, behaviour = self._begun_rounds.pop(index)
        began = time.monotonic()
        before = set(self.workers.quarantined)
        episodes = self.workers.collect(assignments, self._watch)
        quarantined = {env: error for env, error in self.workers.quarantined.items() if env not in before}
        if not episodes:
            last = list(quarantined.values())[-1]
            raise WorkerGroupError(f"every environment is quarantined; the last error: {last}")
        play_s = time.monotonic() - began
        self.observer.update_started()
        began = time.monotonic()
        diagnostics = self.workers.update(episodes, index, self._watch)
        update_s = time.monotonic() - began
        self.observer.update_finished()

        self.progress.count(episodes)
        row = round_row(self.progress, episodes, diagnostics, behaviour)
        self.progress.count_round(row["val_accuracy_ratio"], behaviour)
        self._rows.append(row)
        self.run_directory.log(record | {"round": index} for episode in episodes for record in episode.log)
        events = round_events(self._rows, diagnostics, self._choices, self.progress, quarantined)
        self.run_directory.log(events)
        timing = round_timing(index, sum(len(episode.trajectory) for episode in episodes), play_s, update_s)
        self.run_directory.add_round(row, timing)
        self.progress.seconds += play_s + update_s
        self.progress.round_index = index + 1
        self._save()
        self.run_directory.compact()
        self.observer.round_logged(events)
        self.observer.round_finished(row, timing)

    def _begin_rounds(self, index: int) -> None:
        """Begin round ``index`` if necessary, and the next one if it may be stale."""
        weights, staleness = self.workers.state().weights(), self.config.system.staleness
        if index not in self._begun_rounds:
            stale = self._stale_weights
            self._begin(index, weights if stale is None else stale, index - (stale is not None))
        if staleness:
            if index + 1 < self.config.ppo.rounds:
                self._begin(index + 1, weights, index)
            self._stale_weights = weights  # after the last round, too: the run may be extended

    def _begin(self, index: int, weights: Weights, version: int) -> None:
        config, envs = self.config, self.config.system.envs
        assignments = [
            Assignment(index * envs + env, env, episode_seed(config.seed, index, env))
            for env in range(envs)
            if env not in self.workers.quarantined
        ]
        behaviour = Behaviour(index, version, weights_digest(weights), exploration_share(config.ppo, index))
        self.workers.begin(assignments, behaviour, weights)
        self._begun_rounds[index] = (assignments, behaviour)

    def _save(self) -> None:
        progress = {name: getattr(self.progress, name) for name in Progress.__slots__}
        index, state = self.progress.round_index, self.workers.state()
        stale = None if self._stale_weights is None else dict(self._stale_weights)
        self.run_directory.flush()
        checkpoint = Checkpoint(index, state, self.run_directory.position(), progress, stale)
        protected = {index - 1} if stale else set()  # the behaviour policy of the next round
        protected |= {self.progress.best_round["checkpoint"]} if self.progress.best_round else set()
        newest = self.config.ppo.checkpoints_kept
        save_checkpoint(self.run_directory.checkpoints, checkpoint, self.config, newest, protected)
        self._push()
        if self.workers.snapshots is not None:
            self.workers.snapshots.remove_before(index)

    def _push(self) -> None:
        """Update the remote copy. After a storage error the next round retries."""
        if self.remote_copy is None:
            return
        try:
            self.remote_copy.push()
        except StorageError as error:
            self.report_fault(Fault("storage_failed", self.remote_copy.place, str(error)))

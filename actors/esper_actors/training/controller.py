"""The controller: one readable loop over rounds.

Dataflow of a round, and who waits for whom::

    controller --assignments, weights v--> crew              (an actor gets its next when it is free)
    actors --episodes--> controller                          (taken as they come: log, progress)
    actors --episodes in the middle--> storage               (every few steps; nobody waits for it)
    controller --episodes, ordered by environment--> learner (it waits for all of them)
    learner --diagnostics, state v+1--> controller
    controller: rounds.csv, events, checkpoint, next round

Nothing is dropped, and every episode is learnt from once. With ``system.staleness`` 0 the episodes of
round r are played with what r updates have taught. With 1 those of round r + 1 are begun while round r
is still being played and learnt from, with the policy of round r: one version behind, never more, the
same in every run, and counted in ``rounds.csv``.

Between two rounds the run is a checkpoint. Within a round it is the checkpoint and the episodes in
storage: whoever goes on, a new actor or a new driver, repeats the steps since an episode was last kept.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from esper_policies.bundle import weights_digest

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import Interrupted, episode_seed
from esper_actors.rollout.sampling import Record
from esper_actors.rollout.snapshots import Behaviour
from esper_actors.training.checkpoint import Checkpoint, save_checkpoint
from esper_actors.training.ppo_learner import exploration_share
from esper_actors.training.workers import ShouldStop, Watch, Weights, WorkerGroup, WorkerGroupError
from esper_ray.leyline.actions import HEADS, LifecycleOp
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.faults import Fault
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.metrics.anomalies import anomalies
from esper_ray.nissa.metrics.publisher import head_choices
from esper_ray.nissa.runs.remote_copy import RemoteCopy
from esper_ray.nissa.runs.run_directory import RunDirectory, as_numbers
from esper_ray.nissa.runs.storage import StorageError

DIAGNOSTICS = (
    "policy_loss",
    "value_loss",
    "entropy",
    "kl",
    "clip_share",
    "grad_norm",
    "explained_variance",
    "return_variance",
    "low_variance",
    "optimizer_steps",
    "stopped_by_kl",
    "epsilon",
    "entropy_coefficient",
    *(f"entropy_{head}" for head in HEADS),
)
"""What ``rounds.csv`` keeps of an update."""


class Listener(Protocol):
    """Watches a run."""

    def episode_finished(self, episode: Episode) -> None:
        """An episode has arrived."""

    def updating(self) -> None:
        """All episodes of the round have arrived; the learner is at work."""

    def round_finished(self, row: dict[str, Any], timing: dict[str, float]) -> None:
        """A round has been learnt from and saved."""

    def fault_happened(self, fault: Fault) -> None:
        """Something went wrong, or is right again; the run goes on."""


class Audience(Protocol):
    """Follows events and samples. Nothing in a run depends on it."""

    def resumed(self) -> None:
        """The run goes on after what its event log holds."""

    def happened(self, records: Sequence[Record]) -> None:
        """These events are about a round as a whole; those of episodes come with them."""

    def sampled(self, records: Sequence[Record]) -> None:
        """Samples have arrived, and steps of episodes that are being played."""


@dataclass(slots=True)
class Progress:
    """What a run has counted, all of it in every checkpoint."""

    round_index: int = 0
    """Rounds that are finished."""
    env_steps: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    """The episode with the highest validation accuracy so far."""
    best_round: dict[str, Any] = field(default_factory=dict)
    """The round with the highest validation accuracy so far, and the checkpoint of the policy that played it."""
    control_pp: list[float] = field(default_factory=list)
    """Validation accuracies without growth, of the episodes of which they are known."""


class Controller:
    """Runs rounds until they are done or somebody asks to stop."""

    def __init__(
        self,
        config: RunConfig,
        crew: WorkerGroup,
        run: RunDirectory,
        listener: Listener,
        should_stop: ShouldStop,
        mirror: RemoteCopy | None = None,
        audience: Audience | None = None,
    ) -> None:
        """
        Args:
            mirror: keeps a copy of the run elsewhere, after every round.
            audience: follows what happens; without it nothing is sampled.
        """
        self.config = config
        self.crew = crew
        self.run_directory = run
        self.listener = listener
        self.should_stop = should_stop
        self.mirror = mirror
        self.progress = Progress()
        self.audience = audience
        sampled = None if audience is None or config.telemetry.level == "off" else audience.sampled
        self._watch = Watch(listener.episode_finished, self._note_fault, should_stop, sampled)
        self._rows: list[dict[str, Any]] = []
        self._choices = head_choices(config)
        self._begun: dict[int, tuple[list[Assignment], Behaviour]] = {}
        self._behind: Weights | None = None
        """What plays the next round, if it is not the learner's own weights."""

    def start(self) -> None:
        """Begin a fresh run: its first checkpoint is the untrained policy."""
        self.run_directory.log([{"kind": "run_started", "config_sha256": self.config.digest()}])
        self._save()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from ``checkpoint``, dropping what was written after it."""
        self.crew.load(checkpoint.learner)
        self.run_directory.rewind(checkpoint.position)
        if self.mirror is not None:
            self.mirror.rewind(checkpoint.position)
        self.progress = Progress(**checkpoint.progress)
        self._behind = checkpoint.behind
        self._rows = [as_numbers(row) for row in self.run_directory.rounds()]
        if self.audience is not None:
            self.audience.resumed()

    def run(self) -> bool:
        """Play and learn until all rounds are done (true) or ``should_stop`` says so (false).

        Either way the newest checkpoint holds every finished round.

        Raises:
            WorkerGroupError: if nobody is left to play or to learn.
        """
        done = self._rounds()
        self.crew.wind_up(self._watch)
        return done

    def _rounds(self) -> bool:
        while self.progress.round_index < self.config.ppo.rounds:
            if self.should_stop():
                return False
            try:
                self._round()
            except Interrupted:
                return False
        return True

    def weights_digest(self) -> str:
        """Digest of the policy's weights, normaliser included; equal for equal runs."""
        return weights_digest(self.crew.state().weights())

    def _round(self) -> None:
        index = self.progress.round_index
        self._begin_rounds(index)
        assignments, behaviour = self._begun.pop(index)
        began = time.monotonic()
        known = set(self.crew.quarantined)
        episodes = self.crew.collect(assignments, self._watch)
        given_up = {env: why for env, why in self.crew.quarantined.items() if env not in known}
        if not episodes:
            raise WorkerGroupError(
                f"every environment has been given up; the last error: {list(given_up.values())[-1]}"
            )
        played = time.monotonic()
        self.listener.updating()
        diagnostics = self.crew.update(episodes, index, self._watch)
        learnt = time.monotonic()

        row = self._summarise(episodes, diagnostics, behaviour)
        self.run_directory.log(record | {"round": index} for episode in episodes for record in episode.log)
        about = self._about(row, diagnostics, given_up)
        self.run_directory.log(about)
        timing = self._timing(episodes, played - began, learnt - played)
        self.run_directory.add_round(row, timing)
        self.progress.round_index = index + 1
        self._save()
        self.run_directory.compact()
        if self.audience is not None:
            self.audience.happened(about)
        self.listener.round_finished(row, timing)

    def _about(
        self, row: dict[str, Any], diagnostics: Mapping[str, float], given_up: Mapping[int, str]
    ) -> list[dict[str, Any]]:
        """The events of a round as a whole."""
        index = row["round"]
        self._rows.append(row)
        control = float(np.mean(self.progress.control_pp)) / 100.0 if self.progress.control_pp else None
        return [
            *({"kind": "environment_quarantined", "round": index, "env": e, "error": w} for e, w in given_up.items()),
            {"kind": "ppo_update", "round": index, **diagnostics},
            {"kind": "round", **row},
            *anomalies(self._rows, self._choices, control, sorted(given_up)),
        ]

    def _begin_rounds(self, index: int) -> None:
        """Hand round ``index`` to the crew if that has not been done, and the next one if it may be stale."""
        weights, staleness = self.crew.state().weights(), self.config.system.staleness
        if index not in self._begun:
            behind = self._behind is not None
            self._begin(index, self._behind if self._behind is not None else weights, index - behind)
        if staleness and index + 1 < self.config.ppo.rounds:
            self._begin(index + 1, weights, index)
            self._behind = weights

    def _begin(self, index: int, weights: Weights, version: int) -> None:
        config, envs = self.config, self.config.system.envs
        assignments = [
            Assignment(index * envs + env, env, episode_seed(config.seed, index, env))
            for env in range(envs)
            if env not in self.crew.quarantined
        ]
        behaviour = Behaviour(index, version, weights_digest(weights), exploration_share(config.ppo, index))
        self.crew.begin(assignments, behaviour, weights)
        self._begun[index] = (assignments, behaviour)

    def _summarise(
        self, episodes: Sequence[Episode], diagnostics: dict[str, float], behaviour: Behaviour
    ) -> dict[str, Any]:
        """The line of ``rounds.csv``: nothing in it depends on the clock or on who did the work."""
        index = self.progress.round_index
        self.progress.env_steps += sum(len(episode.trajectory) for episode in episodes)
        best = max(episodes, key=lambda episode: episode.val_accuracy_pp)
        if not self.progress.best or best.val_accuracy_pp > self.progress.best["val_accuracy_pp"]:
            self.progress.best = {"episode": best.index, "val_accuracy_pp": best.val_accuracy_pp}
        controls = (record for episode in episodes for record in episode.log if record["kind"] == "control")
        self.progress.control_pp += [record["val_accuracy_pp"] for record in controls]
        returns = [episode.total_reward for episode in episodes]
        row: dict[str, Any] = {
            "round": index,
            "episodes": len(episodes),
            "env_steps": self.progress.env_steps,
            "staleness": index - behaviour.version,
            "return_mean": float(np.mean(returns)),
            "return_std": float(np.std(returns)),
            "val_accuracy_ratio": float(np.mean([e.val_accuracy_pp for e in episodes])) / 100.0,
            "committed_accuracy_ratio": float(np.mean([e.committed_accuracy_pp for e in episodes])) / 100.0,
            "growth_ratio": float(np.mean([e.growth_ratio for e in episodes])),
            "fossilised_mean": float(np.mean([e.fossilised for e in episodes])),
            "refused": sum(e.refused for e in episodes),
            "rollbacks": sum(e.rollback for e in episodes),
        }
        accuracy = row["val_accuracy_ratio"]
        if not self.progress.best_round or accuracy > self.progress.best_round["val_accuracy_ratio"]:
            self.progress.best_round = {
                "round": index,
                "val_accuracy_ratio": accuracy,
                "checkpoint": behaviour.version,
            }
        row |= {f"op_{op.name.lower()}": sum(e.operations[op.name] for e in episodes) for op in LifecycleOp}
        return row | {name: diagnostics[name] for name in DIAGNOSTICS}

    def _timing(self, episodes: Sequence[Episode], play: float, update: float) -> dict[str, float]:
        steps = sum(len(episode.trajectory) for episode in episodes)
        self.progress.seconds += play + update
        return {
            "round": self.progress.round_index,
            "play_seconds": round(play, 3),
            "update_seconds": round(update, 3),
            "env_steps_per_second": round(steps / (play + update), 3),
        }

    def _note_fault(self, fault: Fault) -> None:
        self.run_directory.add_fault({"round": self.progress.round_index, **asdict(fault)})
        self.listener.fault_happened(fault)

    def _save(self) -> None:
        progress = {name: getattr(self.progress, name) for name in Progress.__slots__}
        index, state = self.progress.round_index, self.crew.state()
        behind = None if self._behind is None else dict(self._behind)
        checkpoint = Checkpoint(index, state, self.run_directory.position(), progress, behind)
        spare = {index - 1} if behind else set()  # of the policy that plays the next round
        spare |= {self.progress.best_round["checkpoint"]} if self.progress.best_round else set()
        kept = self.config.ppo.checkpoints_kept
        save_checkpoint(self.run_directory.checkpoints, checkpoint, self.config, kept, spare)
        self._push()
        if self.crew.keeping is not None:
            self.crew.keeping.forget_before(index)

    def _push(self) -> None:
        """Bring the copy up to date. A storage that fails now is tried again after the next round."""
        if self.mirror is None:
            return
        try:
            self.mirror.push()
        except StorageError as error:
            self._note_fault(Fault("storage_failed", self.mirror.place, str(error)))

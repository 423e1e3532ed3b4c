"""The controller: one readable loop over rounds.

Dataflow of a round, and who waits for whom::

    learner --weights v--> every environment actor          (actors wait for the weights)
    controller --assignments--> actors, one at a time each   (an actor gets its next when it is free)
    actors --episodes--> controller                          (taken as they come: log, progress)
    actors --episodes--> learner, ordered by environment     (the learner waits for all of them)
    learner --diagnostics--> controller
    controller: rounds.csv, events, checkpoint, next round

Nothing is dropped and nothing is stale: every episode of round r is played with the weights of round
r and learnt from once. Between two rounds the run is a checkpoint; an interruption goes back to the
last one, and the interrupted round is played again with the same seeds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from actors.checkpoint import Checkpoint, save_checkpoint
from actors.crew import Crew, ShouldStop
from actors.ppo import exploration_share
from actors.rollout import Assignment, Interrupted, episode_seed
from esper_ray.leyline.actions import HEADS, LifecycleOp
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.run_directory import RunDirectory
from policies.bundle import weights_digest

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


@dataclass(slots=True)
class Progress:
    """What a run has counted, all of it in every checkpoint."""

    round_index: int = 0
    """Rounds that are finished."""
    env_steps: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    """The episode with the highest validation accuracy so far."""


class Controller:
    """Runs rounds until they are done or somebody asks to stop."""

    def __init__(
        self, config: RunConfig, crew: Crew, run: RunDirectory, listener: Listener, should_stop: ShouldStop
    ) -> None:
        self.config = config
        self.crew = crew
        self.run_directory = run
        self.listener = listener
        self.should_stop = should_stop
        self.progress = Progress()

    def start(self) -> None:
        """Begin a fresh run: its first checkpoint is the untrained policy."""
        self.run_directory.log([{"kind": "run_started", "config_sha256": self.config.digest()}])
        self._save()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from ``checkpoint``, dropping what was written after it."""
        self.crew.load(checkpoint.learner)
        self.run_directory.rewind(checkpoint.position)
        self.progress = Progress(**checkpoint.progress)

    def run(self) -> bool:
        """Play and learn until all rounds are done (true) or ``should_stop`` says so (false).

        Either way the newest checkpoint holds every finished round.
        """
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
        tensors = self.crew.state().tensors
        return weights_digest({name: tensor for name, tensor in tensors.items() if name.startswith("network.")})

    def _round(self) -> None:
        index, config = self.progress.round_index, self.config
        assignments = [
            Assignment(index * config.system.envs + env, env, episode_seed(config.seed, index, env))
            for env in range(config.system.envs)
        ]
        began = time.monotonic()
        episodes = self.crew.play(
            assignments, exploration_share(config.ppo, index), self.listener.episode_finished, self.should_stop
        )
        played = time.monotonic()
        self.listener.updating()
        diagnostics = self.crew.update(episodes, index)
        learnt = time.monotonic()

        row = self._summarise(episodes, diagnostics)
        self.run_directory.log(record | {"round": index} for episode in episodes for record in episode.log)
        self.run_directory.log([{"kind": "ppo_update", "round": index, **diagnostics}, {"kind": "round", **row}])
        timing = self._timing(episodes, played - began, learnt - played)
        self.run_directory.add_round(row, timing)
        self.progress.round_index = index + 1
        self._save()
        self.listener.round_finished(row, timing)

    def _summarise(self, episodes: Sequence[Episode], diagnostics: dict[str, float]) -> dict[str, Any]:
        """The line of ``rounds.csv``: nothing in it depends on the clock or on who did the work."""
        steps = sum(len(episode.trajectory) for episode in episodes)
        self.progress.env_steps += steps
        best = max(episodes, key=lambda episode: episode.val_accuracy_pp)
        if not self.progress.best or best.val_accuracy_pp > self.progress.best["val_accuracy_pp"]:
            self.progress.best = {"episode": best.index, "val_accuracy_pp": best.val_accuracy_pp}
        returns = [episode.total_reward for episode in episodes]
        row: dict[str, Any] = {
            "round": self.progress.round_index,
            "episodes": len(episodes),
            "env_steps": self.progress.env_steps,
            "return_mean": float(np.mean(returns)),
            "return_std": float(np.std(returns)),
            "val_accuracy_ratio": float(np.mean([e.val_accuracy_pp for e in episodes])) / 100.0,
            "committed_accuracy_ratio": float(np.mean([e.committed_accuracy_pp for e in episodes])) / 100.0,
            "growth_ratio": float(np.mean([e.growth_ratio for e in episodes])),
            "fossilised_mean": float(np.mean([e.fossilised for e in episodes])),
            "refused": sum(e.refused for e in episodes),
            "rollbacks": sum(e.rollback for e in episodes),
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

    def _save(self) -> None:
        progress = {name: getattr(self.progress, name) for name in Progress.__slots__}
        checkpoint = Checkpoint(self.progress.round_index, self.crew.state(), self.run_directory.position(), progress)
        save_checkpoint(self.run_directory.checkpoints, checkpoint, self.config, self.config.ppo.checkpoints_kept)

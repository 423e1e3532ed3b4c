"""Plays whole episodes: one environment, one policy, one record. No Ray in here."""

import logging
from collections.abc import Callable

from esper_actors.rollout.recorder import Assignment, EpisodeRecorder, PartialEpisode
from esper_actors.rollout.sampling import Sampler
from esper_actors.rollout.snapshots import EpisodeSnapshots
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.policy import Episode, Policy, ResumablePolicy
from esper_ray.leyline.step_outcome import StepOutcome, Stopwatch
from esper_ray.tolaria.assembly import derived_seed
from esper_ray.tolaria.device_memory import memory_in_use

POLICY_STREAM = 3
"""Key of the random stream that a policy draws from; the environment's own streams have others."""

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """An episode was given up because somebody asked to stop."""


def never() -> bool:
    """Do not stop."""
    return False


def episode_seed(run_seed: int, round_index: int, env: int) -> int:
    """Seed of the episode that environment ``env`` plays in a round; the same wherever it is played."""
    return derived_seed(run_seed, round_index, env)


class EpisodeRunner:
    """An environment and the policy that acts in it."""

    def __init__(self, env: MorphogenesisEnv, policy: Policy, controls: int = 0) -> None:
        """
        Args:
            controls: of so many episodes, those with the lowest numbers, the host is trained without growth as well.
        """
        self.env = env
        self.policy = policy
        self.controls = controls

    def play(
        self,
        assignment: Assignment,
        should_stop: Callable[[], bool] = never,
        snapshots: EpisodeSnapshots | None = None,
        sampler: Sampler | None = None,
    ) -> Episode:
        """One episode to its end: from ``reset``, or from where the snapshots has it.

        Args:
            snapshots: keeps the episode every few steps, and at its end. Gone on with or not, it is the same episode.
            sampler: is told of every step.

        Raises:
            Interrupted: if ``should_stop`` says so between two steps.
            RuntimeError: if the policy chooses an illegal action.
            TypeError: if an episode is to be kept of a policy that cannot be saved.
        """
        if snapshots is None:
            return self._to_the_end(self._begun(assignment), should_stop, None, sampler)
        found = snapshots.load(assignment)
        if isinstance(found, Episode):
            return found
        recording = self._begun(assignment) if found is None else self._resumed(found, assignment)
        episode = self._to_the_end(recording, should_stop, snapshots, sampler)
        snapshots.save_finished(assignment, episode)
        return episode

    def _begun(self, assignment: Assignment) -> EpisodeRecorder:
        recording = EpisodeRecorder(assignment)
        self.env.reset(seed=assignment.seed)
        self.policy.begin_episode(derived_seed(assignment.seed, POLICY_STREAM))
        control = self.env.control(assignment.seed) if assignment.index < self.controls else ()
        recording.begin(self.env.outcome, control)
        return recording

    def _resumed(self, middle: PartialEpisode, assignment: Assignment) -> EpisodeRecorder:
        policy = self._resumable()
        try:
            self.env.load_state(middle.environment)
            policy.load_state(middle.policy)
        except ValueError as error:
            logger.warning("episode %d is played from its beginning: %s", assignment.index, error)
            return self._begun(assignment)
        return middle.recording

    def _to_the_end(
        self,
        recording: EpisodeRecorder,
        should_stop: Callable[[], bool],
        snapshots: EpisodeSnapshots | None,
        sampler: Sampler | None,
    ) -> Episode:
        outcome: StepOutcome | None = None
        while outcome is None or not outcome.last:
            if should_stop():
                raise Interrupted
            view, watch = self.env.view, Stopwatch()
            decision = self.policy.decide(view)
            watch.lap("decide")
            if not view.masks.allows(decision.action):
                raise RuntimeError(
                    f"{type(self.policy).__name__} chose the illegal action {decision.action} "
                    f"at step {len(recording) + 1}"
                )
            self.env.step(decision.action.to_indices())
            outcome = self.env.outcome
            records = recording.add(view, decision, outcome)
            if sampler is not None:
                memory = memory_in_use(self.env.device)
                sampler.step(records, decision, {**watch.seconds, **self.env.seconds}, memory)
            if snapshots is not None and not outcome.last and snapshots.is_due(len(recording)):
                state = self._resumable().save_state()
                snapshots.save(recording.assignment, recording.packed(self.env.save_state(), state))
        return recording.finished(self.env)

    def _resumable(self) -> ResumablePolicy:
        if not isinstance(self.policy, ResumablePolicy):
            raise TypeError(f"an episode of {type(self.policy).__name__} cannot be kept: it has no save_state")
        return self.policy

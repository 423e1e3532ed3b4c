"""Plays whole episodes: one environment, one policy, one record. No Ray in here."""

import logging
from collections.abc import Callable

from actors.keeping import EpisodeKeeper
from actors.recording import Assignment, Middle, Recording
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.policy import Episode, Policy, ResumablePolicy
from esper_ray.tolaria.assembly import derived_seed

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

    def __init__(self, env: MorphogenesisEnv, policy: Policy) -> None:
        self.env = env
        self.policy = policy

    def play(
        self, assignment: Assignment, should_stop: Callable[[], bool] = never, keeper: EpisodeKeeper | None = None
    ) -> Episode:
        """One episode to its end: from ``reset``, or from where the keeper has it.

        Args:
            keeper: keeps the episode every few steps, and at its end. Gone on with or not, it is the same episode.

        Raises:
            Interrupted: if ``should_stop`` says so between two steps.
            RuntimeError: if the policy chooses an illegal action.
            TypeError: if an episode is to be kept of a policy that cannot be saved.
        """
        if keeper is None:
            return self._to_the_end(self._begun(assignment), should_stop, None)
        found = keeper.found(assignment)
        if isinstance(found, Episode):
            return found
        recording = self._begun(assignment) if found is None else self._resumed(found, assignment)
        episode = self._to_the_end(recording, should_stop, keeper)
        keeper.keep_finished(assignment, episode)
        return episode

    def _begun(self, assignment: Assignment) -> Recording:
        recording = Recording(assignment)
        _, info = self.env.reset(seed=assignment.seed)
        self.policy.begin_episode(derived_seed(assignment.seed, POLICY_STREAM))
        recording.begin(info)
        return recording

    def _resumed(self, middle: Middle, assignment: Assignment) -> Recording:
        policy = self._resumable()
        try:
            self.env.load_state(middle.environment)
            policy.load_state(middle.policy)
        except ValueError as error:
            logger.warning("episode %d is played from its beginning: %s", assignment.index, error)
            return self._begun(assignment)
        return middle.recording

    def _to_the_end(
        self, recording: Recording, should_stop: Callable[[], bool], keeper: EpisodeKeeper | None
    ) -> Episode:
        terminated = truncated = False
        while not (terminated or truncated):
            if should_stop():
                raise Interrupted
            view = self.env.view
            decision = self.policy.decide(view)
            if not view.masks.allows(decision.action):
                raise RuntimeError(
                    f"{type(self.policy).__name__} chose the illegal action {decision.action} "
                    f"at step {len(recording) + 1}"
                )
            _, reward, terminated, truncated, info = self.env.step(decision.action.to_indices())
            recording.add(view, decision, info | {"reward": reward})
            if keeper is not None and not (terminated or truncated) and keeper.is_due(len(recording)):
                state = self._resumable().save_state()
                keeper.keep(recording.assignment, recording.packed(self.env.save_state(), state))
        return recording.finished(self.env, terminated=terminated)

    def _resumable(self) -> ResumablePolicy:
        if not isinstance(self.policy, ResumablePolicy):
            raise TypeError(f"an episode of {type(self.policy).__name__} cannot be kept: it has no save_state")
        return self.policy

"""Runner of whole episodes: one environment, one policy, one recorder."""

from collections.abc import Callable

import numpy as np

from esper_actors.rollout.recorder import Assignment, EpisodeRecorder, PartialEpisode
from esper_actors.rollout.sampling import Sampler
from esper_actors.rollout.snapshots import EpisodeSnapshots, OnFault, ignore, refused_snapshot
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.policy import Episode, Policy, ResumablePolicy
from esper_ray.leyline.step_outcome import StepOutcome, Stopwatch
from esper_ray.tolaria.assembly import derived_seed
from esper_ray.tolaria.device_memory import memory_in_use

POLICY_STREAM = 3
"""Key of the random stream that a policy draws from; the environment's own streams have others."""


class Interrupted(Exception):
    """An episode was interrupted by a request to stop."""


def never() -> bool:
    """Do not stop."""
    return False


def episode_seed(run_seed: int, round_index: int, env: int) -> int:
    """Seed of the episode of environment ``env`` in a round. It does not depend on the placement."""
    return derived_seed(run_seed, round_index, env)


class EpisodeRunner:
    """An environment and the policy that acts in it."""

    def __init__(self, env: MorphogenesisEnv, policy: Policy, controls: int = 0) -> None:
        """
        Args:
            controls: for the episodes with numbers below this, the host is also trained without growth.
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
        on_fault: OnFault = ignore,
    ) -> Episode:
        """Play one episode to its end, from ``reset`` or from its newest snapshot.

        Args:
            snapshots: saves the episode every few steps, and at its end. A resumed episode is bit-identical.
            sampler: samples every step.
            on_fault: called with a snapshot that is refused; the episode begins again then.

        Raises:
            Interrupted: if ``should_stop`` is true between two steps.
            RuntimeError: if the policy chooses an illegal action.
            TypeError: if the policy cannot be saved, and snapshots are requested.
        """
        if snapshots is None:
            return self._finish(self._start(assignment), should_stop, None, sampler)
        snapshot = snapshots.load(assignment, on_fault)
        if isinstance(snapshot, Episode):
            if snapshot.trajectory.blueprints.shape[1] == len(self.env.limits.slots):
                return snapshot
            on_fault(refused_snapshot(assignment, ValueError("it has another number of slots")))
            snapshot = None
        recorder = self._start(assignment) if snapshot is None else self._resume(snapshot, assignment, on_fault)
        episode = self._finish(recorder, should_stop, snapshots, sampler)
        snapshots.save_finished(assignment, episode)
        return episode

    def _start(self, assignment: Assignment) -> EpisodeRecorder:
        recorder = EpisodeRecorder(assignment)
        self.env.reset(seed=assignment.seed)
        self.policy.begin_episode(derived_seed(assignment.seed, POLICY_STREAM))
        control = self.env.control(assignment.seed) if assignment.index < self.controls else ()
        recorder.begin(self.env.outcome, control)
        return recorder

    def _resume(self, partial: PartialEpisode, assignment: Assignment, on_fault: OnFault) -> EpisodeRecorder:
        policy, env = self._resumable(), self.env
        try:
            env.load_state(partial.environment)
            steps, slots = np.shape(partial.recorder.columns["blueprints"])
            state = (env.episode_seed, env.epoch, len(env.limits.slots), env.progress.over)
            expected = (assignment.seed, steps, slots, False)
            if state != expected:
                raise ValueError(f"seed, step, slots and end of its environment are {state}, of its steps {expected}")
            policy.load_state(partial.policy)
        except ValueError as error:
            on_fault(refused_snapshot(assignment, error))
            return self._start(assignment)
        return partial.recorder

    def _finish(
        self,
        recorder: EpisodeRecorder,
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
                    f"at step {len(recorder) + 1}"
                )
            self.env.step(decision.action.to_indices())
            outcome = self.env.outcome
            records = recorder.add(view, decision, outcome)
            if sampler is not None:
                memory = memory_in_use(self.env.device)
                sampler.step(records, decision, {**watch.seconds, **self.env.seconds}, memory)
            if snapshots is not None and not outcome.last and snapshots.is_due(len(recorder)):
                state = self._resumable().save_state()
                snapshots.save(recorder.assignment, recorder.packed(self.env.save_state(), state))
        return recorder.finished(self.env)

    def _resumable(self) -> ResumablePolicy:
        if not isinstance(self.policy, ResumablePolicy):
            raise TypeError(f"an episode of {type(self.policy).__name__} cannot be saved: the policy has no save_state")
        return self.policy

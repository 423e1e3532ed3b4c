"""Progress of an episode apart from its network: signals, interventions and rewards."""

from collections.abc import Sequence
from dataclasses import replace

from esper_ray.leyline.actions import Action, LifecycleOp
from esper_ray.leyline.commitment import committed_accuracy_pp, committed_parameters, committed_slots
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import Measurement, Reports
from esper_ray.leyline.step_outcome import StepOutcome
from esper_ray.runtime.host import EpisodeRuntime, EpochOutcome
from esper_ray.runtime.signals import SignalHistory
from esper_ray.runtime.snapshot import PlayProgress
from esper_ray.simic.live.engine import RewardEngine
from esper_ray.simic.live.transition import Transition


def present_outcome(runtime: EpisodeRuntime, reports: Reports) -> StepOutcome:
    """The present state of the network as an outcome without a step."""
    measured, model = runtime.measured, runtime.organism.model
    return StepOutcome(
        episode_seed=runtime.seed,
        epoch=runtime.epoch,
        val_loss=measured.loss,
        val_accuracy_pp=measured.accuracy_pp,
        committed_accuracy_pp=committed_accuracy_pp(committed_slots(reports), measured),
        host_parameters=model.host_parameters,
        total_parameters=runtime.total_parameters,
        committed_parameters=committed_parameters(reports),
        reports=reports,
    )


class EpisodeProgress:
    """Progress of one episode: signals, interventions and rewards."""

    def __init__(self, runtime: EpisodeRuntime, limits: Limits, control_pp: Sequence[float]) -> None:
        """
        Args:
            runtime: network of the episode.
            control_pp: (steps + 1,) validation accuracies of the same host without growth; empty if rewards do not
                need them.
        """
        config = runtime.config
        self.runtime, self.limits = runtime, limits
        self.history = SignalHistory.start(config.episode_length, runtime.measured)
        first_pp = runtime.health.first_accuracy_pp
        self.rewards = RewardEngine(config.reward, config.gamma, config.governor.penalty, first_pp, control_pp)
        self.illegal_actions = 0
        self.last_intervention: int | None = None
        """Step of the last operation that took effect."""
        self.over = False

    def start(self) -> tuple[StepOutcome, View]:
        """Outcome and view before the next step."""
        reports = self.runtime.reports()
        outcome = replace(present_outcome(self.runtime, reports), success=self.history.success)
        return outcome, self.history.view(self.runtime.epoch, reports, self.limits)

    def settle(
        self, requested: Action, executed: Action, epoch: EpochOutcome, before: Reports, measured_before: Measurement
    ) -> tuple[StepOutcome, View]:
        """Outcome and view after an epoch; books its rewards.

        Args:
            requested: action of the policy.
            executed: the same action, or WAIT if it was illegal.
            before: slots at the time of the decision.
            measured_before: measurement at the time of the decision.

        Raises:
            RewardError: if the reward cannot be computed; nothing is booked then.
        """
        runtime = self.runtime
        step, illegal = runtime.epoch - 1, requested != executed
        if executed.operation is not LifecycleOp.WAIT and epoch.took_effect:
            self.last_intervention = step
        success = epoch.success and not illegal
        self.history = self.history.after(requested.operation, success, runtime.measured)
        transition = Transition(
            step=step,
            max_steps=self.history.max_epochs,
            operation=executed.operation,
            slot=executed.slot,
            success=success,
            before=before,
            after=runtime.reports(),
            known=measured_before,
            measured=runtime.measured,
            host_parameters=runtime.organism.model.host_parameters,
            truncated=not epoch.verdict.panic and runtime.epoch >= self.history.max_epochs,
            restored_because_of=self._cause(step) if epoch.verdict.panic else None,
        )
        entries = self.rewards.settle(transition)
        self.over = transition.last
        outcome = replace(
            present_outcome(runtime, transition.after),
            operation=executed.operation,
            slot=None if executed.operation is LifecycleOp.WAIT else self.limits.slots[executed.slot],
            success=success,
            illegal=illegal,
            train_loss=None if epoch.training is None else epoch.training.loss,
            events=epoch.events,
            entries=entries,
            reward=sum((entry.amount for entry in entries), 0.0),
            terminated=transition.terminated,
            truncated=transition.truncated,
        )
        return outcome, self.history.view(runtime.epoch, transition.after, self.limits)

    def saved(self) -> PlayProgress:
        """All that :meth:`resume` needs."""
        return PlayProgress(
            illegal_actions=self.illegal_actions,
            last_operation=int(self.history.operation),
            last_success=self.history.success,
            last_intervention=self.last_intervention,
            losses=self.history.losses,
            accuracies_pp=self.history.accuracies_pp,
            over=self.over,
            rewards=self.rewards.saved(),
        )

    def resume(self, play: PlayProgress) -> None:
        """Resume from ``play``, saved with the present state of the network."""
        operation = LifecycleOp(play.last_operation)
        self.history = SignalHistory(
            self.history.max_epochs, play.losses, play.accuracies_pp, operation, play.last_success
        )
        self.illegal_actions, self.last_intervention = play.illegal_actions, play.last_intervention
        self.over = play.over
        self.rewards.resume(play.rewards)

    def _cause(self, step: int) -> int:
        """Causal step of a rollback in ``step``: the last intervention if recent, else ``step``."""
        last, window = self.last_intervention, self.runtime.config.governor.watch_window
        return last if last is not None and step - last <= window else step

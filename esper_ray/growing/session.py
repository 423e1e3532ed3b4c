"""Session of a growing model: the policy acts between the epochs of a user's training loop."""

import math
import warnings
from collections.abc import Callable, Collection, Iterator

from torch import Tensor, nn

from esper_ray.growing.decisions import Decided, Step
from esper_ray.growing.ending import Ending, settle, shortfall
from esper_ray.growing.options import SessionOptions
from esper_ray.growing.room import Room, fold_committed
from esper_ray.growing.state import (
    SAVED_GROWTH,
    GrowthStateError,
    SessionState,
    check,
    common_settings,
    pack,
    replayed,
    unpack,
)
from esper_ray.kasmina.collectives import of_first_rank, processes
from esper_ray.kasmina.measurement.batches import as_batch
from esper_ray.kasmina.measurement.gradients import GradientWatch
from esper_ray.kasmina.measurement.held_out import HeldOut
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import random_streams, set_random_streams
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import WAIT, Action, Blueprint, LifecycleOp
from esper_ray.leyline.config.run import GovernorConfig, MeasurementConfig
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import Policy, View
from esper_ray.leyline.records import Measurement
from esper_ray.leyline.stages import Stage
from esper_ray.runtime.health import HealthMonitor
from esper_ray.runtime.host import HostRuntime
from esper_ray.runtime.signals import SignalHistory
from esper_ray.runtime.snapshot import LifeProgress


class GrowthSession:
    """Session of a model under a policy: an iterator with one epoch per iteration.

    The policy acts before each epoch; the caller trains the epoch in the body of the loop; after it the model is
    measured and judged. A governor restores model and optimizer to their last healthy state if a loss is not finite or
    diverges, or if the committed accuracy collapses. Seeds that live at the end are committed or removed, see
    :meth:`finish`.
    """

    def __init__(
        self,
        organism: Organism,
        held_out: HeldOut,
        policy: Policy,
        limits: Limits,
        epochs: int,
        *,
        seed: int = 0,
        options: SessionOptions | None = None,
        report: Callable[[str], object] = print,
    ) -> None:
        """
        Args:
            epochs: length of the training.
            seed: seed of sampled actions and coalitions.
            report: function that shows a line of text.
        """
        self.limits, self.epochs, self.seed, self.policy = limits, epochs, seed, policy
        self.options = options or SessionOptions()
        self.report = report
        self.history: list[Step] = []
        self.endings: tuple[Ending, ...] | None = None
        """What :meth:`finish` did with the seeds that were alive; ``None`` before it."""
        self.forward: nn.Module = organism.model
        """Module that computes the training loss: the model, or ``DistributedDataParallel`` around it."""
        self._organism, self._held_out = organism, held_out
        organism.model.exchange.share()
        policy.begin_episode(seed)
        self._watch = GradientWatch()
        organism.optimizer.watches.append(self._watch)
        self.runtime = HostRuntime(
            HealthMonitor(
                organism,
                held_out,
                measurement=MeasurementConfig(),
                governor=GovernorConfig(snapshot_every=1),
                seed=seed,
                epochs=epochs,
            )
        )
        self._signals = SignalHistory.start(epochs, self.measured)
        self._room = Room(self.options.target, limits, epochs)
        self._restored: str | None = None
        self._open: tuple[Action, bool] | None = None
        """Action of the epoch that is being trained, and whether it took effect."""
        self._resumed = False
        self._decided: list[Decided] = []

    # What the session holds

    @property
    def model(self) -> MorphogeneticModel:
        """The growing model."""
        return self._organism.model

    @property
    def optimizer(self) -> GrowingOptimizer:
        """The optimizer of the growing model. A loop by hand steps it; schedulers are built on it."""
        return self._organism.optimizer

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return self.runtime.epoch

    @property
    def steps(self) -> int:
        """Optimizer steps of the present epoch."""
        return self._watch.steps

    @property
    def measured(self) -> Measurement:
        """The last pass over the held-out examples."""
        return self.runtime.measured

    # Training

    def loss(self, batch: object) -> Tensor:
        """Mean loss of a batch, a scalar with gradient.

        Raises:
            ValueError: if it is not a batch, the model cannot run on it, or the loss is not a scalar.
        """
        return self._loss(batch, 1.0, self.forward)

    def train_step(self, batch: object) -> Tensor:
        """Train on a batch: forward, backward, incubation, clipping, optimizer step.

        By hand these are four lines::

            growing.optimizer.zero_grad()
            growing.loss(batch).backward()
            growing.incubate(batch)
            growing.optimizer.step()

        Args:
            batch: a pair (inputs, targets), or a mapping of named inputs with ``labels``.

        Returns:
            The mean loss of the batch before the step, 0-dim, without gradient.

        Raises:
            ValueError: as :meth:`loss`; nothing is trained then.
        """
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.incubate(batch)
        self.optimizer.clip(self.options.clip, self.options.clip)
        self.optimizer.step()
        return loss.detach()

    def incubate(self, batch: object) -> None:
        """Compute gradients of incubating seeds on a part of a batch.

        Call it between ``backward`` and ``step``.
        """
        self.model.incubate(lambda: self._loss(batch, self.options.incubation_share, self.model))

    def _loss(self, batch: object, share: float, forward: nn.Module) -> Tensor:
        whole = as_batch(batch, self.model.host).to(self._organism.device)
        part = whole if share >= 1.0 else whole.part(0, math.ceil(share * whole.rows))
        try:
            output = part.run(forward)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            shapes = self._held_out.example.shapes
            raise ValueError(
                f"{type(self.model.host).__name__} cannot run on a batch of shape {part.shapes}; two held-out examples "
                f"have shape {shapes}: {error}"
            ) from error
        return self._held_out.objective.training_loss(output, part.targets)

    # Epochs

    def __iter__(self) -> Iterator[Step]:
        """One step before each remaining epoch.

        Raises:
            RuntimeError: if an epoch had no step of :attr:`optimizer`.
        """
        return self

    def __next__(self) -> Step:
        if self._open is not None and not (self._resumed and not self.steps):
            self.end_epoch()
        if self._open is None and self.epoch >= self.epochs:
            if self.options.settle_at_end and self.endings is None:
                self.finish()
            raise StopIteration
        step = self.history[-1] if self._open is not None else self.begin_epoch()
        self._resumed = False
        self.model.train()
        return step

    def begin_epoch(self) -> Step:
        """Let the policy act before an epoch; iteration calls it.

        Raises:
            RuntimeError: if the present epoch has not ended, or there is none left.
        """
        if self._open is not None or self.epoch >= self.epochs:
            raise RuntimeError(f"epoch {self.epoch} of {self.epochs} cannot begin; end the present one first")
        view = self._view(limits := self._room.limits_before(self.model, self.epoch))
        requested = self._agreed(self.policy.decide(view).action)
        operation, blueprint = requested.operation, self._blueprint(requested)
        legal = view.masks.allows(requested) and (operation is not LifecycleOp.GERMINATE or blueprint is not None)
        success, _ = self.runtime.execute(requested if legal else WAIT, blueprint=blueprint)
        self.runtime.tick()
        self._fold()
        step = Step(
            epoch=self.epoch,
            operation=operation.name,
            slot=None if operation is LifecycleOp.WAIT else self.model.slot_ids[requested.slot],
            blueprint=blueprint,
            success=success and legal,
            val_loss=self.measured.loss,
            val_accuracy_pp=self.measured.accuracy_pp,
            parameters=self.model.total_parameters,
            restored=self._restored,
        )
        self.history.append(step)
        self._decided.append(Decided.by(requested, view, limits))
        self._open = requested if legal else WAIT, success and legal
        self.model.train()
        return step

    def end_epoch(self) -> None:
        """Measure and judge the epoch that was trained; iteration calls it. A broken network is restored.

        Raises:
            RuntimeError: if no epoch has begun, or it had no step of :attr:`optimizer`.
        """
        if self._open is None:
            raise RuntimeError("no epoch has begun; call begin_epoch() first")
        if not self._watch.steps:
            raise RuntimeError(
                f"epoch {self.epoch} had 0 steps of growing.optimizer, at least 1 is needed: is the loader empty, or "
                "does another optimizer train the model?"
            )
        action, success = self._open
        gradients = self._watch.collect()
        self._warn_about_missing(gradients)
        self.model.growth.count_epoch()
        verdict = self.runtime.judge(None, gradients)
        self._restored = verdict.reason if verdict.panic else None
        if verdict.panic:
            self.runtime.roll_back(verdict)
        self.runtime.epoch += 1
        self._signals = self._signals.after(action.operation, success and not verdict.panic, self.measured)
        self._open = None

    @property
    def epoch_is_open(self) -> bool:
        """Whether an epoch has begun and not ended."""
        return self._open is not None

    def _agreed(self, action: Action) -> Action:
        """The action of rank 0 in a process group."""
        if processes() == 1:
            return action
        return Action.from_indices(of_first_rank([int(i) for i in action.to_indices()]), len(self.model.slot_ids))

    def view(self) -> View:
        """The state of the network as policies see it."""
        return self._view(self._room.limits_before(self.model, self.epoch))

    def _view(self, limits: Limits) -> View:
        return self._signals.view(self.epoch, self.runtime.reports(), limits)

    def _blueprint(self, action: Action) -> str | None:
        """Blueprint of a birth within the room; ``None`` for other actions, or without room."""
        if action.operation is not LifecycleOp.GERMINATE:
            return None
        name = self.limits.blueprint_name(Blueprint(action.blueprint))
        return self._room.fitting(self.model, self.model.slot_ids[action.slot], name, self.epoch)

    def _fold(self) -> None:
        if self.options.fold and self.forward is self.model:
            fold_committed(self.model)

    def finish(self) -> tuple[Ending, ...]:
        """Commit or remove the seeds that are still alive, and report it.

        A seed at full amplitude that passes gate G5 on its last measurement is committed. Every other one is removed.
        The final network is measured again. Iteration does this after the last epoch. Call it if you leave the loop
        earlier.
        """
        if self._open is not None and self._watch.steps:
            self.end_epoch()
        self.endings = settle(self.model, self.runtime.health.seeds)
        self._fold()
        for line in filter(None, (*map(str, self.endings), shortfall(self.model, self.options.target))):
            self.report(line)
        if self.endings:
            self.runtime.health.measure_again(self.epoch)
        return self.endings

    def plain(self) -> nn.Module:
        """A copy as an ordinary torch module with the committed seeds built in.

        Raises:
            ValueError: if a committed seed cannot be built in.
        """
        return self.model.plain()

    # State

    def save_state(self) -> bytes:
        """The complete state of the growth, for :meth:`load_state`; also in the middle of an epoch.

        It holds the network, the optimizer, measurements, the policy's past and torch's global random streams. Data
        loaders, schedulers and gradient scalers have states of their own.

        Raises:
            GrowthStateError: if a tensor cannot be written exactly, such as a sparse one.
        """
        return pack(self._state(), common_settings(self), self._held_out.fingerprint)

    def load_state(self, blob: bytes) -> None:
        """Resume from a state of :meth:`save_state`, bit for bit, in this or another process.

        The session must have been made by the same call of :func:`grow`. It is then where the saved one was: after
        steps of an epoch the next iteration ends that epoch; before them it yields the same epoch again. Everything
        is checked first.

        Raises:
            GrowthStateError: if ``blob`` is not a saved growth, is damaged, or belongs to another model, other data or
                another policy. The session is unchanged then.
        """
        device, monitor = self._organism.device, self.runtime.health
        state = unpack(blob, common_settings(self), self._held_out.fingerprint, self.limits, device)
        before, random = self._organism.snapshot(), random_streams(device)
        try:
            check(state, self._organism, self.epochs, monitor.governor.config.window, self.measured.examples)
            policy = replayed(self.policy, self.seed, state.decided, self.limits)
            set_random_streams(state.random, device)
            self._organism.restore(state.organism)
            self.optimizer.load_group_options(state.groups)
        except Exception as error:
            set_random_streams(random, device)
            self._organism.restore(before)
            if isinstance(error, UserError):
                raise
            raise GrowthStateError(f"{SAVED_GROWTH} is damaged: {error}") from error
        self.policy = policy
        self.runtime.epoch, monitor.rollbacks = state.life.epoch, state.rollbacks
        monitor.resume(state.life, state.trusted)
        self._held_out.first_loss = state.first_loss
        self._signals, self._restored, self._open = state.signals, state.restored, state.open
        self.history, self._decided, self.endings = state.history, state.decided, state.endings
        self._watch.__dict__.update(state.watch.__dict__)
        self._resumed = True

    def _state(self) -> SessionState:
        monitor = self.runtime.health
        return SessionState(
            life=LifeProgress(
                seed=self.seed,
                epoch=self.epoch,
                first_accuracy_pp=monitor.first_accuracy_pp,
                since_snapshot=monitor.since_snapshot,
                measured=monitor.measured,
                seeds=monitor.seeds,
                governor=monitor.governor.state,
            ),
            rollbacks=monitor.rollbacks,
            first_loss=self._held_out.first_loss,
            signals=self._signals,
            restored=self._restored,
            open=self._open,
            history=list(self.history),
            decided=list(self._decided),
            endings=self.endings,
            organism=self._organism.snapshot(),
            trusted=monitor.trusted,
            groups=self.optimizer.group_options(),
            watch=self._watch,
            random=random_streams(self._organism.device),
        )

    def _warn_about_missing(self, gradients: Collection[str]) -> None:
        for slot, state in self.model.states.items():
            if state is not None and state.stage is Stage.TRAINING and slot not in gradients:
                advice = "call growing.incubate(batch) between backward() and step()"
                warnings.warn(f"the seed in {slot} got no gradient in epoch {self.epoch}; {advice}", stacklevel=4)

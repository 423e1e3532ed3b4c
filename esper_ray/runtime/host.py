"""Runtime of one growing network: all steps of an epoch before its rewards.

An epoch executes an operation, ticks the lifecycle once, trains, measures and judges. Environment, control without
growth and evaluation use :class:`EpisodeRuntime`, whose result is a pure function of the configuration, the data, the
episode's seed and the actions. :func:`esper_ray.grow` uses :class:`HostRuntime`: there the user trains.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.kasmina.measurement.gradients import GradientStatistics
from esper_ray.kasmina.network.records import LossClosure
from esper_ray.kasmina.organism import Organism, OrganismSnapshot
from esper_ray.leyline.actions import WAIT, Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.records import Event, Measurement, Reports
from esper_ray.leyline.stages import Stage
from esper_ray.leyline.step_outcome import Stopwatch
from esper_ray.runtime import operations
from esper_ray.runtime.health import HealthMonitor
from esper_ray.runtime.snapshot import EpisodeSnapshot, EpisodeStateError, LifeProgress, TrustedState
from esper_ray.runtime.snapshot_checks import check_snapshot
from esper_ray.tolaria.assembly import AnyData, HostBuilder, build_organism, build_trainer, derived_seed
from esper_ray.tolaria.data import EpochPlan
from esper_ray.tolaria.device_memory import DeviceMemoryError, is_out_of_memory, memory_for
from esper_ray.tolaria.flops import FlopMeter
from esper_ray.tolaria.governor import HealthVerdict
from esper_ray.tolaria.preflight import Preflight
from esper_ray.tolaria.rng import keyed_randomness
from esper_ray.tolaria.stepping.learning_rates import learning_rates
from esper_ray.tolaria.training import EpochResult
from esper_ray.tolaria.validation import SplitExamples, measure

PROBE_EXAMPLES = 512
"""Maximum number of training examples for a gradient-informed start."""
DATA_ORDER, LAYERS = 1, 5
"""Keys of random streams of an episode: order of the data, and layers such as dropout."""
OUT_OF_MEMORY = "out of memory"
"""Reason of a rollback after memory was exhausted."""


@dataclass(frozen=True, slots=True)
class PlantedSeed:
    """Committed seed of a network at its first epoch."""

    slot: str
    blueprint: str
    style: GerminationStyle


@dataclass(frozen=True, slots=True)
class EpochOutcome:
    """Result of one epoch of a growing network."""

    took_effect: bool
    """Whether the operation took effect, even if a rollback reverted it."""
    events: tuple[Event, ...]
    """Events in order; a rollback is the last."""
    training: EpochResult | None
    """Result of the training; ``None`` if memory was exhausted before its end."""
    verdict: HealthVerdict
    seconds: Mapping[str, float]
    """Wall time by phase: execute, train, measure."""

    @property
    def success(self) -> bool:
        """Whether the operation took effect and was not reverted."""
        return self.took_effect and not self.verdict.panic


def committed_seed(planted: PlantedSeed) -> SeedState:
    """State of a committed seed at full amplitude."""
    return SeedState(
        seed_id=f"{planted.slot}-planted",
        blueprint=planted.blueprint,
        style=planted.style,
        tempo=0,
        target=1.0,
        stage=Stage.FOSSILIZED,
        previous_stage=Stage.HOLDING,
        alpha=AlphaController(alpha=1.0, start=1.0, target=1.0),
    )


class HostRuntime:
    """One healthy growing network: a host, its seeds and its health monitor. Its epochs are trained elsewhere."""

    def __init__(self, health: HealthMonitor) -> None:
        self.health = health
        self.organism: Organism = health.organism
        self.epoch = 0
        """Epochs trained."""

    @property
    def measured(self) -> Measurement:
        """The last pass over the validation split."""
        return self.health.measured

    @property
    def total_parameters(self) -> int:
        """Parameters of host and seeds."""
        return self.organism.model.total_parameters

    def reports(self) -> Reports:
        """The slots as policies see them."""
        return self.health.reports()

    def execute(
        self, action: Action, closure: LossClosure | None = None, *, blueprint: str | None = None
    ) -> tuple[bool, list[Event]]:
        """Success and events of a legal operation.

        Args:
            closure: loss for seeds with a gradient-informed start.
            blueprint: blueprint of a birth in the place of the action's.
        """
        return operations.execute(self.organism.model, action, self.health.seeds, self.epoch, closure, blueprint)

    def tick(self) -> list[Event]:
        """Events of one tick of the lifecycle."""
        return operations.tick(self.organism.model, self.health.seeds, self.epoch)

    def judge(self, train_loss: float | None, gradients: Mapping[str, GradientStatistics]) -> HealthVerdict:
        """Measurement of the epoch that has been trained, and the governor's verdict on it.

        Args:
            train_loss: mean of the epoch in nats, ``None`` if unknown.
            gradients: gradient statistics by slot, of seeds with a gradient.
        """
        return self.health.judge(self.epoch, train_loss, gradients)

    def roll_back(self, verdict: HealthVerdict) -> Event:
        """Restore the last healthy state; the event says why."""
        self.health.roll_back()
        data = {"reason": verdict.reason, "value": verdict.value, "threshold": verdict.threshold}
        return Event("rollback", self.epoch, data)


class EpisodeRuntime(HostRuntime):
    """Host runtime with data and trainer, which can be saved and resumed."""

    def __init__(
        self,
        config: RunConfig,
        data: AnyData,
        device: torch.device,
        host: HostBuilder,
        seed: int,
        flops: FlopMeter | None = None,
    ) -> None:
        """
        Args:
            flops: counts the operations of training, if given.

        Raises:
            DeviceMemoryError: if the device has no memory for the host.
        """
        self.config, self.data, self.device, self.seed, self._flops = config, data, device, seed, flops
        with memory_for("a host", device):
            organism = build_organism(config, data, device, seed, host)
            self._trainer = build_trainer(config, organism, data)
            self._preflight = Preflight(config.governor, organism.model, data, config.training.batch_size)
            super().__init__(
                HealthMonitor(
                    organism,
                    SplitExamples.first(data, data.validation, config.measurement.examples),
                    measurement=config.measurement,
                    governor=config.governor,
                    seed=seed,
                    epochs=config.episode_length,
                )
            )

    def advance(self, action: Action) -> EpochOutcome:
        """Outcome of a legal operation and one epoch. A broken network is rolled back.

        Raises:
            DeviceMemoryError: if the device has no memory for the host alone.
        """
        watch = Stopwatch()
        took_effect, events = False, list[Event]()
        training: EpochResult | None = None
        try:
            took_effect, events = self.execute(action)
            events = [*events, *self.tick()]
            watch.lap("execute")
            training = self.train()
            watch.lap("train")
            verdict = self.judge(training.loss, training.gradients)
        except (RuntimeError, MemoryError) as error:
            verdict = self._out_of_memory(error)
        if verdict.panic:
            events = [*events, self.roll_back(verdict)]
        self.epoch += 1
        watch.lap("measure")
        return EpochOutcome(took_effect, tuple(events), training, verdict, watch.seconds)

    def execute(
        self, action: Action, closure: LossClosure | None = None, *, blueprint: str | None = None
    ) -> tuple[bool, list[Event]]:
        """Success and events of a legal operation, or the events of its veto."""
        if action.operation is LifecycleOp.GERMINATE:
            vetoes = self._vetoes(action)
            if vetoes:
                return False, vetoes
        return super().execute(action, closure or self._probe_loss, blueprint=blueprint)

    def train(self) -> EpochResult:
        """Result of one epoch of training of the host and its seeds."""
        counted = nullcontext() if self._flops is None else self._flops.epoch(self.organism.model)
        with keyed_randomness(derived_seed(self.seed, LAYERS, self.epoch), self.device), counted:
            result = self._trainer.train(self._plan(), learning_rates(self.config, self.organism, self.epoch))
        self.organism.model.growth.count_epoch()
        return result

    def run_without_policy(self) -> Iterator[Measurement]:
        """Measurement of each remaining epoch of the episode, without operations.

        Raises:
            DeviceMemoryError: if the device has no memory for the network.
        """
        while self.epoch < self.config.episode_length:
            verdict = self.advance(WAIT).verdict
            if verdict.reason == OUT_OF_MEMORY:
                raise DeviceMemoryError(f"{self.device} has no memory for a network of {verdict.value:.0f} parameters")
            yield self.measured

    def plant(self, seeds: Sequence[PlantedSeed]) -> None:
        """Put committed seeds with fresh weights into an untrained network, as parts of its host.

        They are trained with the host, even if seeds that are committed later are frozen.

        Raises:
            ValueError: if an epoch was trained, or a seed names a slot that the host does not have.
        """
        if self.epoch:
            raise ValueError(f"seeds can be planted before the first epoch only, not after {self.epoch} epochs")
        growth = self.organism.model.growth
        current = growth.record()
        for seed in seeds:
            if seed.slot not in current.states:
                raise ValueError(unknown_name_message("slot", seed.slot, list(current.states)))
        states = {**current.states, **{seed.slot: committed_seed(seed) for seed in seeds}}
        record = replace(current, states=states)
        growth.options = replace(growth.options, freeze_fossils=False)
        growth.adopt(record, growth.rebuild(record))
        self.health.start()

    def test_measurement(self) -> Measurement:
        """Loss, accuracy and coalitions on the test split."""
        return measure(self.organism.model, self.data, self.data.test)

    def saved(self) -> tuple[LifeProgress, OrganismSnapshot, TrustedState]:
        """All that :meth:`resume` needs."""
        health = self.health
        progress = LifeProgress(
            seed=self.seed,
            epoch=self.epoch,
            first_accuracy_pp=health.first_accuracy_pp,
            since_snapshot=health.since_snapshot,
            measured=health.measured,
            seeds=health.seeds,
            governor=health.governor.state,
        )
        return progress, self.organism.snapshot(), health.trusted

    def resume(self, state: EpisodeSnapshot) -> None:
        """Resume from ``state``, which has the seed of this network.

        Raises:
            EpisodeStateError: if it is the state of another host, or is not possible; this network is unchanged then.
        """
        shapes = {f"host.{name}": tensor.shape for name, tensor in self.organism.model.host.state_dict().items()}
        saved = {name: t.shape for name, t in state.organism.tensors.items() if name.startswith("host.")}
        for name in shapes.keys() | saved.keys():
            if shapes.get(name) != saved.get(name):
                raise EpisodeStateError(
                    f"the episode belongs to another host: {name} has shape {saved.get(name)} in the episode, "
                    f"{shapes.get(name)} in this host"
                )
        try:
            check_snapshot(state, self.config, self.organism, self.measured.examples)
            self.organism.restore(state.organism)
        except ValueError as error:
            raise EpisodeStateError(f"the saved episode is damaged: {error}") from error
        self.epoch = state.life.epoch
        self.health.resume(state.life, state.trusted)

    def _out_of_memory(self, error: Exception) -> HealthVerdict:
        """A panic if growth may have caused ``error``, because a rollback shrinks the network.

        Raises:
            DeviceMemoryError: if no slot holds a seed.
            Exception: ``error`` itself, if it is not about memory.
        """
        if not is_out_of_memory(error):
            raise error
        model = self.organism.model
        self.organism.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if all(model.cell(slot).seed is None for slot in model.slot_ids):
            batch = self.config.training.batch_size
            raise DeviceMemoryError(f"{self.device} has no memory for a host and batches of {batch}") from error
        return HealthVerdict(True, False, OUT_OF_MEMORY, float(self.total_parameters), float("inf"))

    def _vetoes(self, action: Action) -> list[Event]:
        slot = self.organism.model.slot_ids[action.slot]
        veto = self._preflight.veto(slot, Blueprint(action.blueprint), GerminationStyle(action.style).operator)
        if veto is None:
            return []
        data = {"slot": slot, "reason": veto.reason, "value": veto.value, "limit": veto.limit}
        return [Event("veto", self.epoch, data)]

    def _plan(self) -> EpochPlan:
        training = self.config.training
        order = derived_seed(self.seed, DATA_ORDER)
        return self.data.plan(order, self.epoch, training.batch_size, training.steps_per_epoch)

    def _probe_loss(self) -> Tensor:
        """Loss on the next training examples, for seeds with a gradient-informed start."""
        return self._trainer.training_loss(self._plan().rows.reshape(-1)[:PROBE_EXAMPLES])

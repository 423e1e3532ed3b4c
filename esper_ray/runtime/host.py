"""The life of one growing network: what an episode does to it, before anybody is paid for it.

A step carries out an operation, ticks the lifecycle once, trains an epoch, measures, and lets the
governor judge. A pure function of the configuration, the data, the episode's seed and the actions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.lifecycle.commands import command_of, logged
from esper_ray.kasmina.lifecycle.reducer import LifecycleEvent, SeedState
from esper_ray.kasmina.organism import Organism, OrganismSnapshot
from esper_ray.leyline.actions import Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.records import Event, Measurement, Reports
from esper_ray.leyline.stages import Stage
from esper_ray.runtime.snapshot import EpisodeState, EpisodeStateError, LifeProgress, Trusted
from esper_ray.simic.attribution import interaction_sums, leave_one_out
from esper_ray.tolaria.assembly import AnyData, HostBuilder, build_organism, build_trainer, derived_seed, learning_rates
from esper_ray.tolaria.coalition_sampling import Chosen, chosen_coalitions, few_coalitions
from esper_ray.tolaria.data import EpochPlan
from esper_ray.tolaria.device_memory import DeviceMemoryError, is_out_of_memory, memory_for
from esper_ray.tolaria.flops import FlopMeter
from esper_ray.tolaria.governor import Governor, HealthVerdict
from esper_ray.tolaria.measurement import measure
from esper_ray.tolaria.preflight import Preflight
from esper_ray.tolaria.rng import keyed_randomness
from esper_ray.tolaria.seed_measurements import MeasuredSeeds
from esper_ray.tolaria.training import EpochResult

PROBE_EXAMPLES = 512
"""Most training examples that a gradient-informed start looks at."""
DATA_ORDER, COALITIONS, LAYERS = 1, 4, 5
"""Keys of random streams of an episode: its data, sampled coalitions, layers such as dropout."""


@dataclass(frozen=True, slots=True)
class PlantedSeed:
    """A seed that is to be there from the first epoch on."""

    slot: str
    blueprint: str
    style: GerminationStyle


def committed_seed(planted: PlantedSeed) -> SeedState:
    """The state of a seed that was committed at full amplitude."""
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
    """A host with its seeds, its data, and those who train, measure and guard it."""

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
            flops: counts the operations of training, if somebody wants to know.

        Raises:
            DeviceMemoryError: if the device has no memory for the host.
        """
        self.config, self.data, self.device, self.seed, self._flops = config, data, device, seed, flops
        self.epoch = self.rollbacks = 0
        with memory_for("a host", device):
            self.organism: Organism = build_organism(config, data, device, seed, host)
            self._trainer = build_trainer(config, self.organism, data)
            model, batch = self.organism.model, config.training.batch_size
            self._preflight = Preflight(config.governor, model, data, batch)
            self.measured = self._measured(everything=True)
        chance_pp = 100.0 / data.classes
        self.governor = Governor(config.governor, data.random_guess_loss, chance_pp, self.measured.examples)
        self.vitals = MeasuredSeeds()
        self.first_accuracy_pp = self.measured.accuracy_pp
        self._trusted = self._trusted_state()
        self._since_snapshot = 0

    @property
    def total_parameters(self) -> int:
        """Parameters of host and seeds."""
        model = self.organism.model
        return model.host_parameters + sum(map(model.seed_parameters, model.slot_ids))

    def reports(self) -> Reports:
        """The slots as policies see them."""
        model = self.organism.model
        return tuple(model.report(slot, self.vitals.of(slot)) for slot in model.slot_ids)

    def execute(self, action: Action) -> tuple[bool, list[Event]]:
        """Carry out a legal operation, unless it is vetoed; whether it took effect, and what happened."""
        if action.operation is LifecycleOp.WAIT:
            return True, []
        model = self.organism.model
        slot = model.slot_ids[action.slot]
        if action.operation is LifecycleOp.GERMINATE:
            vetoes = self._vetoes(slot, action)
            if vetoes:
                return False, vetoes
        before = model.states[slot]
        command = command_of(action, model.growth.next_seed_id(slot))
        loss_of = self._probe_loss if action.operation is LifecycleOp.GERMINATE else None
        outcome = model.execute(slot, command, self.vitals.of(slot), loss_of)
        return outcome.success, self._log(slot, before, outcome.events, "policy")

    def tick(self) -> list[Event]:
        """One tick of the lifecycle."""
        before = dict(self.organism.model.states)
        happened = self.organism.model.tick(self.vitals.by_slot())
        return [event for slot, events in happened.items() for event in self._log(slot, before[slot], events, "clock")]

    def train(self) -> EpochResult:
        """One epoch on the host and its seeds."""
        counted = nullcontext() if self._flops is None else self._flops.epoch(self.organism.model)
        with keyed_randomness(derived_seed(self.seed, LAYERS, self.epoch), self.device), counted:
            result = self._trainer.train(self._plan(), learning_rates(self.config, self.organism, self.epoch))
        self.organism.model.epoch_elapsed()
        return result

    def measure_and_judge(self, result: EpochResult) -> HealthVerdict:
        """A pass over the validation split, and what the governor says to it."""
        known, epoch = self.measured.accuracy_pp, self.epoch + 1
        due = epoch % self.config.measurement.every == 0 or epoch >= self.config.episode_length
        self.measured = self._measured(everything=due)
        self.vitals = self.vitals.updated(
            self.organism.model.states,
            known,
            self.measured,
            result.gradients,
            leave_one_out(self.measured),
            interaction_sums(self.measured),
        )
        committed = self.measured.accuracy_of(self._committed() & frozenset(self.measured.players))
        verdict = self.governor.judge(result.loss, self.measured.loss, committed)
        self._since_snapshot += 1
        if verdict.healthy and self._since_snapshot >= self.config.governor.snapshot_every:
            self._trusted, self._since_snapshot = self._trusted_state(), 0
        return verdict

    def out_of_memory(self, error: Exception) -> HealthVerdict:
        """A panic, if growth may be answerable for ``error``: the network goes back to where it was smaller.

        Raises:
            DeviceMemoryError: if nothing grows in it.
            Exception: ``error`` itself, if it is about something else.
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
        return HealthVerdict(True, False, "out of memory", float(self.total_parameters), float("inf"))

    def roll_back(self, verdict: HealthVerdict) -> Event:
        """Go back to the last state that the governor trusted."""
        self.organism.restore(self._trusted.organism)
        self.rollbacks += 1
        self.vitals, self.measured = self._trusted.vitals, self._trusted.measured
        data = {"reason": verdict.reason, "value": verdict.value, "threshold": verdict.threshold}
        return Event("rollback", self.epoch, data)

    def live_alone(self) -> Iterator[Measurement]:
        """The rest of the episode without anybody who decides: what each epoch comes to."""
        while self.epoch < self.config.episode_length:
            verdict = self.measure_and_judge(self.train())
            if verdict.panic:
                self.roll_back(verdict)
            self.epoch += 1
            yield self.measured

    def begin_grown(self, seeds: Sequence[PlantedSeed]) -> None:
        """Put committed seeds of fresh weights into a life that has not begun, as if they belonged to the host.

        They are trained with it, whether or not seeds that are committed later would be.

        Raises:
            ValueError: if the life has begun, or a seed names a slot that the host does not have.
        """
        if self.epoch:
            raise ValueError(f"seeds can be there from the start only, not after {self.epoch} epochs")
        growth = self.organism.model.growth
        known = growth.record()
        for seed in seeds:
            if seed.slot not in known.states:
                raise ValueError(unknown_name_message("slot", seed.slot, list(known.states)))
        states = {**known.states, **{seed.slot: committed_seed(seed) for seed in seeds}}
        record = replace(known, states=states)
        growth.options = replace(growth.options, freeze_fossils=False)
        growth.adopt(record, growth.rebuild(record))
        self.measured = self._measured(everything=True)
        self.first_accuracy_pp = self.measured.accuracy_pp
        self._trusted = self._trusted_state()

    def test_measurement(self) -> Measurement:
        """Loss, accuracy and coalitions on the test split."""
        return measure(self.organism.model, self.data, self.data.test)

    def saved(self) -> tuple[LifeProgress, OrganismSnapshot, Trusted]:
        """All that :meth:`resume` needs."""
        progress = LifeProgress(
            seed=self.seed,
            epoch=self.epoch,
            first_accuracy_pp=self.first_accuracy_pp,
            since_snapshot=self._since_snapshot,
            measured=self.measured,
            vitals=self.vitals,
            governor=self.governor.state,
        )
        return progress, self.organism.snapshot(), self._trusted

    def resume(self, state: EpisodeState) -> None:
        """Go on from ``state``, whose seed is this life's.

        Raises:
            EpisodeStateError: if it is the state of another host; nothing has changed then.
        """
        life = state.life
        mine = {f"host.{name}": tensor.shape for name, tensor in self.organism.model.host.state_dict().items()}
        theirs = {name: t.shape for name, t in state.organism.tensors.items() if name.startswith("host.")}
        for name in mine.keys() | theirs.keys():
            if mine.get(name) != theirs.get(name):
                raise EpisodeStateError(
                    f"the episode is that of another host: {name} is {theirs.get(name)} in it, {mine.get(name)} here"
                )
        self.organism.restore(state.organism)
        self.epoch, self.first_accuracy_pp = life.epoch, life.first_accuracy_pp
        self.measured, self.vitals, self._trusted = life.measured, life.vitals, state.trusted
        self.governor.state, self._since_snapshot = life.governor, life.since_snapshot

    def _vetoes(self, slot: str, action: Action) -> list[Event]:
        operator = GerminationStyle(action.style).operator
        veto = self._preflight.veto(slot, Blueprint(action.blueprint), operator)
        if veto is None:
            return []
        data = {"slot": slot, "reason": veto.reason, "value": veto.value, "limit": veto.limit}
        return [Event("veto", self.epoch, data)]

    def _plan(self) -> EpochPlan:
        training = self.config.training
        order = derived_seed(self.seed, DATA_ORDER)
        return self.data.plan(order, self.epoch, training.batch_size, training.steps_per_epoch)

    def _probe_loss(self) -> Tensor:
        """Loss on the examples that are trained on next, for seeds that start gradient-informed."""
        return self._trainer.training_loss(self._plan().rows.reshape(-1)[:PROBE_EXAMPLES])

    def _committed(self) -> frozenset[str]:
        states = self.organism.model.states
        return frozenset(slot for slot, state in states.items() if state and state.stage is Stage.FOSSILIZED)

    def _measured(self, *, everything: bool) -> Measurement:
        """A pass over the validation split, with the coalitions that are due."""
        wanted = self.config.measurement
        choose = self._choice(everything=everything)
        return measure(self.organism.model, self.data, self.data.validation, choose, wanted.examples)

    def _choice(self, *, everything: bool) -> Callable[[tuple[str, ...]], Chosen]:
        committed, seed = self._committed(), derived_seed(self.seed, COALITIONS, self.epoch)
        permutations = self.config.measurement.permutations

        def choose(players: tuple[str, ...]) -> Chosen:
            if everything or players != self.measured.players:
                return chosen_coalitions(players, committed, permutations=permutations, seed=seed)
            return few_coalitions(players, committed)

        return choose

    def _trusted_state(self) -> Trusted:
        return Trusted(self.organism.snapshot(), self.vitals, self.measured)

    def _log(
        self, slot: str, before: SeedState | None, happened: tuple[LifecycleEvent, ...], initiator: str
    ) -> list[Event]:
        state = self.organism.model.states[slot] or before
        return logged(slot, state, happened, self.epoch, initiator)

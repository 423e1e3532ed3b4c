"""A growing network with its optimiser and the lifecycle of its seeds, changed together or not at all.

Lifecycle decisions come from the pure reducer; this class carries out what they mean for modules,
parameters and optimiser groups. A new seed is built and probed before anything is touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from esper_ray.kasmina import lifecycle
from esper_ray.kasmina.blueprints import blueprint_spec, count_parameters, seeded_initialisation
from esper_ray.kasmina.lifecycle import GateEvaluated, LifecycleEvent, Refused, Rules, SeedState
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.optimizer import GroupSettings, GrowingSGD
from esper_ray.leyline.records import UNMEASURED, SeedMeasurements, SlotReport
from esper_ray.leyline.stages import WITH_MODULE, Stage

PROBE_SIZE = 8
"""Height and width of the image on which a new seed's output shape is checked."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did."""

    events: tuple[LifecycleEvent, ...]

    @property
    def success(self) -> bool:
        """Whether the command took effect: nothing refused it, no gate stayed shut."""
        return not any(
            isinstance(event, Refused) or (isinstance(event, GateEvaluated) and not event.result.passed)
            for event in self.events
        )


@dataclass(frozen=True, slots=True)
class OrganismSnapshot:
    """Structure as plain data and tensors by name, enough to rebuild the organism exactly."""

    states: Mapping[str, SeedState | None]
    germinations: Mapping[str, int]
    groups: Mapping[str, tuple[str, ...]]
    """Names of the parameters of each optimiser group, in their order."""
    tensors: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]


class Organism:
    """A morphogenetic model, its optimiser, and one lifecycle state per slot."""

    def __init__(
        self,
        model: MorphogeneticModel,
        settings: GroupSettings,
        rules: Rules,
        seed: int,
        *,
        freeze_fossils: bool = False,
        incubation_bound: float = 0.25,
    ) -> None:
        """
        Args:
            seed: seeds the initial weights of germinated modules, together with slot and count.
            incubation_bound: free ratio of change to features while a seed trains behind the host.
        """
        self.model = model
        self.optimizer = GrowingSGD(model.host, settings)
        self.rules = rules
        self.seed = seed
        self.freeze_fossils = freeze_fossils
        self.states: dict[str, SeedState | None] = dict.fromkeys(model.slot_ids)
        self._germinations = dict.fromkeys(model.slot_ids, 0)
        self.host_parameters = count_parameters(model.host)
        for slot in model.slot_ids:
            model.cell(slot).bound = incubation_bound

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.cell(self.model.slot_ids[0]).alpha.device

    def next_seed_id(self, slot: str) -> str:
        """The identity that the next seed of ``slot`` will have, for example ``r0c1-3``."""
        return f"{slot}-{self._germinations[slot] + 1}"

    def seed_parameters(self, slot: str) -> int:
        """Structural parameter count of the seed in ``slot``, 0 if it holds no module."""
        seed = self.model.cell(slot).seed
        return 0 if seed is None else count_parameters(seed)

    def execute(self, slot: str, command: lifecycle.Command, measured: SeedMeasurements = UNMEASURED) -> Outcome:
        """Carry out ``command`` on ``slot``. If anything raises, nothing has changed."""
        state, events = lifecycle.execute(self.states[slot], command, self.rules, measured)
        self._apply(slot, state)
        return Outcome(events)

    def tick(self, measured: Mapping[str, SeedMeasurements]) -> dict[str, tuple[LifecycleEvent, ...]]:
        """Move what moves by itself by one step; the events of each slot in which something happened."""
        happened = {}
        for slot in self.model.slot_ids:
            state, events = lifecycle.tick(self.states[slot], self.rules, measured.get(slot, UNMEASURED))
            self._apply(slot, state)
            if events:
                happened[slot] = events
        return happened

    def epoch_elapsed(self) -> None:
        """Count one trained epoch for every occupied slot."""
        for slot, state in self.states.items():
            self.states[slot] = lifecycle.epoch_elapsed(state)

    def report(self, slot: str, measured: SeedMeasurements) -> SlotReport | None:
        """The public record of ``slot``, ``None`` if it is empty."""
        state = self.states[slot]
        if state is None:
            return None
        alpha = state.alpha
        return SlotReport(
            slot_id=slot,
            seed_id=state.seed_id,
            blueprint=state.blueprint,
            stage=state.stage,
            previous_stage=state.previous_stage,
            ticks_in_stage=state.ticks_in_stage,
            age=state.age,
            alpha=alpha.alpha,
            alpha_mode=alpha.mode,
            alpha_target=alpha.target,
            alpha_velocity=alpha.velocity,
            ramp_total=alpha.total,
            ramp_done=alpha.done,
            operator=state.operator,
            tempo=state.tempo,
            parameters=self.seed_parameters(slot),
            measured=measured,
        )

    def snapshot(self) -> OrganismSnapshot:
        """A copy of structure, weights, buffers and momentum."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        groups, momentum = {}, {}
        for group in self.optimizer.group_names:
            groups[group] = tuple(names[parameter] for parameter in self.optimizer.group(group))
            for parameter in self.optimizer.group(group):
                buffer = self.optimizer.momentum_of(parameter)
                if buffer is not None:
                    momentum[names[parameter]] = buffer.clone()
        tensors = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        return OrganismSnapshot(dict(self.states), dict(self._germinations), groups, tensors, momentum)

    def restore(self, snapshot: OrganismSnapshot) -> None:
        """Go back to ``snapshot``: structure first, then tensors, then groups and momentum."""
        for slot, state in snapshot.states.items():
            self.model.cell(slot).seed = (
                self._build(slot, state) if state is not None and state.stage in WITH_MODULE else None
            )
            self._label(slot, state)
        self.model.load_state_dict(dict(snapshot.tensors))
        parameters = dict(self.model.named_parameters())
        self.optimizer.regroup({group: [parameters[n] for n in names] for group, names in snapshot.groups.items()})
        optimised = {name for names in snapshot.groups.values() for name in names}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in optimised)
            buffer = snapshot.momentum.get(name)
            self.optimizer.set_momentum(parameter, None if buffer is None else buffer.clone())
        self.states = dict(snapshot.states)
        self._germinations = dict(snapshot.germinations)

    def _apply(self, slot: str, state: SeedState | None) -> None:
        """Make modules and optimiser agree with ``state``; the only place where structure changes."""
        before, cell = self.states[slot], self.model.cell(slot)
        if before is state:
            return
        if before is None and state is not None:
            seed = self._build(slot, state)
            self._probe(slot, seed)
            self.optimizer.add_seed(slot, seed)
            cell.seed = seed
            self._germinations[slot] += 1
        elif before is not None and before.stage in WITH_MODULE and (state is None or state.stage not in WITH_MODULE):
            self.optimizer.remove_seed(slot)
            cell.seed = None
        elif state is not None and before is not None and state.stage is Stage.FOSSILIZED is not before.stage:
            self.optimizer.commit_seed(slot, self.freeze_fossils)
        self._label(slot, state)
        self.states[slot] = state

    def _label(self, slot: str, state: SeedState | None) -> None:
        cell = self.model.cell(slot)
        cell.stage = Stage.DORMANT if state is None else state.stage
        cell.excess = None
        with torch.no_grad():
            cell.alpha.fill_(0.0 if state is None else state.alpha.alpha)

    def _build(self, slot: str, state: SeedState) -> nn.Module:
        number = int(state.seed_id.rsplit("-", 1)[1])
        key = [self.seed, self.model.slot_ids.index(slot), number]
        spec = blueprint_spec(state.blueprint)
        with seeded_initialisation(int(np.random.SeedSequence(key).generate_state(1)[0])):
            seed = spec.build(self.model.cell(slot).channels)
        return seed.to(self.device)

    def _probe(self, slot: str, seed: nn.Module) -> None:
        channels = self.model.cell(slot).channels
        probe = torch.linspace(-1.0, 1.0, channels * PROBE_SIZE**2, device=self.device)
        probe = probe.reshape(1, channels, PROBE_SIZE, PROBE_SIZE)
        with torch.no_grad():
            change = seed(probe)
        if change.shape != probe.shape:
            raise ValueError(f"slot {slot}: seed turns {tuple(probe.shape)} into {tuple(change.shape)}, not the same")
        if change.abs().max() != 0:
            raise ValueError(
                f"slot {slot}: seed is not the identity at birth, its change reaches {change.abs().max():.3g}"
            )

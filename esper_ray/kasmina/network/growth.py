"""Structure changes as transactions over lifecycle, modules and optimizer.

Decisions come from the pure reducer in :mod:`esper_ray.kasmina.lifecycle.reducer`; this class carries out
them on modules and parameters, and notifies the optimizer. A new seed is built,
initialised and probed before anything is touched.
"""

import copy
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from esper_ray.kasmina.blueprints import is_built_in
from esper_ray.kasmina.blueprints.delta import Delta
from esper_ray.kasmina.lifecycle import reducer
from esper_ray.kasmina.lifecycle.reducer import (
    LifecycleEvent,
    Rules,
    SeedState,
)
from esper_ray.kasmina.modules import count_parameters, seeded_initialisation
from esper_ray.kasmina.network.cell import ClippingRecord, SeedCell
from esper_ray.kasmina.network.gradmax import maximise_birth_gradient
from esper_ray.kasmina.network.newborn import check_newborn, preserved_rng
from esper_ray.kasmina.network.operators import GateNetwork
from esper_ray.kasmina.network.records import (
    HOST_GROUP,
    GrowthListener,
    GrowthOptions,
    GrowthRecord,
    LossClosure,
    Outcome,
    SlotEvent,
)
from esper_ray.kasmina.network.spans.cell import SpanCell
from esper_ray.kasmina.network.spans.starting import start_channels
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.kasmina.network.spans.widths import Widths
from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.leyline.blueprints import seed_parameter_count
from esper_ray.leyline.records import UNMEASURED, SeedMeasurements
from esper_ray.leyline.slots import parse_slot_id
from esper_ray.leyline.stages import COMMITTED, WITH_MODULE, Stage


class Growth:
    """Seeds of one model: a lifecycle state and the modules of each slot."""

    def __init__(
        self, host: nn.Module, cells: Mapping[str, SeedCell], rules: Rules, options: GrowthOptions, seed: int
    ) -> None:
        """
        Args:
            seed: seeds the initial weights of germinated modules, together with slot and count.

        Raises:
            ValueError: if ``seed`` is negative.
        """
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}")
        self.rules, self.options, self.seed = rules, options, seed
        self.states: dict[str, SeedState | None] = dict.fromkeys(cells)
        self.epoch = 0
        self.log: list[SlotEvent] = []
        self.contributions: dict[str, float] = {}
        """Last measured contribution of the present seeds in percentage points, by slot."""
        self._host, self._cells = host, dict(cells)
        self._germinations = dict.fromkeys(cells, 0)
        self._listeners: list[GrowthListener] = []
        self._revision = 0

    def __getstate__(self) -> dict[str, Any]:
        """State for a copy, without the listeners of the original."""
        return self.__dict__ | {"_listeners": []}

    def subscribe(self, listener: GrowthListener) -> None:
        """Notify ``listener`` of the trained parameters now and after every change."""
        listener.arrange(self.arrangement())
        self._listeners.append(listener)

    def arrangement(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by group, frozen ones included. It depends on host and states alone."""
        groups = {HOST_GROUP: list(self._host.parameters())}
        for slot, cell in self._cells.items():
            state, parameters = self.states[slot], cell.learnable()
            if state is None or not parameters:
                continue
            if state.stage not in COMMITTED:
                groups[slot] = parameters
            elif not self.options.freeze_fossils:
                groups[HOST_GROUP] += parameters
        return groups

    def structure(self) -> Hashable:
        """Key that changes with the code of a forward pass or the trained parameters."""
        cells = self._cells.values()
        return self._revision, *((cell.stage, cell.open, cell.operator, cell.outgoing) for cell in cells)

    def seed_parameters(self, slot: str) -> int:
        """Structural parameter count of the seed in ``slot`` with its gate network.

        0 if the slot has no module.

        Built-in blueprints have closed forms; own ones are counted.
        """
        state, cell = self.states[slot], self._cells[slot]
        if state is None or cell.seed is None:
            return 0
        if not is_built_in(state.blueprint):
            return sum(count_parameters(module) for module in (cell.seed, cell.gate) if module is not None)
        operator = BlendOperator.GATE if cell.gate is not None else state.operator
        return seed_parameter_count(
            cell.shape.topology, Blueprint.from_id(state.blueprint), cell.shape.channels, operator
        )

    def next_seed_id(self, slot: str) -> str:
        """The identity that the next seed of ``slot`` will have, for example ``r0c1-3``."""
        return f"{slot}-{self._germinations[slot] + 1}"

    def execute(
        self,
        slot: str,
        command: reducer.Command,
        measured: SeedMeasurements = UNMEASURED,
        closure: LossClosure | None = None,
    ) -> Outcome:
        """Execute ``command`` on ``slot``. If anything raises, nothing has changed.

        Args:
            closure: needed by styles whose seeds start gradient-informed.
        """
        if isinstance(command, reducer.Germinate | reducer.SetAlphaTarget) and command.style is not None:
            self._cells[slot].check_style(command.style)
        before = self.states[slot]
        state, events = reducer.execute(before, command, self.rules, measured)
        if isinstance(command, reducer.FoldIn) and state is not before:
            self._fold(slot)
        else:
            self._apply(slot, state, closure)
        self._note(slot, before, events)
        self._remember(slot, measured)
        return Outcome(events)

    def _fold(self, slot: str) -> None:
        """Make the committed seed of ``slot`` a part of its span, or change nothing."""
        if self.options.freeze_fossils:
            raise ValueError(f"slot {slot}: a frozen seed cannot become part of layers that train (freeze_fossils)")
        widths = Widths(self._host, self._cells)
        try:
            widths.fold(slot)
            for listener in self._listeners:
                listener.replace(widths.replaced)
            self._apply(slot, None, None)
        except BaseException:
            widths.undo()
            self._notify([])
            raise

    @contextmanager
    def refitted(self, added: Mapping[str, int], *, keep: bool = True) -> Iterator[None]:
        """Context in which spans have the channels of a record.

        Values are still to be loaded. The spans have those of before again if it ends with an error, or without
        ``keep``.

        Raises:
            ValueError: if the spans cannot have these channels.
        """
        widths = Widths(self._host, self._cells)
        try:
            widths.set(added)
            yield
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                widths.undo()

    def tick(self, measured: Mapping[str, SeedMeasurements]) -> dict[str, tuple[LifecycleEvent, ...]]:
        """Advance ramps, cooldowns and automatic gates by one step; events by slot."""
        happened = {}
        for slot, before in list(self.states.items()):
            state, events = reducer.tick(before, self.rules, measured.get(slot, UNMEASURED))
            self._apply(slot, state, None)
            self._remember(slot, measured.get(slot, UNMEASURED))
            if events:
                happened[slot] = events
                self._note(slot, before, events)
        return happened

    def count_epoch(self) -> None:
        """Count one trained epoch for the model and every occupied slot."""
        self.epoch += 1
        for slot, state in self.states.items():
            self.states[slot] = reducer.epoch_elapsed(state)

    def record(self) -> GrowthRecord:
        """States of all seeds."""
        added = {slot: cell.added for slot, cell in self._cells.items() if isinstance(cell, SpanCell)}
        return GrowthRecord(dict(self.states), dict(self._germinations), self.epoch, self.seed, added)

    def rebuild(self, record: GrowthRecord) -> dict[str, dict[str, nn.Module | None]]:
        """Modules for the seeds of ``record``, with fresh weights, by slot: ``seed`` and ``gate``. Changes nothing."""
        return {slot: self._modules(slot, state, 0) for slot, state in record.states.items()}

    def adopt(self, record: GrowthRecord, modules: Mapping[str, Mapping[str, nn.Module | None]]) -> None:
        """Adopt ``record`` with ``modules`` from :meth:`rebuild`, and notify the listeners."""
        for slot, state in record.states.items():
            self._cells[slot].seed, self._cells[slot].gate = modules[slot]["seed"], modules[slot]["gate"]
            self._cells[slot].pinned = _pinned(modules[slot]["seed"])
            self.states[slot] = state
            self._label(slot, state)
        self._germinations = dict(record.germinations)
        self.epoch, self.seed = record.epoch, record.seed
        self._notify([])

    def follow(self, other: "Growth") -> None:
        """Adopt the seeds of a copy of the same host. A seed that both have keeps its weights, others are copied.

        A seed that was folded in the copy is folded here, with its own weights.

        Raises:
            ValueError: if the copy has folded a seed that is not here.
        """
        for slot, cell in self._cells.items():
            self._follow_fold(slot, cell, other._cells[slot])
        for slot, state in other.states.items():
            cell, source, before = self._cells[slot], other._cells[slot], self.states[slot]
            if before is None or state is None or before.seed_id != state.seed_id or cell.seed is None:
                cell.seed, cell.gate, cell.pinned = copy.deepcopy((source.seed, source.gate, source.pinned))
            elif source.seed is None or source.gate is None or cell.gate is None:
                cell.gate = copy.deepcopy(source.gate)
                cell.seed = None if source.seed is None else cell.seed
            self.states[slot] = state
            self._label(slot, state)
        self._germinations = dict(other._germinations)
        self.epoch, self.seed = other.epoch, other.seed
        self._notify([])

    def _follow_fold(self, slot: str, cell: SeedCell, source: SeedCell) -> None:
        if not isinstance(cell, SpanCell) or not isinstance(source, SpanCell) or cell.added == source.added:
            return
        if not isinstance(cell.seed, Widening) or cell.added + cell.seed.channels != source.added:
            raise ValueError(
                f"slot {slot}: {source.added} channels were folded there and {cell.added} here; follow every seed "
                "between its birth and its fold"
            )
        Widths(self._host, self._cells).fold(slot)
        self.states[slot], cell.seed = None, None

    def _apply(self, slot: str, state: SeedState | None, closure: LossClosure | None) -> None:
        """Apply ``state`` to modules and listeners; the only place where structure changes."""
        before, cell = self.states[slot], self._cells[slot]
        if before is state:
            return
        modules: Mapping[str, nn.Module | None] = {"seed": cell.seed, "gate": cell.gate}
        if before is None and state is not None:
            modules = self._modules(slot, state, self._germinations[slot] + 1)
            self._start(slot, state, modules["seed"], closure)
        elif _structure(before) != _structure(state):
            modules = self._retained(slot, state)
        undo = (before, cell.seed, cell.gate, cell.pinned)
        if modules["seed"] is not cell.seed:
            cell.pinned = _pinned(modules["seed"])
            cell.clipping = ClippingRecord()
        notified: list[GrowthListener] = []
        try:
            self.states[slot], cell.seed, cell.gate = state, modules["seed"], modules["gate"]
            self._label(slot, state)
            if _structure(before) != _structure(state):
                self._notify(notified)
        except BaseException:
            self.states[slot], cell.seed, cell.gate, cell.pinned = undo
            self._label(slot, before)
            for listener in notified:
                listener.arrange(self.arrangement())
            raise
        self._germinations[slot] += before is None

    def _retained(self, slot: str, state: SeedState | None) -> dict[str, nn.Module | None]:
        """Present modules that ``state`` retains, with a gate network if it needs one."""
        cell = self._cells[slot]
        if state is None or state.stage not in WITH_MODULE:
            return {"seed": None, "gate": None}
        if not _gated(state):
            return {"seed": cell.seed, "gate": None}
        return {"seed": cell.seed, "gate": cell.gate or self._modules(slot, state, self._germinations[slot])["gate"]}

    def _label(self, slot: str, state: SeedState | None) -> None:
        cell = self._cells[slot]
        cell.stage = Stage.DORMANT if state is None else state.stage
        cell.operator = BlendOperator.ADD if state is None else state.operator
        cell.outgoing = None if state is None else state.outgoing
        cell.open = state is not None and state.alpha.alpha > 0.0
        with torch.no_grad():
            cell.alpha.fill_(0.0 if state is None else state.alpha.alpha)
            cell.operator_share.fill_(1.0 if state is None else state.operator_share)
        if state is not None:
            frozen = state.fading or (state.stage in COMMITTED and self.options.freeze_fossils)
            for parameter in cell.learnable():
                parameter.requires_grad_(not frozen)
                parameter.grad = None if frozen else parameter.grad

    def _notify(self, notified: list[GrowthListener]) -> None:
        """Notify all listeners; each that accepts is added to ``notified``."""
        self._revision += 1
        groups = self.arrangement()
        for listener in self._listeners:
            listener.arrange(groups)
            notified.append(listener)

    def _note(self, slot: str, before: SeedState | None, events: tuple[LifecycleEvent, ...]) -> None:
        state = before or self.states[slot]
        seed_id = None if state is None else state.seed_id
        self.log += [SlotEvent(self.epoch, slot, seed_id, event) for event in events]

    def _remember(self, slot: str, measured: SeedMeasurements) -> None:
        """Keep the contribution of a seed as long as it lives."""
        if self.states[slot] is None or self._cells[slot].seed is None:
            self.contributions.pop(slot, None)
        elif measured.contribution_pp is not None:
            self.contributions[slot] = measured.contribution_pp

    def _modules(self, slot: str, state: SeedState | None, number: int) -> dict[str, nn.Module | None]:
        """Seed and gate network of ``state``, freshly initialised as the slot's ``number``-th seed."""
        if state is None or state.stage not in WITH_MODULE:
            return {"seed": None, "gate": None}
        cell = self._cells[slot]
        key = [self.seed, *parse_slot_id(slot), number]
        with seeded_initialisation(int(np.random.SeedSequence(key).generate_state(1)[0])):
            seed = cell.newborn(state.blueprint).to(cell.alpha).train(cell.training)
            gate = GateNetwork(cell.shape).to(cell.alpha).train(cell.training) if _gated(state) else None
        return {"seed": seed, "gate": gate}

    def _start(self, slot: str, state: SeedState, seed: nn.Module | None, closure: LossClosure | None) -> None:
        """Initialise a newborn seed and check that it is the identity."""
        cell = self._cells[slot]
        if seed is None:
            return
        initialisation = self.options.initialisation.get(state.style, "zero_scale")
        if isinstance(seed, Widening):
            self._start_channels(slot, seed, closure)
            return
        if initialisation == "zero_output" and isinstance(seed, Delta):
            seed.start_at_output()
        with preserved_rng(cell.alpha.device):
            check_newborn(slot, seed, cell)
        if initialisation == "gradmax":
            if closure is None:
                raise ValueError(f"slot {slot}: style {state.style.id!r} starts with gradmax, which needs a loss")
            with preserved_rng(cell.alpha.device):
                maximise_birth_gradient(seed, cell, state.operator, closure)
                check_newborn(slot, seed, cell)

    def _start_channels(self, slot: str, seed: Widening, closure: LossClosure | None) -> None:
        """Initialise a newborn seed that widens a span."""
        cell, start = self._cells[slot], self.options.widening
        assert isinstance(cell, SpanCell)
        if start == "paired":
            seed.pair()
        else:
            seed.start_at_output()
        with preserved_rng(cell.alpha.device):
            if start in ("gradmax", "tiny"):
                if closure is None:
                    raise ValueError(f"slot {slot}: channels that start with {start} need a loss at birth")
                start_channels(seed, cell, start, closure)
            check_newborn(slot, seed, cell)


def _gated(state: SeedState) -> bool:
    return BlendOperator.GATE in (state.operator, state.outgoing)


def _pinned(seed: nn.Module | None) -> list[nn.Parameter]:
    """Parameters of a newborn ``seed`` that its author froze."""
    return [] if seed is None else [parameter for parameter in seed.parameters() if not parameter.requires_grad]


def _structure(state: SeedState | None) -> tuple[Any, ...] | None:
    """Key of the modules and of how they are trained."""
    if state is None or state.stage not in WITH_MODULE:
        return None
    return state.seed_id, state.stage in COMMITTED, state.fading, _gated(state)

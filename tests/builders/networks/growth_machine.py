"""State machine over a real growing network: commands, time, training, snapshots and files."""

import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn

from esper_ray.kasmina.lifecycle.gates import Gate, GateRules
from esper_ray.kasmina.lifecycle.reducer import (
    Advance,
    Fossilize,
    Germinate,
    Prune,
    Rules,
    SetAlphaTarget,
    StageChanged,
)
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.cell import Incubation
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import AlphaCurve, AlphaMode, GerminationStyle
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import AMPLIFIED, WITH_MODULE, Stage, can_transition

SLOTS = {"r0c0": "0", "r0c1": "2"}
GOOD = SeedMeasurements(contribution_pp=2.0, gradient_health=1.0, exploding=False, finite=True)
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 0, 1, 1, 0])

slots = st.sampled_from(list(SLOTS))
styles = st.sampled_from(list(GerminationStyle))
curves = st.sampled_from(list(AlphaCurve))
ticks = st.sampled_from([0, 1, 3])
measurements = st.sampled_from([GOOD, GOOD, GOOD, SeedMeasurements()])
command_of = st.one_of(
    st.builds(Advance),
    st.builds(Advance),
    st.builds(Fossilize),
    st.builds(Prune, ticks, curves),
    st.builds(SetAlphaTarget, st.sampled_from([0.5, 1.0]), ticks, curves, st.just(12.0), st.none() | styles),
)


def copied(state):
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}


def equal(first, second):
    return first.keys() == second.keys() and all(bool((first[key] == second[key]).all()) for key in first)


def host():
    with seeded_initialisation(3):
        return nn.Sequential(
            nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        )


class Growing(RuleBasedStateMachine):
    """Runs random operations on one network with its optimizer and checks both after each step."""

    kind: type[torch.optim.Optimizer] = torch.optim.SGD
    options: ClassVar = {"lr": 0.02, "momentum": 0.9}
    executed = 0

    @initialize(
        automatic=st.sets(st.sampled_from([Gate.G1, Gate.G2, Gate.G3])),
        freeze=st.booleans(),
        method=st.sampled_from(["shadow", "straight_through"]),
    )
    def begin(self, automatic, freeze, method):
        rules = Rules(GateRules(min_training_epochs=1), frozenset(automatic), embargo_ticks=1)
        model = MorphogeneticModel.wrap(
            host(), SLOTS, X, rules=rules, options=GrowthOptions(freeze), incubation=Incubation(method)
        )
        self.organism = Organism(model, GrowingOptimizer(model, self.kind, seeds={"lr": 0.01}, **self.options))
        self.snapshot, self.freeze = None, freeze
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @property
    def model(self):
        return self.organism.model

    def states_before(self):
        """States, and the optimizer's state of each seed parameter, before a transaction."""
        type(self).executed += 1
        optimizer_state = {}
        for slot in SLOTS:
            for parameter in self.model.cell(slot).learnable():
                optimizer_state[parameter] = copied(self.organism.optimizer.parameter_state(parameter))
        return dict(self.model.states), optimizer_state

    def check_path(self, before, after, events):
        at = Stage.DORMANT if before is None else before.stage
        for change in (event for event in events if isinstance(event, StageChanged)):
            assert change.source is at
            assert can_transition(change.source, change.target)
            at = change.target
        assert at is (Stage.DORMANT if after is None else after.stage)

    def check_optimizer_state(self, optimizer_state):
        """Surviving parameters keep their optimizer state over commitments and fades; removed ones have none."""
        living = set(self.model.parameters())
        retired = set()
        if self.freeze:
            cells = [self.model.cell(slot) for slot in SLOTS]
            retired = {p for cell in cells if cell.stage is Stage.FOSSILIZED for p in cell.learnable()}
        for parameter, state in optimizer_state.items():
            expected = state if parameter in living - retired else {}
            assert equal(self.organism.optimizer.parameter_state(parameter), expected)

    @rule(
        slot=slots,
        blueprint=st.sampled_from(["norm", "lora", "noop"]),
        style=styles,
        tempo=st.sampled_from([1, 3]),
        aim=st.sampled_from([0.5, 1.0, 1.0]),
    )
    def germinate(self, slot, blueprint, style, tempo, aim):
        states, optimizer_state = self.states_before()
        name = self.model.growth.next_seed_id(slot)
        outcome = self.model.execute(slot, Germinate(name, blueprint, style, tempo, aim))
        assert outcome.success is (states[slot] is None)
        number = int(name.rpartition("-")[2]) + outcome.success
        assert self.model.growth.next_seed_id(slot) == f"{slot}-{number}"
        self.check_optimizer_state(optimizer_state)

    @rule(slot=slots, command=command_of, measured=measurements)
    def command(self, slot, command, measured):
        states, optimizer_state = self.states_before()
        before = states[slot]
        outcome = self.model.execute(slot, command, measured)
        after = self.model.states[slot]
        self.check_path(before, after, outcome.events)
        if not outcome.success:
            assert after == before
        elif isinstance(command, SetAlphaTarget):
            assert after.alpha.alpha == (command.target if command.ticks == 0 else before.alpha.alpha)
        elif after.stage is Stage.PRUNED:
            assert command.ticks == 0 or before.alpha.alpha == 0.0
        else:
            assert after.alpha.alpha == before.alpha.alpha
        self.check_optimizer_state(optimizer_state)

    @rule(count=st.integers(2, 8), measured=measurements)
    def time(self, count, measured):
        for _ in range(count):
            states, optimizer_state = self.states_before()
            events_by_slot = self.model.tick(dict.fromkeys(SLOTS, measured))
            for slot, before in states.items():
                after = self.model.states[slot]
                self.check_path(before, after, events_by_slot.get(slot, ()))
                if before is None or after is None or after.stage not in WITH_MODULE:
                    continue
                ramp = before.alpha
                if before.stage is Stage.TRAINING and after.stage is not Stage.TRAINING:
                    ramp = ramp.retargeted(before.target, before.tempo, before.style.curve, ramp.steepness)
                assert after.alpha.alpha == ramp.ticked().alpha
            self.check_optimizer_state(optimizer_state)
            self.model.growth.count_epoch()

    @rule(count=st.integers(1, 2))
    def train(self, count):
        model, optimizer = self.model, self.organism.optimizer
        model.train()
        for _ in range(count):
            type(self).executed += 1
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
            model.incubate(lambda: nn.functional.cross_entropy(model(X), Y))
            optimizer.step()
            assert torch.isfinite(loss)

    @rule()
    def take_snapshot(self):
        type(self).executed += 1
        self.snapshot = self.organism.snapshot(), self.model.eval()(X).detach()

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def return_to_the_snapshot(self):
        type(self).executed += 1
        snapshot, output = self.snapshot
        self.organism.restore(snapshot)
        assert torch.equal(self.model.eval()(X), output)
        assert self.organism.optimizer.state_by_name().keys() == snapshot.optimizer.keys()

    @rule(sure=st.integers(0, 3))
    def through_a_file(self, sure):
        if sure < 3:
            return
        type(self).executed += 1
        path = Path(self.folder.name) / "model.safetensors"
        states, output = dict(self.model.states), self.model.eval()(X)
        optimizer = self.organism.optimizer.state_by_name()
        self.model.save(path)
        self.model.load(path)
        self.organism.optimizer.load_state_by_name(optimizer)
        assert self.model.states == states
        assert torch.equal(self.model(X), output)

    @invariant()
    def a_slot_has_modules_exactly_where_its_stage_says_so(self):
        inside = set(self.model.modules())
        expected = set(self.model.host.modules()) | {self.model, self.model.cells}
        for slot, state in self.model.states.items():
            cell = self.model.cell(slot)
            assert (cell.seed is not None) is (state is not None and state.stage in WITH_MODULE)
            gated = cell.seed is not None and 3 in (state.operator, state.outgoing)
            assert (cell.gate is not None) is gated
            expected |= {cell} | {m for part in (cell.seed, cell.gate) if part is not None for m in part.modules()}
        assert inside == expected

    @invariant()
    def the_optimizer_holds_exactly_what_is_trained_each_in_one_group(self):
        optimized = list(self.organism.optimizer.parameters())
        assert len(optimized) == len(set(optimized))
        assert set(optimized) == {p for p in self.model.parameters() if p.requires_grad}
        for slot, state in self.model.states.items():
            frozen = state is not None and (
                state.alpha.mode is AlphaMode.DOWN or (self.freeze and state.stage is Stage.FOSSILIZED)
            )
            assert all(p.requires_grad is not frozen for p in self.model.cell(slot).learnable())

    @invariant()
    def cells_agree_with_states(self):
        for slot, state in self.model.states.items():
            cell = self.model.cell(slot)
            assert cell.stage is (Stage.DORMANT if state is None else state.stage)
            alpha = 0.0 if state is None else state.alpha.alpha
            assert cell.alpha.item() == torch.tensor(alpha).item()
            assert cell.open is (alpha > 0)
            assert 0.0 <= alpha <= 1.0
            if state is not None and state.stage not in AMPLIFIED:
                assert alpha == 0.0
            if state is not None and state.stage in (Stage.HOLDING, Stage.FOSSILIZED):
                assert (alpha, state.outgoing) == (1.0, None)

    @invariant()
    def the_forward_pass_is_finite(self):
        with torch.no_grad():
            assert torch.isfinite(self.model.eval()(X)).all()


class GrowingWithAdam(Growing):
    """The same with AdamW, whose state is two moments and a step count."""

    kind = torch.optim.AdamW
    options: ClassVar = {"lr": 0.01, "weight_decay": 0.01}
    executed = 0

"""State machine over three slots under the pure reducer, with legal and illegal commands."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from lifecycle_builders import changes

from esper_ray.kasmina.lifecycle.commands import lifecycle_command
from esper_ray.kasmina.lifecycle.gates import Gate, GateRules
from esper_ray.kasmina.lifecycle.reducer import Refused, Rules, epoch_elapsed, execute, tick
from esper_ray.leyline.actions import Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.legality import Limits, legality
from esper_ray.leyline.records import SeedMeasurements, SlotReport
from esper_ray.leyline.stages import AMPLIFIED, COOLDOWN, DEVELOPING, PRUNABLE, Stage, can_transition

SLOTS = ("r0c0", "r0c1", "r0c2")
LIMITS = Limits(SLOTS, frozenset({Blueprint.NORM}), frozenset(GerminationStyle), max_seeds=2)
GOOD = SeedMeasurements(
    contribution_pp=2.0,
    improvement_pp=1.0,
    gradient_ratio=0.5,
    gradient_health=1.0,
    exploding=False,
    finite=True,
)
measurements = st.sampled_from([GOOD, GOOD, GOOD, SeedMeasurements(), SeedMeasurements(contribution_pp=-1.0)])


def report_of(slot, state):
    if state is None:
        return None
    a = state.alpha
    return SlotReport(
        *(
            slot,
            state.seed_id,
            Blueprint.from_id(state.blueprint),
            state.stage,
            state.previous_stage,
            state.ticks_in_stage,
            state.age,
        ),
        *(a.alpha, a.mode, a.target, a.velocity, a.total, a.done, state.operator, state.tempo, 24),
    )


class ReducerMachine(RuleBasedStateMachine):
    @initialize(strict=st.booleans(), automatic=st.sets(st.sampled_from([Gate.G1, Gate.G2, Gate.G3])))
    def begin(self, strict, automatic):
        gates = GateRules(strict=strict, min_training_epochs=2, min_blending_epochs=2)
        self.rules = Rules(gates, frozenset(automatic), embargo_ticks=2)
        self.states = dict.fromkeys(SLOTS)

    def masks(self):
        return legality(tuple(report_of(slot, state) for slot, state in self.states.items()), LIMITS)

    def check_path(self, before, after, events):
        """The stage changes in ``events`` lead from ``before`` to ``after`` by legal transitions."""
        at = Stage.DORMANT if before is None else before.stage
        for change in changes(events):
            assert change.source is at
            assert can_transition(change.source, change.target)
            at = change.target
        assert at is (Stage.DORMANT if after is None else after.stage)

    def pass_time(self, measured):
        for slot, state in self.states.items():
            after, events = tick(state, self.rules, measured)
            self.check_path(state, after, events)
            self.states[slot] = epoch_elapsed(after)

    @rule(data=st.data(), measured=measurements)
    def execute_a_legal_action(self, data, measured):
        masks = self.masks()
        pairs = [(op, slot) for op in LifecycleOp if op for slot in range(3) if masks.slot_by_op[op, slot]]
        if pairs:
            op, slot = data.draw(st.sampled_from(pairs))
            style, tempo, target, speed, curve = data.draw(st.tuples(*[st.integers(0, n) for n in (3, 2, 2, 3, 4)]))
            action = Action(op, slot, int(Blueprint.NORM), style, tempo, target, speed, curve)
            assert masks.allows(action)
            before = self.states[SLOTS[slot]]
            after, events = execute(before, lifecycle_command(action, "s-1"), self.rules, measured)
            assert not any(isinstance(event, Refused) for event in events)
            self.check_path(before, after, events)
            self.states[SLOTS[slot]] = after
        self.pass_time(measured)

    @rule(slot=st.sampled_from(SLOTS), op=st.integers(1, 5), speed=st.integers(0, 3), measured=measurements)
    def check_any_command(self, slot, op, speed, measured):
        """Execute any command, check its result and discard it."""
        before = self.states[slot]
        after, events = execute(before, lifecycle_command(Action(op, alpha_speed=speed), "s-1"), self.rules, measured)
        if any(isinstance(event, Refused) for event in events):
            assert after == before
            assert len(events) == 1
        self.check_path(before, after, events)

    @rule(steps=st.integers(1, 4), measured=measurements)
    def wait(self, steps, measured):
        for _ in range(steps):
            self.pass_time(measured)

    @invariant()
    def amplitudes_lie_between_zero_and_one_and_only_where_the_stage_has_one(self):
        for state in filter(None, self.states.values()):
            assert 0.0 <= state.alpha.alpha <= 1.0
            if state.stage not in AMPLIFIED:
                assert state.alpha.alpha == 0.0
            if state.stage in (Stage.HOLDING, Stage.FOSSILIZED):
                assert state.alpha.alpha == 1.0
                assert state.alpha.at_target

    @invariant()
    def no_occupied_slot_is_dormant_and_no_stage_is_unknown(self):
        stages = {state.stage for state in self.states.values() if state is not None}
        assert stages <= PRUNABLE | COOLDOWN | {Stage.FOSSILIZED}

    @invariant()
    def one_seed_develops_at_a_time_and_the_seed_limit_holds(self):
        stages = [state.stage for state in self.states.values() if state is not None]
        assert sum(stage in DEVELOPING for stage in stages) <= 1
        assert sum(stage in PRUNABLE or stage is Stage.FOSSILIZED for stage in stages) <= 2

    @invariant()
    def the_clock_of_a_stage_never_outruns_the_age(self):
        for state in filter(None, self.states.values()):
            assert 0 <= state.ticks_in_stage <= state.age


TestReducerMachine = ReducerMachine.TestCase
TestReducerMachine.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)

"""Lifecycle reducer: commands, ticks, gates and removal of one seed."""

from itertools import pairwise

import pytest
from lifecycle_builders import HEALTHY, WORTHY, Slot, changes, ramping, rules_with, seed_in, worked

from esper_ray.kasmina.lifecycle.gates import Gate
from esper_ray.kasmina.lifecycle.reducer import (
    Advance,
    AlphaMoved,
    Fossilize,
    GateEvaluated,
    Germinate,
    Prune,
    Refused,
    Rules,
    SetAlphaTarget,
    StageChanged,
    epoch_elapsed,
    execute,
    tick,
)
from esper_ray.leyline.actions import AlphaMode, BlendOperator, GerminationStyle
from esper_ray.leyline.records import UNMEASURED, SeedMeasurements
from esper_ray.leyline.stages import Stage

MULTIPLY = GerminationStyle.LINEAR_MULTIPLY
GERMINATE = Germinate("r0c0-1", "norm")
COMMANDS = {
    "germinate": GERMINATE,
    "advance": Advance(),
    "fossilize": Fossilize(),
    "target": SetAlphaTarget(0.5, 3),
    "prune": Prune(0),
}
ACCEPTED = {  # commands that are not refused, independent of gate verdicts
    "GERMINATED": {"advance", "prune"},
    "TRAINING": {"advance", "prune"},
    "BLENDING": {"advance", "target", "prune"},
    "HOLDING": {"fossilize", "target", "prune"},
    "FOSSILIZED": set(),
    "PRUNED": set(),
    "EMBARGOED": set(),
    "RESETTING": set(),
}


def refused(events):
    return [event.reason for event in events if isinstance(event, Refused)]


@pytest.mark.parametrize("stage", ACCEPTED)
@pytest.mark.parametrize("command", COMMANDS)
def test_each_stage_accepts_its_commands_only_and_a_refusal_changes_nothing(stage, command):
    state = seed_in(Stage[stage])
    after, events = execute(state, COMMANDS[command], Rules(), WORTHY)
    accepted = command in ACCEPTED[stage]
    assert (refused(events) == []) is accepted
    if not accepted:
        assert after == state
        assert len(events) == 1
        assert stage in refused(events)[0]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"germinate"}))
def test_an_empty_slot_accepts_germination_only(command):
    assert execute(None, COMMANDS[command], Rules()) == (None, (Refused("slot is empty"),))


def test_germination_starts_a_seed_at_zero():
    command = Germinate("r0c0-4", "conv_light", GerminationStyle.LINEAR_MULTIPLY, 8, 0.7)
    state, events = execute(None, command, Rules())
    assert (state.seed_id, state.blueprint, state.tempo, state.target) == ("r0c0-4", "conv_light", 8, 0.7)
    assert (state.stage, state.previous_stage) == (Stage.GERMINATED, Stage.DORMANT)
    assert (state.ticks_in_stage, state.age, state.alpha.alpha) == (0, 0, 0.0)
    assert state.operator is BlendOperator.MULTIPLY
    assert changes(events) == [StageChanged(Stage.DORMANT, Stage.GERMINATED, 0)]
    assert worked(events)


@pytest.mark.parametrize(("target", "stage"), [(1.0, Stage.HOLDING), (0.7, Stage.BLENDING)])
def test_a_tempo_of_zero_gives_a_live_birth(target, stage):
    state, events = execute(None, Germinate("s-1", "norm", tempo=0, target=target), Rules())
    assert (state.stage, state.tempo, state.age, state.ticks_in_stage) == (stage, 0, 0, 0)
    assert (state.alpha.alpha, state.alpha.target, state.alpha.mode) == (target, target, AlphaMode.HOLD)
    path = [Stage.DORMANT, Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING]
    path = path[: path.index(stage) + 1]
    assert [(change.source, change.target) for change in changes(events)] == list(pairwise(path))
    assert {change.reason for change in changes(events)[1:]} == {"born live"}
    assert worked(events)
    assert tick(state, Rules()) == (state, ()) if stage is Stage.HOLDING else tick(state, Rules())[0] == state


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Germinate("s-1", "norm", target=0.0), r"\(0, 1\], got 0.0"),
        (Germinate("s-1", "norm", target=1.5), r"\(0, 1\], got 1.5"),
        (Germinate("s-1", "norm", tempo=-1), "at least 0 ticks, got -1"),
    ],
)
def test_a_germination_with_invalid_target_or_tempo_is_an_error(command, message):
    with pytest.raises(ValueError, match=message):
        execute(None, command, Rules())


@pytest.mark.parametrize("target", [0.0, -0.5, 1.5])
def test_a_retarget_outside_zero_to_one_is_an_error(target):
    with pytest.raises(ValueError, match=f"got {target}"):
        execute(seed_in(Stage.HOLDING), SetAlphaTarget(target, 3), Rules())


def test_advance_reports_a_failed_gate_and_leaves_the_seed():
    state = seed_in(Stage.TRAINING, ticks=9)
    after, events = execute(state, Advance(), Rules(), HEALTHY)
    assert after == state
    (event,) = events
    assert isinstance(event, GateEvaluated)
    assert event.result.message == "epochs in training: 9, needed at least 10"


def test_unmeasured_values_fail_the_gates():
    for state, command in ((seed_in(Stage.TRAINING, 10), Advance()), (seed_in(Stage.HOLDING), Fossilize())):
        after, events = execute(state, command, Rules(), UNMEASURED)
        assert after == state
        assert not worked(events)


@pytest.mark.parametrize(
    ("stage", "alpha"), [(Stage.GERMINATED, 0.0), (Stage.TRAINING, 0.0), (Stage.BLENDING, 1.0), (Stage.HOLDING, 1.0)]
)
def test_an_instant_prune_removes_at_once_with_its_reason(stage, alpha):
    state, events = execute(seed_in(stage, ticks=3, alpha=alpha), Prune(0, reason="because"), Rules())
    assert state.stage is Stage.PRUNED
    assert (state.alpha.alpha, state.alpha.mode, state.ticks_in_stage) == (0.0, AlphaMode.HOLD, 0)
    assert changes(events) == [StageChanged(stage, Stage.PRUNED, 3, "because")]
    assert AlphaMoved(0.0) in events


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING])
def test_a_scheduled_prune_of_a_seed_before_blending_removes_it_at_once(stage):
    state, _ = execute(seed_in(stage), Prune(8), Rules())
    assert state.stage is Stage.PRUNED


def test_a_scheduled_prune_at_amplitude_zero_removes_the_seed_at_once():
    state, _ = execute(seed_in(Stage.BLENDING, alpha=0.0), Prune(8), Rules())
    assert state.stage is Stage.PRUNED


@pytest.mark.parametrize("stage", [Stage.BLENDING, Stage.HOLDING])
def test_a_scheduled_prune_removes_the_seed_on_the_tick_that_reaches_zero(stage):
    slot = Slot(state=seed_in(stage))
    amplitudes = []
    assert slot.step(Prune(3, reason="weak"))
    while slot.state.stage is Stage.BLENDING:
        amplitudes.append(slot.state.alpha.alpha)
        slot.train()
        slot.step()
    assert amplitudes == pytest.approx([2 / 3, 1 / 3])
    assert slot.state.stage is Stage.PRUNED
    assert changes(slot.events) == [StageChanged(Stage.BLENDING, Stage.PRUNED, 2, "weak")]


def test_a_running_ramp_refuses_retargets_and_scheduled_but_not_instant_prunes():
    for command in (SetAlphaTarget(0.5, 3), Prune(3)):
        state = ramping(1.0)
        after, events = execute(state, command, Rules())
        assert after == state
        assert "ramping UP" in refused(events)[0]
    state, events = execute(ramping(1.0), Prune(0), Rules())
    assert state.stage is Stage.PRUNED
    assert refused(events) == []


@pytest.mark.parametrize("ticks", [0, 3])
@pytest.mark.parametrize("target", [0.5, 0.7, 0.999])
def test_a_lower_target_demotes_a_holding_seed_to_blending(ticks, target):
    state, events = execute(seed_in(Stage.HOLDING, ticks=4), SetAlphaTarget(target, ticks), Rules())
    assert (state.stage, state.previous_stage, state.ticks_in_stage) == (Stage.BLENDING, Stage.HOLDING, 0)
    assert state.alpha.target == target
    assert [(e.source, e.target, e.ticks) for e in changes(events)] == [(Stage.HOLDING, Stage.BLENDING, 4)]
    assert state.alpha.alpha == (target if ticks == 0 else 1.0)


def test_the_full_target_leaves_a_holding_seed_unchanged():
    state, events = execute(seed_in(Stage.HOLDING), SetAlphaTarget(1.0, 8), Rules())
    assert (state.stage, state.alpha.alpha, state.alpha.mode) == (Stage.HOLDING, 1.0, AlphaMode.HOLD)
    assert changes(events) == []


@pytest.mark.parametrize("contribution", [-1.0, 0.0, 2.5, None])
@pytest.mark.parametrize("stage", [Stage.HOLDING, Stage.FOSSILIZED])
def test_ticks_never_move_holding_and_fossilized_seeds(stage, contribution):
    rules = rules_with(frozenset({Gate.G1, Gate.G2, Gate.G3}))
    state = seed_in(stage)
    for _ in range(20):
        after, events = tick(state, rules, SeedMeasurements(contribution_pp=contribution, finite=True))
        assert after == state
        assert events == ()
        state = epoch_elapsed(state)


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING])
def test_without_automatic_gates_ticks_advance_no_seed(stage):
    slot = Slot(state=seed_in(stage, ticks=50))
    for _ in range(10):
        slot.step(None, WORTHY)
        slot.train()
    assert slot.state.stage is stage


def test_a_failed_automatic_g2_keeps_the_seed_in_training():
    state, events = tick(seed_in(Stage.TRAINING, 10), rules_with(frozenset({Gate.G2})), UNMEASURED)
    assert state.stage is Stage.TRAINING
    assert [event.result.passed for event in events] == [False]


def test_an_automatic_g2_is_not_evaluated_before_its_dwell():
    assert tick(seed_in(Stage.TRAINING, 9), rules_with(frozenset({Gate.G2})), HEALTHY)[1] == ()


def test_a_strict_automatic_g3_reports_at_arrival_and_when_it_passes():
    slot = Slot(rules_with(frozenset({Gate.G3}), strict=True, min_blending_epochs=6), ramping(1.0))
    verdicts = []
    for _ in range(8):
        slot.step()
        verdicts.append([e.result.passed for e in slot.events if isinstance(e, GateEvaluated)])
        slot.train()
    assert verdicts == [[], [], [], [False], [], [], [True], []]
    assert slot.state.stage is Stage.HOLDING


def test_an_instant_promotion_passes_the_automatic_g3_in_the_same_step():
    slot = Slot(rules_with(frozenset({Gate.G3})), seed_in(Stage.BLENDING, alpha=0.5))
    assert slot.step(SetAlphaTarget(1.0, 0))
    assert slot.state.stage is Stage.HOLDING


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING])
def test_seven_ticks_lead_from_an_instant_prune_to_an_empty_slot(stage):
    slot = Slot()
    slot.state, _ = execute(seed_in(stage), Prune(0), Rules())
    seen = []
    while slot.state is not None:
        slot.step()
        seen.append("empty" if slot.state is None else slot.state.stage.name)
        slot.train()
    assert seen == ["EMBARGOED"] * 5 + ["RESETTING", "empty"]
    assert changes(slot.events) == [StageChanged(Stage.RESETTING, Stage.DORMANT, 1)]


@pytest.mark.parametrize("embargo", [0, 1, 3])
def test_the_embargo_lasts_the_configured_number_of_ticks(embargo):
    slot = Slot(rules_with(embargo=embargo), seed_in(Stage.PRUNED))
    seen = []
    while slot.state is not None:
        slot.step()
        seen.append("empty" if slot.state is None else slot.state.stage.name)
        slot.train()
    assert seen == ["EMBARGOED"] * max(embargo, 1) + ["RESETTING", "empty"]


def test_a_seed_starts_equal_after_ten_cycles_in_its_slot():
    slot = Slot()
    fresh = []
    for cycle in range(10):
        assert slot.step(Germinate("s-1", f"blueprint {cycle % 5}"))
        fresh.append((slot.state.age, slot.state.ticks_in_stage, slot.state.alpha, slot.state.removal))
        slot.step(Prune(0))
        while slot.state is not None:
            slot.train()
            slot.step()
    assert len(set(fresh)) == 1


def test_an_elapsed_epoch_counts_for_stage_and_age_of_a_seed_only():
    state = epoch_elapsed(epoch_elapsed(seed_in(Stage.TRAINING, ticks=3, age=8)))
    assert (state.ticks_in_stage, state.age) == (5, 10)
    assert epoch_elapsed(None) is None
    assert tick(None, Rules()) == (None, ())


def test_a_tick_does_not_count_as_an_epoch():
    state = seed_in(Stage.BLENDING, ticks=3, age=8)
    after, _ = tick(state, Rules())
    assert (after.ticks_in_stage, after.age) == (3, 8)


@pytest.mark.parametrize("target", [1e-7, 1e-9])
def test_a_tiny_target_does_not_remove_the_seed(target):
    slot = Slot(state=seed_in(Stage.HOLDING))
    assert slot.step(SetAlphaTarget(target, 2))
    for _ in range(5):
        slot.step()
    assert (slot.state.stage, slot.state.alpha.alpha) == (Stage.BLENDING, target)


@pytest.mark.parametrize("target", [0.5, 1.0])
def test_another_operator_is_faded_in_along_the_ramp(target):
    state, events = execute(seed_in(Stage.HOLDING), SetAlphaTarget(target, 4, style=MULTIPLY), Rules())
    assert [(e.source, e.target, e.reason) for e in changes(events)] == [
        (Stage.HOLDING, Stage.BLENDING, "changes operator")
    ]
    assert (state.operator, state.outgoing, state.operator_share) == (BlendOperator.MULTIPLY, BlendOperator.ADD, 0.0)
    assert state.fading is (target < 1.0)
    slot, shares = Slot(state=state), []
    for _ in range(4):
        assert not worked(execute(slot.state, Advance(), Rules())[1])
        slot.step()
        shares.append(slot.state.operator_share)
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert (slot.state.outgoing, slot.state.alpha.alpha, slot.state.alpha.mode) == (None, target, AlphaMode.HOLD)
    assert worked(execute(slot.state, Advance(), Rules())[1]) is (target == 1.0)


def test_without_ticks_operator_and_amplitude_change_at_once():
    state, events = execute(seed_in(Stage.HOLDING), SetAlphaTarget(1.0, 0, style=MULTIPLY), Rules())
    assert (state.stage, state.operator, state.outgoing) == (Stage.HOLDING, BlendOperator.MULTIPLY, None)
    assert changes(events) == []


def test_a_prune_during_a_cross_fade_clears_the_outgoing_operator():
    state, _ = execute(seed_in(Stage.HOLDING), SetAlphaTarget(1.0, 4, style=MULTIPLY), Rules())
    assert "ramping UP" in refused(execute(state, Prune(3), Rules())[1])[0]
    removed, _ = execute(state, Prune(0), Rules())
    assert (removed.stage, removed.outgoing, removed.operator_share) == (Stage.PRUNED, None, 1.0)


def test_a_failed_gate_is_reported_again_only_for_other_reasons():
    rules = rules_with(frozenset({Gate.G2}))
    slot, messages = Slot(rules, seed_in(Stage.TRAINING, 10)), []
    sick = SeedMeasurements(exploding=True, gradient_health=1.0)
    for measured in (UNMEASURED, UNMEASURED, sick, sick, UNMEASURED, HEALTHY):
        slot.step(None, measured)
        messages.append([e.result.message for e in slot.events if isinstance(e, GateEvaluated)])
    both = "gradients do not explode: not measured yet; gradient health: not measured yet"
    assert messages == [[both], [], ["gradients explode"], [], [both], [""]]
    assert slot.state.stage is Stage.BLENDING

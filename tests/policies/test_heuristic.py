"""Decisions of the heuristic policy on single views."""

import pytest
from policy_builders import limits, report, view_of

from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy
from esper_ray.leyline.actions import AlphaMode, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.stages import Stage

FOSSIL = report(Stage.FOSSILIZED, contribution_pp=3.0)


def policy(slots=3, config=None, **changes):
    return HeuristicPolicy(limits(slots, **changes), config)


def decision_of(view, deciding=None):
    """Operation and slot of the decision; asserts that it is legal."""
    decision = (deciding or policy(len(view.reports))).decide(view)
    assert view.masks.allows(decision.action)
    assert decision.reason
    return decision.action.operation.name, decision.action.slot


def test_no_germination_before_the_first_epoch():
    assert decision_of(view_of(None, None, None, epoch=1)) == ("WAIT", 0)
    assert decision_of(view_of(None, None, None, epoch=2)) == ("GERMINATE", 2)
    later = policy(config=HeuristicConfig(first_epoch=5))
    assert decision_of(view_of(None, None, None, epoch=4), later) == ("WAIT", 0)


def test_the_deepest_empty_slot_is_planted_first_at_full_amplitude():
    action = policy().decide(view_of(FOSSIL, None, FOSSIL)).action
    assert (action.operation, action.slot) == (LifecycleOp.GERMINATE, 1)
    assert action.blueprint == Blueprint.CONV_LIGHT
    assert (action.alpha_target, action.tempo) == (2, 0)
    assert action.style == GerminationStyle.SIGMOID_ADD


def test_germination_uses_an_allowed_style():
    allowed = limits(1, styles=frozenset({GerminationStyle.LINEAR_ADD}))
    action = HeuristicPolicy(allowed).decide(view_of(None, allowed=allowed)).action
    assert action.style == GerminationStyle.LINEAR_ADD


def test_blueprints_that_are_not_legal_now_are_passed_over():
    deciding = policy(1)
    crowded = limits(1, blueprints=frozenset({Blueprint.BOTTLENECK}))
    action = deciding.decide(view_of(None, allowed=crowded)).action
    assert (action.operation, action.blueprint) == (LifecycleOp.GERMINATE, Blueprint.BOTTLENECK)


def test_a_seed_that_was_born_live_has_time_to_develop():
    config = HeuristicConfig(patience=2, live_patience=9)
    for tempo, ticks, expected in ((0, 8, "WAIT"), (0, 9, "PRUNE"), (5, 2, "PRUNE")):
        seed = report(Stage.HOLDING, alpha=1.0, tempo=tempo, ticks_in_stage=ticks, age=9, contribution_pp=0.0)
        assert decision_of(view_of(seed, FOSSIL), policy(2, config))[0] == expected


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING])
def test_a_developing_seed_is_advanced_if_gates_are_manual(stage):
    view = view_of(None, report(stage))
    assert decision_of(view) == ("ADVANCE", 1)
    automatic = limits(2, manual_advance=False)
    assert decision_of(view_of(None, report(stage), allowed=automatic), HeuristicPolicy(automatic)) == ("WAIT", 0)


def test_a_blending_seed_is_advanced_only_after_its_ramp_has_ended():
    moving = report(Stage.BLENDING, alpha_mode=AlphaMode.UP, improvement_pp=-50.0)
    assert decision_of(view_of(moving, FOSSIL)) == ("WAIT", 0)
    assert decision_of(view_of(report(Stage.BLENDING, alpha=1.0), FOSSIL)) == ("ADVANCE", 0)


def test_a_partial_blend_is_retargeted_to_full_amplitude():
    view = view_of(report(Stage.BLENDING, alpha=0.5, alpha_target=0.5))
    action = policy(1).decide(view).action
    assert action.operation is LifecycleOp.SET_ALPHA_TARGET
    assert action.alpha_target == 2
    assert view.masks.allows(action)


@pytest.mark.parametrize(("change", "op"), [(-15.1, "PRUNE"), (-14.9, "ADVANCE"), (None, "ADVANCE")])
def test_a_blend_that_costs_too_much_accuracy_is_pruned(change, op):
    assert decision_of(view_of(report(Stage.BLENDING, alpha=1.0, improvement_pp=change)))[0] == op


@pytest.mark.parametrize(("contribution", "op"), [(0.6, "FOSSILIZE"), (0.5, "WAIT"), (-3.0, "WAIT"), (None, "WAIT")])
def test_a_holding_seed_is_committed_if_it_contributes(contribution, op):
    view = view_of(report(Stage.HOLDING, ticks_in_stage=5, contribution_pp=contribution))
    assert decision_of(view)[0] == op


def test_the_contribution_threshold_is_configurable():
    demanding = policy(1, HeuristicConfig(min_contribution_pp=2.0))
    assert decision_of(view_of(report(Stage.HOLDING, contribution_pp=1.9)), demanding)[0] == "WAIT"
    assert decision_of(view_of(report(Stage.HOLDING, contribution_pp=2.1)), demanding)[0] == "FOSSILIZE"


@pytest.mark.parametrize(("ticks", "op"), [(5, "WAIT"), (6, "PRUNE"), (20, "PRUNE")])
def test_a_useless_holding_seed_is_pruned_after_the_patience(ticks, op):
    assert decision_of(view_of(report(Stage.HOLDING, ticks_in_stage=ticks, contribution_pp=0.1)))[0] == op


@pytest.mark.parametrize(
    ("epoch", "contribution", "op"), [(9, -2.0, "PRUNE"), (10, -2.0, "WAIT"), (10, 0.6, "FOSSILIZE")]
)
def test_after_the_last_pruning_a_holding_seed_stays_until_it_contributes(epoch, contribution, op):
    seed = report(Stage.HOLDING, contribution_pp=contribution, ticks_in_stage=12 if epoch == 10 else 6)
    deciding = policy(2, HeuristicConfig(last_pruning=9))
    assert decision_of(view_of(seed, FOSSIL, epoch=epoch), deciding)[0] == op


def test_the_most_urgent_of_several_slots_comes_first():
    good = report(Stage.HOLDING, "r0c1", contribution_pp=4.0)
    better = report(Stage.HOLDING, "r0c2", contribution_pp=9.0)
    useless = report(Stage.HOLDING, ticks_in_stage=9, contribution_pp=-1.0)
    training = report(Stage.TRAINING)
    assert decision_of(view_of(useless, good, better)) == ("FOSSILIZE", 2)
    assert decision_of(view_of(good, useless, training)) == ("FOSSILIZE", 0)
    assert decision_of(view_of(training, useless, None)) == ("PRUNE", 1)
    assert decision_of(view_of(None, training, FOSSIL)) == ("ADVANCE", 1)
    assert decision_of(view_of(FOSSIL, FOSSIL, FOSSIL)) == ("WAIT", 0)


def test_after_a_prune_another_slot_and_then_another_blueprint_is_used():
    deciding = policy(2)
    useless = report(Stage.HOLDING, "r0c1", ticks_in_stage=9, contribution_pp=-1.0)
    assert decision_of(view_of(FOSSIL, useless), deciding) == ("PRUNE", 1)
    assert decision_of(view_of(None, None), deciding) == ("GERMINATE", 0)
    tried = []
    for _ in range(4):
        tried.append(Blueprint(deciding.decide(view_of(FOSSIL, None)).action.blueprint))
        assert decision_of(view_of(FOSSIL, useless), deciding) == ("PRUNE", 1)
    assert tried == [Blueprint.DEPTHWISE, Blueprint.BOTTLENECK, Blueprint.NORM, Blueprint.CONV_LIGHT]
    deciding.begin_episode(0)
    assert decision_of(view_of(None, None), deciding) == ("GERMINATE", 1)


def test_the_rotation_has_allowed_blueprints_only():
    deciding = policy(1, blueprints=frozenset({Blueprint.NORM, Blueprint.DEPTHWISE}))
    assert deciding.rotation == [Blueprint.DEPTHWISE, Blueprint.NORM]


def test_a_policy_without_an_allowed_known_blueprint_is_refused():
    with pytest.raises(ValueError, match="no blueprint of the rotation is allowed here; allowed are attention, mlp"):
        policy(1, blueprints=frozenset({Blueprint.MLP, Blueprint.ATTENTION}))


def test_nothing_more_is_tried_in_a_slot_after_two_failures():
    deciding = policy(1, HeuristicConfig(max_failures=2, patience=1))
    useless = report(Stage.HOLDING, ticks_in_stage=9, contribution_pp=-1.0)
    for _ in range(2):
        assert decision_of(view_of(None), deciding) == ("GERMINATE", 0)
        assert decision_of(view_of(useless), deciding) == ("PRUNE", 0)
    assert decision_of(view_of(None), deciding) == ("WAIT", 0)
    deciding.begin_episode(0)
    assert decision_of(view_of(None), deciding) == ("GERMINATE", 0)


def test_a_contribution_within_its_uncertainty_is_not_committed():
    for error, expected in ((0.2, "FOSSILIZE"), (0.9, "WAIT"), (None, "FOSSILIZE")):
        seed = report(Stage.HOLDING, alpha=1.0, contribution_pp=1.5, contribution_error_pp=error)
        assert decision_of(view_of(seed, FOSSIL), policy(2, HeuristicConfig(confidence=2.0)))[0] == expected


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((70.0, 70.0, 70.0), "GERMINATE"),
        ((50.0, 60.0, 61.0), "WAIT"),
        ((50.0, 55.0, 59.0), "GERMINATE"),
        ((96.9, 96.9, 96.9), "GERMINATE"),
        ((97.0, 97.0, 97.0), "WAIT"),
        ((60.0,), "GERMINATE"),
    ],
)
def test_nothing_is_born_while_the_host_learns_fast_alone_or_has_little_left_to_gain(accuracies, expected):
    deciding = policy(1, HeuristicConfig(least_room_pp=3.0, fast_fall=0.2))
    assert decision_of(view_of(None, accuracies_pp=accuracies), deciding)[0] == expected


def test_nothing_more_is_tried_after_failures_in_a_row():
    deciding = policy(2, HeuristicConfig(max_failures_in_a_row=2, patience=1))
    failing = report(Stage.HOLDING, alpha=1.0, contribution_pp=-1.0, ticks_in_stage=9, age=9)
    assert decision_of(view_of(failing, FOSSIL), deciding)[0] == "PRUNE"
    assert decision_of(view_of(None, FOSSIL), deciding)[0] == "GERMINATE"
    assert decision_of(view_of(FOSSIL, failing), deciding)[0] == "PRUNE"
    assert decision_of(view_of(None, FOSSIL), deciding)[0] == "WAIT"
    worthy = report(Stage.HOLDING, alpha=1.0, contribution_pp=5.0, ticks_in_stage=1)
    assert decision_of(view_of(worthy, FOSSIL), deciding)[0] == "FOSSILIZE"
    assert decision_of(view_of(None, FOSSIL), deciding)[0] == "GERMINATE"

"""Random, static, schedule and oracle policies on single views and in real episodes."""

from dataclasses import replace

import pytest
from policy_builders import FAST_LIVES, limits, report, view_of
from pydantic import ValidationError

from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import EpisodeRunner
from esper_policies.baselines import (
    OraclePolicy,
    RandomPolicy,
    SchedulePolicy,
    ScriptLine,
    StaticPolicy,
    default_script,
)
from esper_ray.environment import make_environment
from esper_ray.leyline.actions import HEADS, HEADS_OF_OP, WAIT, AlphaMode, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.stages import Stage

pytestmark = pytest.mark.integration

FOSSIL = report(Stage.FOSSILIZED, contribution_pp=3.0)
AUTOMATIC = limits(2, manual_advance=False)
READY = report(Stage.HOLDING, contribution_pp=3.0)


def decision_of(policy, view):
    """Operation and slot of the decision; asserts that it is legal."""
    action = policy.decide(view).action
    assert view.masks.allows(action)
    return action.operation.name, action.slot


def refused(view):
    """The same view after an operation without success."""
    return replace(view, signals=replace(view.signals, last_success=False))


# Static and random


def test_static_waits_in_every_view():
    policy = StaticPolicy()
    policy.begin_episode(1)
    for view in (view_of(None, None), view_of(READY, None), view_of(report(Stage.TRAINING), FOSSIL)):
        assert policy.decide(view).action == WAIT


def test_random_waits_if_nothing_else_is_legal():
    policy = RandomPolicy()
    policy.begin_episode(3)
    cooling = report(Stage.EMBARGOED)
    assert {decision_of(policy, view_of(cooling, FOSSIL)) for _ in range(20)} == {("WAIT", 0)}


def test_random_samples_operations_uniformly_and_then_slots_uniformly():
    """Legal: WAIT, GERMINATE in slot 0 or 2, SET_ALPHA_TARGET, PRUNE and FOSSILIZE in slot 1; a fifth each."""
    policy, view = RandomPolicy(), view_of(None, READY, None)
    policy.begin_episode(7)
    counts = {}
    draws = 5000
    for _ in range(draws):
        decision = decision_of(policy, view)
        counts[decision] = counts.get(decision, 0) + 1
    expected = {
        ("WAIT", 0): 0.2,
        ("GERMINATE", 0): 0.1,
        ("GERMINATE", 2): 0.1,
        ("SET_ALPHA_TARGET", 1): 0.2,
        ("PRUNE", 1): 0.2,
        ("FOSSILIZE", 1): 0.2,
    }
    assert counts.keys() == expected.keys()
    for decision, share in expected.items():
        assert counts[decision] / draws == pytest.approx(share, abs=0.025)


def test_random_samples_every_legal_argument_that_is_read_and_no_other():
    policy, view = RandomPolicy(), view_of(None)
    policy.begin_episode(0)
    seen = {head: set() for head in HEADS[2:]}
    for _ in range(600):
        action = policy.decide(view).action
        for head, values in seen.items():
            if head in HEADS_OF_OP[action.operation]:
                values.add(getattr(action, head))
            else:
                assert getattr(action, head) == getattr(WAIT, head)
    legal = {head: set(mask.nonzero()[0]) for head, mask in view.masks.arguments.items()}
    for head in ("blueprint", "style", "tempo", "alpha_target"):
        assert seen[head] == legal[head]


def test_random_needs_no_blueprint_if_germination_is_illegal():
    policy = RandomPolicy()
    policy.begin_episode(0)
    only_noop = limits(1, blueprints=frozenset({Blueprint.NOOP}))
    assert decision_of(policy, view_of(report(Stage.PRUNED), allowed=only_noop)) == ("WAIT", 0)


def test_random_episodes_are_a_function_of_their_seed():
    policy, view = RandomPolicy(), view_of(None, READY)

    def sampled(seed):
        policy.begin_episode(seed)
        return [policy.decide(view).action for _ in range(30)]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


ENVIRONMENTS = {
    "digits": ("digits", FAST_LIVES | {"training.steps_per_epoch": 1}),
    "text": (
        "text",
        FAST_LIVES
        | {"training.steps_per_epoch": 1, "training.batch_size": 4, "task.block_size": 8, "host.context": 8}
        | {"task.validation_size": 4, "task.test_size": 4, "host.embedding": 8, "host.heads": 2, "host.dropout": 0.0},
    ),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("policy", ["random", "schedule"])
def test_real_episodes_contain_legal_actions_only(name, policy, tmp_path):
    """The runner refuses every illegal decision."""
    preset, settings = ENVIRONMENTS[name]
    if name == "text":
        (tmp_path / "input.txt").write_text("to be or not to be that is the question " * 40)
        settings = settings | {"task.data_dir": str(tmp_path)}
    env = make_environment(preset, settings)
    player = RandomPolicy() if policy == "random" else SchedulePolicy(env.limits)
    for seed in range(2):
        episode = EpisodeRunner(env, player).play(Assignment(0, 0, seed))
        assert env.illegal_actions == 0
        assert sum(episode.operations.values()) == len(episode.trajectory)
        assert episode.operations["GERMINATE"] >= 1


# Schedule


def test_the_default_script_plants_and_commits_slot_by_slot():
    lines = list(default_script(limits(2)))
    assert [(line.op, line.slot, line.epoch) for line in lines] == [
        ("germinate", 0, 0),
        ("fossilize", 0, 0),
        ("germinate", 1, 0),
        ("fossilize", 1, 0),
    ]
    assert {line.blueprint for line in lines[::2]} == {"conv_light"}


def test_the_default_script_plants_a_legal_blueprint():
    allowed = limits(1, blueprints=frozenset({Blueprint.NOOP, Blueprint.LORA, Blueprint.NORM}))
    policy = SchedulePolicy(allowed)
    assert policy.script[0].blueprint == "norm"
    assert decision_of(policy, view_of(None, allowed=allowed)) == ("GERMINATE", 0)


def test_lines_are_executed_in_order_when_due_and_legal():
    script = [
        ScriptLine(epoch=3, op="germinate", slot=1, blueprint="norm"),
        ScriptLine(epoch=0, op="Prune", slot=1),
    ]
    policy = SchedulePolicy(AUTOMATIC, script)
    young = report(Stage.TRAINING, age=4)
    old = report(Stage.TRAINING, age=5)
    assert decision_of(policy, view_of(None, None, epoch=2, allowed=AUTOMATIC)) == ("WAIT", 0)
    action = policy.decide(view_of(None, None, epoch=3, allowed=AUTOMATIC)).action
    assert (action.operation, action.slot) == (LifecycleOp.GERMINATE, 1)
    assert (action.blueprint, action.style) == (Blueprint.NORM, GerminationStyle.LINEAR_ADD)
    assert (action.tempo, action.alpha_target) == (0, 2)
    assert decision_of(policy, view_of(None, young, allowed=AUTOMATIC)) == ("WAIT", 0)
    assert decision_of(policy, view_of(None, old, allowed=AUTOMATIC)) == ("PRUNE", 1)
    assert decision_of(policy, view_of(None, None, allowed=AUTOMATIC)) == ("WAIT", 0)
    policy.begin_episode(0)
    assert decision_of(policy, view_of(None, None, allowed=AUTOMATIC)) == ("GERMINATE", 1)


def test_a_line_refused_by_a_gate_is_retried_before_the_next_one():
    script = [ScriptLine(epoch=0, op="fossilize", slot=0), ScriptLine(epoch=0, op="germinate", slot=1)]
    policy = SchedulePolicy(AUTOMATIC, script)
    waiting = view_of(READY, None, allowed=AUTOMATIC)
    assert decision_of(policy, waiting) == ("FOSSILIZE", 0)
    assert decision_of(policy, refused(waiting)) == ("FOSSILIZE", 0)
    assert decision_of(policy, refused(waiting)) == ("FOSSILIZE", 0)
    assert decision_of(policy, view_of(FOSSIL, None, allowed=AUTOMATIC)) == ("GERMINATE", 1)


def test_an_unsuccessful_wait_repeats_no_line():
    policy = SchedulePolicy(AUTOMATIC, [ScriptLine(epoch=0, op="germinate")])
    assert decision_of(policy, view_of(None, None, allowed=AUTOMATIC)) == ("GERMINATE", 0)
    developing = view_of(report(Stage.GERMINATED), None, allowed=AUTOMATIC)
    assert decision_of(policy, developing) == ("WAIT", 0)
    assert decision_of(policy, refused(developing)) == ("WAIT", 0)
    assert decision_of(policy, refused(view_of(None, None, allowed=AUTOMATIC))) == ("WAIT", 0)


def test_seeds_are_advanced_if_gates_are_manual():
    script = [ScriptLine(epoch=0, op="fossilize", slot=1)]
    policy = SchedulePolicy(limits(2), script)
    assert decision_of(policy, view_of(None, report(Stage.TRAINING))) == ("ADVANCE", 1)
    assert decision_of(policy, view_of(None, READY)) == ("FOSSILIZE", 1)
    automatic = SchedulePolicy(AUTOMATIC, script)
    assert decision_of(automatic, view_of(None, report(Stage.TRAINING), allowed=AUTOMATIC)) == ("WAIT", 0)


def test_the_style_is_linear_add_if_allowed():
    gated = limits(1, styles=frozenset({GerminationStyle.GATED_GATE}))
    action = SchedulePolicy(gated).decide(view_of(None, allowed=gated)).action
    assert action.style == GerminationStyle.GATED_GATE
    assert SchedulePolicy(limits(1)).decide(view_of(None)).action.style == GerminationStyle.LINEAR_ADD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"op": "grow"}, "script line 2: unknown operation 'grow'; there are germinate, set_alpha_target, prune"),
        ({"op": "wait"}, "script line 2: unknown operation 'wait'"),
        ({"slot": 2}, "script line 2: slot 2; the run has 0 to 1"),
        ({"slot": 511}, "script line 2: slot 511; the run has 0 to 1"),
        ({"blueprint": "lora"}, "script line 2: blueprint 'lora' is not allowed; conv_light, norm, depthwise, bottle"),
        ({"blueprint": "konv"}, "script line 2: blueprint 'konv' is not allowed; conv_light"),
        ({"blueprint": "noop"}, "script line 2: blueprint 'noop' is not allowed; conv_light"),
    ],
)
def test_an_invalid_line_is_refused_with_number_value_and_choices(changes, message):
    line = ScriptLine(**({"epoch": 0, "op": "germinate"} | changes))
    allowed = limits(2, blueprints=limits(2).blueprints | {Blueprint.NOOP})
    with pytest.raises(ValueError, match=message):
        SchedulePolicy(allowed, [ScriptLine(epoch=0, op="germinate"), line])


@pytest.mark.parametrize("fields", [{"epoch": -1}, {"epoch": "soon"}, {"epcoh": 3}, {}])
def test_a_line_with_invalid_fields_is_refused(fields):
    with pytest.raises(ValidationError, match="ep"):
        ScriptLine(**({"op": "germinate"} | fields))


# Oracle


def test_the_oracle_plants_one_convolution_in_the_first_slot_and_commits_it():
    policy = OraclePolicy(AUTOMATIC, "patterns")
    policy.begin_episode(5)
    action = policy.decide(view_of(None, None, epoch=0, allowed=AUTOMATIC)).action
    assert (action.operation, action.slot, action.blueprint) == (LifecycleOp.GERMINATE, 0, Blueprint.CONV_LIGHT)
    assert (action.style, action.tempo, action.alpha_target) == (GerminationStyle.LINEAR_ADD, 0, 2)
    assert decision_of(policy, view_of(report(Stage.TRAINING), None, allowed=AUTOMATIC)) == ("WAIT", 0)
    unmeasured = report(Stage.HOLDING)
    assert decision_of(policy, view_of(unmeasured, None, allowed=AUTOMATIC)) == ("WAIT", 0)
    assert decision_of(policy, view_of(READY, None, allowed=AUTOMATIC)) == ("FOSSILIZE", 0)
    assert decision_of(policy, view_of(FOSSIL, None, allowed=AUTOMATIC)) == ("WAIT", 0)


def test_the_oracle_advances_seeds_if_gates_are_manual():
    policy = OraclePolicy(limits(1), "patterns")
    assert decision_of(policy, view_of(report(Stage.GERMINATED))) == ("ADVANCE", 0)
    assert decision_of(policy, view_of(report(Stage.BLENDING, alpha_mode=AlphaMode.UP))) == ("ADVANCE", 0)


def test_an_oracle_without_a_known_or_legal_optimum_is_refused():
    with pytest.raises(ValueError, match="no oracle for task 'digits': the optimum is known for patterns only"):
        OraclePolicy(limits(1), "digits")
    with pytest.raises(ValueError, match="the optimum of 'patterns' is conv_light in slot 0, which is not allowed"):
        OraclePolicy(limits(1, blueprints=frozenset({Blueprint.NORM})), "patterns")


@pytest.mark.slow
def test_the_oracle_nearly_solves_patterns_and_static_stays_near_chance():
    env = make_environment("patterns", {"episode_length": 30})
    for policy, low, high in ((OraclePolicy(env.limits, "patterns"), 90.0, 100.0), (StaticPolicy(), 15.0, 35.0)):
        episode = EpisodeRunner(env, policy).play(Assignment(0, 0, 2))
        assert low <= env.test_measurement().accuracy_pp <= high
        assert episode.fossilized == isinstance(policy, OraclePolicy)

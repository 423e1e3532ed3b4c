"""Rewards of live episodes under random legal policies, in every mode."""

import numpy as np
import pytest

from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy
from esper_ray.environment import make_environment
from esper_ray.leyline.actions import ARGUMENT_HEADS, HEADS_OF_OP, Action, LifecycleOp, head_sizes
from esper_ray.leyline.config.reward import REWARD_MODES

pytestmark = pytest.mark.integration

GAMMA = 0.995
AMPLIFIED = ("BLENDING", "HOLDING", "FOSSILIZED")
FAST = {
    "training.batch_size": 16,
    "episode_length": 25,
    "task.validation_size": 50,
    "training.steps_per_epoch": 1,
    "growth.min_training_epochs": 1,
    "growth.embargo_ticks": 1,
    "growth.min_gradient_health": 0.0,
}


MODES = {mode: {"reward.mode": mode} for mode in REWARD_MODES} | {
    "loss": {"reward.mode": "shaped", "reward.family": "loss"}
}
SHAPED = ("shaped", "simplified", "basic", "basic_plus", "escrow")


def random_legal(env, rng):
    """A legal action: WAIT with probability 0.3, otherwise uniform over the other legal operations."""
    masks = env.masks
    ops = [op for op in LifecycleOp if masks.op[op] and op is not LifecycleOp.WAIT]
    op = rng.choice(ops) if ops and rng.random() < 0.7 else LifecycleOp.WAIT
    choices = {"op": int(op), "slot": int(rng.choice(np.flatnonzero(masks.slot_by_op[op])))}
    choices |= {head: int(rng.choice(np.flatnonzero(masks.arguments[head]))) for head in ARGUMENT_HEADS}
    action = Action(**choices)
    assert masks.allows(action)
    return action


def play(env, seed, rng):
    """One episode: reports before the first step and after each, entries and rewards of each step.

    The other decisions are those of the heuristic, which commits seeds.
    """
    _, info = env.reset(seed=seed)
    heuristic = HeuristicPolicy(env.limits, HeuristicConfig(min_contribution_pp=-50.0))
    reports, entries, rewards, done = [info["reports"]], [], [], False
    while not done:
        action = random_legal(env, rng) if rng.random() < 0.3 else heuristic.decide(env.view).action
        _, reward, terminated, truncated, info = env.step(action.to_indices())
        done = terminated or truncated
        assert not info["illegal"]
        reports.append(info["reports"])
        entries.append(info["entries"])
        rewards.append(reward)
    assert not terminated
    return reports, entries, rewards


@pytest.fixture(scope="module")
def played():
    """Episodes by mode, with the same decisions in every mode."""
    episodes = {}
    for mode, settings in MODES.items():
        env = make_environment("digits", FAST | settings)
        episodes[mode] = [play(env, seed, np.random.default_rng(seed)) for seed in range(2)]
    return episodes


@pytest.fixture(params=list(MODES))
def mode(request):
    return request.param


@pytest.mark.nightly
def test_random_legal_policies_visit_every_stage(played):
    """Precondition of the tests below."""
    seen = {r.stage.name for reports, _, _ in played["basic"] for state in reports for r in state if r is not None}
    assert {"TRAINING", "BLENDING", "HOLDING", "FOSSILIZED", "EMBARGOED"} <= seen


def test_the_reward_mode_does_not_change_the_networks(played):
    reference, *others = played.values()
    for episodes in others:
        assert [reports for reports, _, _ in episodes] == [reports for reports, _, _ in reference]


@pytest.mark.parametrize("name", [*SHAPED, "loss"])
def test_shaping_telescopes_exactly_on_live_trajectories(played, name):
    """P32: Phi is 0 at both ends, so the discounted sum is 0 for any actions."""
    for _, entries, _ in played[name]:
        amounts = [
            GAMMA**t * entry.amount for t, booked in enumerate(entries) for entry in booked if entry.source == "shaping"
        ]
        assert max(map(abs, amounts)) > 0.1
        assert sum(amounts) == pytest.approx(0.0, abs=1e-9)


def test_every_entry_is_booked_at_its_step_with_an_earlier_or_equal_cause(played, mode):
    """P1, P60: amounts are finite and not zero, with an explanation, and sum to the reward."""
    for _, entries, rewards in played[mode]:
        for t, booked in enumerate(entries):
            assert sum(entry.amount for entry in booked) == pytest.approx(rewards[t], abs=1e-12)
            for entry in booked:
                assert entry.step == t
                assert 0 <= entry.cause_step <= t
                assert entry.amount != 0
                assert np.isfinite(entry.amount)
                assert entry.explanation


def test_every_slot_with_a_measured_harmful_seed_is_attributed(played):
    """For any operation, harm is booked at its slot in the same step."""
    harmed = 0
    for reports, entries, _ in played["shaped"]:
        for before, after, booked in zip(reports, reports[1:], entries, strict=False):
            slots = {entry.slot for entry in booked if entry.source == "attribution"}
            for old, new in zip(before, after, strict=True):
                if old and new and new.stage.name in AMPLIFIED and (new.measured.contribution_pp or 0.0) < 0:
                    assert new.slot_id in slots or new.alpha_target == 0.0
                    harmed += 1
    assert harmed > 5


def test_terminal_pay_is_booked_once_at_the_end(played, mode):
    for _, entries, _ in played[mode]:
        paying = [t for t, booked in enumerate(entries) for entry in booked if entry.source == "terminal"]
        assert paying in ([], [len(entries) - 1])


@pytest.mark.parametrize(
    "action",
    [
        Action(op=int(LifecycleOp.PRUNE), slot=2),
        Action(op=int(LifecycleOp.FOSSILIZE), slot=0),
        Action(op=int(LifecycleOp.GERMINATE), slot=0),
        Action(op=int(LifecycleOp.SET_ALPHA_TARGET), slot=0),
    ],
    ids=lambda action: action.operation.name,
)
def test_an_illegal_action_pays_like_waiting(action):
    """With a developing seed in r0c0 each action is illegal and earns the same as WAIT."""
    germinate = Action(op=int(LifecycleOp.GERMINATE), slot=0).to_indices()
    wait = Action(op=int(LifecycleOp.WAIT)).to_indices()
    results = []
    for second in (wait, action.to_indices()):
        env = make_environment("digits", {"episode_length": 3, "training.steps_per_epoch": 2})
        env.reset(seed=5)
        steps = [env.step(germinate), env.step(second), env.step(wait)]
        results.append([(reward, info["entries"], info["val_loss"]) for _, reward, _, _, info in steps])
        assert env.illegal_actions == (0 if second == wait else 1)
    assert results[0] == results[1]


def test_heads_that_an_operation_does_not_read_change_no_reward():
    rewards = []
    for fill in (0, -1):
        env = make_environment("digits", {"episode_length": 2, "training.steps_per_epoch": 2})
        env.reset(seed=8)
        sizes = head_sizes(3)
        unread = {head: 0 if fill == 0 else size - 1 for head, size in sizes.items()}
        choices = {"op": int(LifecycleOp.GERMINATE), "slot": 1, "blueprint": 3, "style": 0, "tempo": 1}
        choices["alpha_target"] = 2
        assert set(choices) == set(HEADS_OF_OP[LifecycleOp.GERMINATE])
        rewards.append([env.step(Action(**unread | choices).to_indices())[1], env.step([0] * 8)[1]])
    assert rewards[0] == rewards[1]

"""The accounts of whole live episodes under random legal policies."""

import numpy as np
import pytest

from esper_ray.environment import make_environment
from esper_ray.leyline.actions import ARGUMENT_HEADS, HEADS_OF_OP, Action, LifecycleOp, head_sizes

GAMMA = 0.995
STAGE_POTENTIAL = {"GERMINATED": 1.0, "TRAINING": 2.0, "BLENDING": 3.5, "HOLDING": 5.5, "FOSSILIZED": 6.0}
FAST = {
    "training.batch_size": 16,
    "episode_length": 20,
    "task.validation_size": 50,
    "training.steps_per_epoch": 1,
    "growth.min_training_epochs": 1,
    "growth.embargo_ticks": 1,
    "growth.min_gradient_health": 0.0,
}


def potential(reports):
    """Section 6.4, over all slots."""
    live = [report for report in reports if report is not None]
    return sum(STAGE_POTENTIAL.get(r.stage.name, 0.0) + min(0.3 * r.ticks_in_stage, 2.0) for r in live)


def random_legal(env, rng):
    """A legal action, its operation drawn uniformly from those that are legal, seldom WAIT."""
    masks = env.masks
    ops = [op for op in LifecycleOp if masks.op[op] and op is not LifecycleOp.WAIT]
    op = rng.choice(ops) if ops and rng.random() < 0.7 else LifecycleOp.WAIT
    choices = {"op": int(op), "slot": int(rng.choice(np.flatnonzero(masks.slot_by_op[op])))}
    choices |= {head: int(rng.choice(np.flatnonzero(masks.arguments[head]))) for head in ARGUMENT_HEADS}
    action = Action(**choices)
    assert masks.allows(action)
    return action


def play(env, seed, rng):
    """One episode: reports before the first step and after each, entries and rewards of each step."""
    _, info = env.reset(seed=seed)
    reports, entries, rewards, done = [info["reports"]], [], [], False
    while not done:
        _, reward, terminated, truncated, info = env.step(random_legal(env, rng).to_indices())
        done = terminated or truncated
        assert not info["illegal"]
        reports.append(info["reports"])
        entries.append(info["entries"])
        rewards.append(reward)
    assert not terminated
    return reports, entries, rewards


@pytest.fixture(scope="module")
def episodes():
    env = make_environment("digits", FAST)
    return [play(env, seed, np.random.default_rng(seed)) for seed in range(4)]


@pytest.mark.slow
def test_random_legal_policies_visit_every_stage(episodes):
    """Otherwise the tests below would say little."""
    seen = {r.stage.name for reports, _, _ in episodes for state in reports for r in state if r is not None}
    assert {"TRAINING", "BLENDING", "HOLDING", "EMBARGOED", "RESETTING"} <= seen


def test_shaping_telescopes_exactly_on_live_trajectories(episodes):
    assert any(potential(reports[-1]) > 0 for reports, _, _ in episodes)
    for reports, entries, _ in episodes:
        total = sum(
            GAMMA**t * entry.amount for t, booked in enumerate(entries) for entry in booked if entry.source == "shaping"
        )
        expected = 0.3 * (GAMMA ** len(entries) * potential(reports[-1]) - potential(reports[0]))
        assert total == pytest.approx(expected, abs=1e-9)


def test_every_live_entry_belongs_to_its_step_and_names_an_occupied_slot(episodes):
    for reports, entries, _ in episodes:
        for t, booked in enumerate(entries):
            occupied = {r.slot_id for r in (*reports[t], *reports[t + 1]) if r is not None}
            for entry in booked:
                assert (entry.step, entry.cause_step) == (t, t)
                assert entry.amount != 0
                assert (entry.slot in occupied) == (entry.source in ("shaping", "fossilise"))


def test_terminal_pay_comes_once_and_at_the_end(episodes):
    for _, entries, _ in episodes:
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
    """A seed develops in r0c0, so each of these is illegal; the twin that waits earns the same."""
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

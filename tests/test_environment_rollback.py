"""Rollbacks: the network is restored, the episode ends, and the causal step has the penalty."""

import math

import numpy as np
import pytest
import torch

from esper_ray.environment import make_environment
from esper_ray.leyline.actions import WAIT, Action, GerminationStyle, LifecycleOp
from esper_ray.leyline.observation import observation_names
from esper_ray.leyline.stages import Stage

pytestmark = pytest.mark.integration

TINY = {
    "episode_length": 8,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 50,
    "governor.snapshot_every": 1,
    "growth.min_training_epochs": 1,
    "growth.min_gradient_health": 0.0,
}
STAY = WAIT.to_indices()
GROW = Action(op=int(LifecycleOp.GERMINATE), slot=1, tempo=0, style=int(GerminationStyle.LINEAR_ADD)).to_indices()


def started(actions, seed=2, **overrides):
    """An environment after ``actions``."""
    env = make_environment("digits", TINY | overrides)
    env.reset(seed=seed)
    for action in actions:
        *_, info = env.step(action)
        assert info["success"]
        assert not info["illegal"]
    return env


def poison(env):
    with torch.no_grad():
        env.organism.model.host.head.weight.fill_(math.nan)


def tensors(env):
    """Weights, buffers and momentum."""
    state = {name: tensor.clone() for name, tensor in env.organism.model.state_dict().items()}
    for index, parameter in enumerate(env.organism.optimizer.parameters()):
        buffer = env.organism.optimizer.parameter_state(parameter).get("momentum_buffer")
        if buffer is not None:
            state[f"momentum {index}"] = buffer.clone()
    return state


def penalties(info):
    return [entry for entry in info["entries"] if entry.source == "rollback"]


def potential(reports):
    table = {"GERMINATED": 1.0, "TRAINING": 2.0, "BLENDING": 3.5, "HOLDING": 5.5, "FOSSILIZED": 6.0}
    live = [r for r in reports if r is not None]
    return sum(table.get(r.stage.name, 0.0) + min(0.3 * r.ticks_in_stage, 2.0) for r in live)


def test_nan_in_the_host_ends_the_episode_and_restores_the_network():
    env = started([STAY, GROW, STAY])
    good = tensors(env)
    poison(env)
    observation, reward, terminated, truncated, info = env.step(STAY)
    assert (terminated, truncated) == (True, False)
    restored = tensors(env)
    assert good.keys() == restored.keys()
    assert all(torch.equal(good[name], restored[name]) for name in good)
    assert all(torch.isfinite(tensor).all() for tensor in restored.values())
    assert env.observation_space.contains(observation)
    assert math.isfinite(info["val_loss"])
    assert math.isfinite(reward)
    (rollback,) = [event for event in info["events"] if event.kind == "rollback"]
    assert rollback.data["reason"] == "training loss is not finite"
    assert rollback.epoch == 3
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(STAY)


def test_the_penalty_reaches_the_last_intervention():
    env = started([STAY, GROW, STAY])
    poison(env)
    _, reward, *_, info = env.step(STAY)
    (penalty,) = penalties(info)
    assert (penalty.amount, penalty.step, penalty.cause_step, penalty.slot) == (-10.0, 3, 1, None)
    assert reward == pytest.approx(sum(entry.amount for entry in info["entries"]), abs=1e-12)
    other_seeds = [
        entry for entry in env.ledger.entries if entry.source not in ("rollback", "lost seed") and entry.cause_step == 1
    ]
    assert env.ledger.by_cause(4)[1] == pytest.approx(-10.0 + sum(entry.amount for entry in other_seeds), abs=1e-9)


@pytest.mark.parametrize(
    ("script", "window", "cause"),
    [
        ([STAY, STAY], 10, 2),  # no intervention: the step itself
        ([GROW, STAY, STAY], 2, 3),  # too long ago
        ([GROW, STAY, STAY], 3, 0),  # just inside the window
    ],
)
def test_without_a_recent_intervention_the_penalty_is_caused_by_its_own_step(script, window, cause):
    env = started(script, **{"governor.watch_window": window})
    poison(env)
    *_, info = env.step(STAY)
    assert [entry.cause_step for entry in penalties(info)] == [cause]


def test_an_intervention_in_the_same_step_is_the_cause():
    env = started([STAY, STAY])
    poison(env)
    *_, info = env.step(GROW)
    assert [entry.cause_step for entry in penalties(info)] == [2]
    assert env.reports == (None, None, None)  # the germination is undone with everything else


def test_an_illegal_action_is_no_intervention():
    env = started([GROW, STAY])
    env.step(GROW)  # the slot is taken
    assert env.illegal_actions == 1
    poison(env)
    *_, info = env.step(STAY)
    assert [entry.cause_step for entry in penalties(info)] == [0]


def test_the_penalty_is_the_configured_one():
    env = started([STAY], **{"governor.penalty": 2.5, "reward.mode": "sparse"})
    poison(env)
    _, reward, *_ = env.step(STAY)
    assert reward == -2.5


def test_without_a_fresh_snapshot_the_last_one_is_restored():
    """Snapshots every three healthy epochs: after five steps the one of step three is restored, seed and all."""
    env = started([STAY, GROW, STAY], **{"governor.snapshot_every": 3})
    good, reports = tensors(env), env.reports
    env.step(STAY)
    env.step(STAY)
    assert any(not torch.equal(good[name], tensor) for name, tensor in tensors(env).items() if name in good)
    poison(env)
    *_, info = env.step(STAY)
    restored = tensors(env)
    assert good.keys() == restored.keys()
    assert all(torch.equal(good[name], restored[name]) for name in good)
    assert info["reports"] == reports


def test_a_nonfinite_seed_causes_a_rollback_once_it_blends():
    env = started([GROW])
    for _ in range(6):
        if env.reports[1].stage is Stage.BLENDING:
            break
        env.step(STAY)
    assert env.reports[1].stage is Stage.BLENDING
    with torch.no_grad():
        env.organism.model.cell("r0c1").seed.scale.fill_(math.nan)
    _, _, terminated, _, info = env.step(STAY)
    assert terminated
    assert math.isfinite(info["val_loss"])
    assert torch.isfinite(env.organism.model.cell("r0c1").seed.scale).all()


def test_a_nonfinite_seed_in_training_has_no_effect_and_never_blends():
    """The gate fails at any threshold of gradient health."""
    env = started([GROW], **{"growth.min_training_epochs": 2})
    assert env.reports[1].stage is Stage.TRAINING
    with torch.no_grad():
        env.organism.model.cell("r0c1").seed.scale.fill_(math.nan)
    for _ in range(7):
        observation, reward, terminated, _, info = env.step(STAY)
        assert not terminated
        assert math.isfinite(reward)
        assert env.observation_space.contains(observation)
        assert env.reports[1].stage is Stage.TRAINING
        assert info["reports"][1].measured.finite is False


def test_an_action_undone_by_a_rollback_has_no_success():
    """Specification of the observation, number 16: 0 after a rollback."""
    env = started([STAY, STAY])
    poison(env)
    observation, *_, info = env.step(GROW)
    assert info["success"] is False
    assert observation["features"][observation_names([]).index("last_success")] == 0.0


def test_a_commitment_undone_by_a_rollback_is_not_paid():
    """The reward depends on the resulting state, in which the seed is not committed."""
    env = started([GROW], **{"episode_length": 40, "training.steps_per_epoch": 17, "training.batch_size": 32})
    commit = Action(op=int(LifecycleOp.FOSSILIZE), slot=1).to_indices()
    while env.reports[1].stage is not Stage.HOLDING or not env.reports[1].measured.contribution_pp > 0:
        env.step(STAY)
    poison(env)
    _, _, terminated, _, info = env.step(commit)
    assert terminated
    assert (info["operation"], info["illegal"]) == ("FOSSILIZE", False)
    assert info["reports"][1].stage is Stage.HOLDING
    assert "commitment" not in {entry.source for entry in info["entries"]}


def test_a_panic_in_the_last_step_terminates_and_pays_no_terminal_term():
    env = started([STAY] * 7)
    poison(env)
    _, _, terminated, truncated, info = env.step(STAY)
    assert (terminated, truncated) == (True, False)
    assert "terminal" not in {entry.source for entry in info["entries"]}


def test_shaping_telescopes_to_minus_the_first_potential_when_the_episode_terminates():
    env = make_environment("digits", TINY)
    _, info = env.reset(seed=2)
    first = potential(info["reports"])
    total = 0.0
    for t, action in enumerate([GROW, STAY, STAY, STAY]):
        if t == 3:
            assert potential(env.reports) > 0
            poison(env)
        *_, info = env.step(action)
        total += 0.995**t * sum(entry.amount for entry in info["entries"] if entry.source == "shaping")
    assert total == pytest.approx(-0.3 * first, abs=1e-9)


def test_a_new_episode_is_independent_of_the_rollback():
    env = started([GROW])
    poison(env)
    env.step(STAY)
    observation, _ = env.reset(seed=4)
    fresh, _ = make_environment("digits", TINY).reset(seed=4)
    assert all((observation[name] == fresh[name]).all() for name in fresh)
    _, reward, terminated, _, info = env.step(STAY)
    assert not terminated
    assert np.isfinite(reward)
    assert not penalties(info)
    assert env.ledger.total() == pytest.approx(reward)


@pytest.mark.parametrize("weight", [0.0, 50.0])
def test_the_penalty_is_independent_of_other_rewards_and_does_not_change_them(weight):
    """P53: fixed in its own unit; earlier rewards stay; the episode is terminated, not truncated."""
    env = started([GROW, STAY, STAY], **{"reward.pbrs_weight": weight})
    earned = env.ledger.entries
    poison(env)
    _, _, terminated, truncated, info = env.step(STAY)
    assert (terminated, truncated) == (True, False)
    assert [entry.amount for entry in penalties(info)] == [-10.0]
    assert env.ledger.entries[: len(earned)] == earned
    assert any(entry.source == "shaping" for entry in earned) == (weight > 0)

"""No-growth baseline of a host, and rewards against it."""

import pytest
from variants import rest_at_night

from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy
from esper_ray.environment import make_environment
from esper_ray.leyline.actions import WAIT, Action, LifecycleOp

pytestmark = pytest.mark.integration

SMALL = {
    "reward.mode": "settlement",
    "episode_length": 12,
    "training.steps_per_epoch": 2,
    "growth.min_training_epochs": 1,
    "growth.min_gradient_health": 0.0,
}


@pytest.fixture(scope="module")
def env():
    return make_environment("digits", SMALL)


def idle(env, seed):
    env.reset(seed=seed)
    accuracies = [env.measured.accuracy_pp]
    rewards, done = [], False
    while not done:
        _, reward, terminated, truncated, _ = env.step(WAIT.to_indices())
        done = terminated or truncated
        rewards.append(reward)
        accuracies.append(env.measured.accuracy_pp)
    return tuple(accuracies), rewards


def test_the_control_is_the_same_host_on_the_same_data_without_growth(env):
    accuracies, _ = idle(env, 5)
    assert env.progress.rewards.control_pp == accuracies
    assert len(set(accuracies)) > 1


def test_an_episode_of_wait_has_reward_zero(env):
    _, rewards = idle(env, 6)
    assert rewards == [0.0] * 12
    assert env.ledger.entries == ()


def test_the_curve_is_computed_once_and_frozen(env, monkeypatch):
    first, _ = idle(env, 7)
    curves = env._controls
    monkeypatch.setattr(curves, "_compute", lambda seed: pytest.fail("computed again"))
    idle(env, 7)
    assert env.progress.rewards.control_pp == first


def test_the_number_of_cached_curves_is_limited(env, monkeypatch):
    monkeypatch.setattr("esper_ray.runtime.control.MAX_CACHED_CURVES", 2)
    curves = make_environment("digits", SMALL | {"episode_length": 1})._controls
    cached = [curves.curve(seed) for seed in (1, 2, 3)]
    assert list(curves._curves) == [2, 3]
    assert curves.curve(1) == cached[0]


def test_modes_other_than_settlement_compute_no_control():
    env = make_environment("digits", SMALL | {"reward.mode": "basic"})
    env.reset(seed=5)
    assert env.progress.rewards.control_pp == ()


def test_growth_that_never_changes_the_network_has_reward_zero(env):
    """With an incubating seed, host and control stay bit-equal."""
    env = make_environment("digits", SMALL | {"growth.auto_forward": ["g1"]})
    env.reset(seed=8)
    germinate = Action(op=int(LifecycleOp.GERMINATE), slot=1).to_indices()
    rewards = [env.step(germinate)[1], *(env.step(WAIT.to_indices())[1] for _ in range(3))]
    assert env.reports[1].stage.name == "TRAINING"
    assert rewards == [0.0] * 4


FIVE = {"growth.slots": ["r0c0", "r0c1", "r0c2", "r1c0", "r1c1"]}


def grown(env, seed):
    """An episode in which every seed is committed."""
    _, info = env.reset(seed=seed)
    heuristic, done = HeuristicPolicy(env.limits, HeuristicConfig(min_contribution_pp=-50.0)), False
    while not done:
        *_, terminated, truncated, info = env.step(heuristic.decide(env.view).action.to_indices())
        done = terminated or truncated
    return info


@pytest.mark.parametrize("settings", rest_at_night([FIVE | {"measurement.every": 4}, {}, {"measurement.every": 3}]))
def test_an_episode_earns_committed_accuracy_minus_control_minus_price(settings):
    """For any measurement interval and number of seeds."""
    steady = {"reward.settlement.window_epochs": 1, "task.validation_size": 60}
    env = make_environment("digits", SMALL | steady | settings | {"episode_length": 30})
    config, committed = env.config.reward, 0
    for seed in range(4):
        info = grown(env, seed)
        returns = [
            account for account in env.progress.rewards.accounts.slots.values() if account.committed_step is not None
        ]
        if all(account.vested == 1.0 for account in returns):
            committed += len(returns)
            value = (info["committed_accuracy_pp"] - env.progress.rewards.control_pp[-1]) / 100
            price = config.param_penalty_weight * info["committed_parameters"] / config.param_budget
            assert env.ledger.total() == pytest.approx(10 * (value - price), abs=1e-9)
    assert committed > 0

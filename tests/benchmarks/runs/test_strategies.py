"""Scripted strategies, and the statistics of their table."""

import numpy as np
import pytest

from benchmarks.runs import strategies
from benchmarks.runs.scripted import STRATEGIES, decision
from esper_ray.environment import make_environment
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import REWARD_MODES

pytestmark = pytest.mark.integration

QUICK = {
    "episode_length": 24,
    "training.steps_per_epoch": 3,
    "task.validation_size": 100,
    "growth.min_training_epochs": 2,
    "growth.min_gradient_health": 0.0,
}
OPS = {
    "idle": set(),
    "churn": {"GERMINATE", "PRUNE"},
    "rush": {"GERMINATE", "FOSSILIZE"},
    "turntable": {"GERMINATE", "PRUNE"},
    "hold-for-ever": {"GERMINATE"},
    "fossilize-everything": {"GERMINATE", "FOSSILIZE"},
}


@pytest.fixture(scope="module")
def env():
    return make_environment("digits", QUICK)


def played_operations(env, name):
    """Executed operations of an episode."""
    env.reset(seed=4)
    done, operations = False, []
    while not done:
        action = decision(STRATEGIES[name], env.view, env.limits)
        assert env.masks.allows(action)
        *_, terminated, truncated, _ = env.step(action.to_indices())
        operations.append(action.operation)
        done = terminated or truncated
    return operations


@pytest.mark.parametrize("name", OPS)
def test_a_strategy_executes_the_operations_of_its_name(env, name):
    operations = played_operations(env, name)
    assert {op.name for op in operations} - {"WAIT"} == OPS[name]
    if "PRUNE" in OPS[name]:
        assert operations.count(LifecycleOp.PRUNE) >= 2


@pytest.mark.parametrize("name", ["ransomware", "cheapest-blueprint", "do-right"])
def test_every_strategy_plays_to_the_end(env, name):
    operations = played_operations(env, name)
    assert len(operations) == 24
    assert LifecycleOp.GERMINATE in operations


@pytest.mark.nightly
def test_recomputed_returns_equal_those_of_an_episode_played_in_the_mode():
    env = make_environment("digits", QUICK | {"reward.mode": "settlement"})
    transitions = strategies.play(env, "fossilize-everything", 3)
    returns = {mode: strategies.ledger_in_mode(env.config, mode, env, transitions).total() for mode in REWARD_MODES}
    for mode in REWARD_MODES:
        env_of_mode = make_environment("digits", QUICK | {"reward.mode": mode})
        strategies.play(env_of_mode, "fossilize-everything", 3)
        assert env_of_mode.ledger.total() == returns[mode]
    assert len(set(returns.values())) >= 5


RETURNS = {"idle": np.zeros(4), "rush": np.array([1.0, 2, 3, 4]), "do-right": np.array([2.0, 3, 4, 5])}


def test_the_margin_is_paired_by_episode():
    rival, ahead = strategies.margin(RETURNS)
    assert (rival, ahead.mean, ahead.low, ahead.high) == ("rush", 1.0, 1.0, 1.0)
    assert strategies.winner(RETURNS) == "do-right"


def test_an_interval_contains_the_mean_and_narrows_with_more_episodes():
    few, many = strategies.interval(np.array([0.0, 1.0] * 5)), strategies.interval(np.array([0.0, 1.0] * 50))
    assert few.low < few.mean == 0.5 < few.high
    assert many.high - many.low < few.high - few.low
    assert few.low == pytest.approx(0.2, abs=0.05)


def test_the_table_marks_the_highest_return(monkeypatch, tmp_path):
    monkeypatch.setattr(strategies, "STRATEGIES", dict.fromkeys(RETURNS))
    results = {"digits": {"shaped": RETURNS, "settlement": RETURNS}}
    text = strategies.markdown(results, 4)
    assert "| do-right | **3.50 ± " in text
    assert "| rush | 2.50 ± " in text
    assert "do-right is ahead of rush by 1.00 [1.00, 1.00]" in text
    strategies.draw(results, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 10_000


@pytest.mark.parametrize("seeds", ["1", "many"])
def test_too_few_episodes_are_refused(seeds, capsys):
    with pytest.raises(SystemExit) as exit_info:
        strategies.main(["--seeds", seeds])
    assert exit_info.value.code == 2
    assert "--seeds" in capsys.readouterr().err

"""Does it learn? The real learner and the real policy on problems whose optimum is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_problems import Bandit, Lifecycle, Rules, greedy_policy, mean_total, optimum, toy_config, train

from esper_actors.training.ppo_learner import PPOLearner
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.leyline.actions import HEADS_OF_OP, Action, Blueprint, LifecycleOp
from esper_ray.leyline.legality import legality

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FRESH = 10**6
"""Seeds from here on belong to problems that nobody has trained on."""
EVERYTHING = frozenset(Blueprint) - {Blueprint.NOOP}
GROWTH = Rules()
SPARSE = Rules(steps=40, slots=1, blueprints=EVERYTHING, window=(0, 40), wrong=-0.2, late=0.005)
"""One slot and twelve blueprints, one of them right. Committing any other costs, so that growing looks bad at first."""


def bandits(count, slots=3):
    return [Bandit(FRESH + i, slots) for i in range(count)]


def lifecycles(count, rules):
    return [Lifecycle(FRESH + i, rules) for i in range(count)]


@pytest.fixture(scope="module")
def bandit_player():
    """A policy trained on three slots, and what it was worth before."""
    learner = PPOLearner(toy_config(ppo__rounds=96, ppo__minibatch_episodes=64, ppo__lr=1e-3))
    before = mean_total(greedy_policy(learner), bandits(60))
    train(learner, Bandit, episodes=256)
    return before, learner


@pytest.fixture(scope="module")
def grower():
    """A policy trained on the lifecycle of three slots, and what it was worth before."""
    settings = {"policy__wait_logit": 0.0, "ppo__entropy_start": 0.01, "ppo__entropy_end": 0.001}
    learner = PPOLearner(toy_config(ppo__rounds=28, **settings))
    before = mean_total(greedy_policy(learner), lifecycles(20, GROWTH))
    train(learner, lambda seed: Lifecycle(seed, GROWTH), episodes=64)
    return before, learner


def test_operation_slot_and_blueprint_of_a_contextual_bandit_are_learnt(bandit_player):
    before, learner = bandit_player
    assert before < 0.5 * Bandit.OPTIMUM
    assert mean_total(greedy_policy(learner), bandits(200)) >= 0.95 * Bandit.OPTIMUM


@pytest.mark.parametrize("slots", [5, 8])
def test_what_was_learnt_on_three_slots_of_a_bandit_serves_more(bandit_player, slots):
    assert mean_total(greedy_policy(bandit_player[1]), bandits(100, slots)) >= 0.95 * Bandit.OPTIMUM


def test_the_optimum_of_the_lifecycle_by_hand():
    """Born in epoch 3, advanced in 4, 6 and 8, committed in 9: 1 - 9 * 0.02 - 0.01 for the birth."""
    assert optimum(GROWTH) == pytest.approx(0.81)
    toy, paid = Lifecycle(FRESH, GROWTH), []
    plan = {3: LifecycleOp.GERMINATE, 9: LifecycleOp.FOSSILIZE} | dict.fromkeys((4, 6, 8), LifecycleOp.ADVANCE)
    for epoch in range(GROWTH.steps):
        action = Action(plan.get(epoch, LifecycleOp.WAIT), slot=toy.slot, blueprint=GROWTH.right)
        assert toy.view().masks.allows(action)
        paid.append(toy.step(action))
    assert sum(paid) == pytest.approx(0.81)
    assert paid[3] == GROWTH.birth


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (replace(GROWTH, window=(9, 12)), 0.69),  # 1 - 15 * 0.02 - 0.01: the last epoch is the sixteenth
        (replace(GROWTH, window=(13, 14)), 0.0),  # not even half in time: two thirds of the prize would be lost
        (replace(GROWTH, steps=6), 0.0),  # too short for any seed
        (SPARSE, 0.96),  # 1 - 6 * 0.005 - 0.01
    ],
)
def test_the_optimum_of_other_lifecycles_by_hand(rules, expected):
    assert optimum(rules) == pytest.approx(expected)


def test_a_lifecycle_is_learnt_from_birth_to_commitment(grower):
    before, learner = grower
    best = optimum(GROWTH)
    assert before < 0.25 * best
    assert mean_total(greedy_policy(learner), lifecycles(50, GROWTH)) >= 0.95 * best


def test_what_was_learnt_on_three_slots_of_a_lifecycle_serves_five(grower):
    rules = replace(GROWTH, slots=5)
    toys = lifecycles(50, rules)
    assert {toy.slot for toy in toys} == {0, 1, 2, 3, 4}
    assert mean_total(greedy_policy(grower[1]), toys) >= 0.95 * optimum(rules)


def chance_of_the_right_blueprint(learner):
    """Probability of it in the state in which seeds are born, without exploration."""
    view = Lifecycle(FRESH, SPARSE).view()
    policy = LearnedPolicy(learner.config.policy)
    policy.load(learner.weights(), 0.0)
    with torch.inference_mode():
        _, distribution = policy._evaluate(view)
        return float(distribution.arguments["blueprint"][0, 0, 0, SPARSE.right].exp())


def test_a_rarely_read_head_learns_behind_an_initially_bad_operation():
    """Lesson L9: the operation collapses to WAIT before the blueprint has learnt, and then it never does."""
    assert (1.0 + 11 * SPARSE.wrong) / 12 < 0  # what a commitment earns while blueprints are chosen blindly
    learner = PPOLearner(toy_config(ppo__rounds=18, ppo__epsilon_fraction=0.6))
    untrained = chance_of_the_right_blueprint(learner)
    reads, returns = [], []

    def watch(episodes, report):
        operations = np.concatenate([episode.trajectory.actions[:, 0] for episode in episodes])
        reads.append(np.isin(operations, [op for op, heads in HEADS_OF_OP.items() if "blueprint" in heads]))
        returns.append(np.mean([episode.total_reward for episode in episodes]))

    train(learner, lambda seed: Lifecycle(seed, SPARSE), episodes=32, watch=watch)
    assert untrained < 0.15
    assert returns[0] < 0.1 * optimum(SPARSE)
    assert np.concatenate(reads).mean() < 0.05
    assert chance_of_the_right_blueprint(learner) > 0.9
    assert mean_total(greedy_policy(learner), lifecycles(10, SPARSE)) >= 0.95 * optimum(SPARSE)


def test_masks_of_the_lifecycle_are_those_of_the_legality_rules():
    toy = Lifecycle(FRESH, GROWTH)
    assert toy.view().masks.slot_by_op[LifecycleOp.GERMINATE].all()
    toy.step(Action(LifecycleOp.GERMINATE, slot=1, blueprint=Blueprint.NORM))
    view = toy.view()
    real = tuple(report if index == 1 else None for index, report in enumerate(view.reports))
    assert (view.masks.slot_by_op == legality(real, toy._limits).slot_by_op).all()
    assert view.masks.slot_by_op[:, 1].tolist() == [True, False, False, False, False, True]

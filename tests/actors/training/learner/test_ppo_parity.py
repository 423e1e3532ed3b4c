"""Losses of an update against a second implementation: plain loops in double precision.

It uses none of the mathematics under test. The network gives scores and Q values for one unpadded episode at a time;
the loops compute the rest from the definitions, one step at a time.
"""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from learner_builders import changed, drawn, small_config, synthetic, with_returns

from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.ppo import PPOLearner
from esper_policies.distribution import ActionDistribution, ActionLogits, MaskTensors
from esper_ray.leyline.legality import Masks

pytestmark = pytest.mark.integration

GAMMA, LAM, CLIP, EPSILON, ENTROPY, VALUE = 0.9, 0.8, 0.2, 0.1, 0.03, 0.7
MEAN, SPREAD = -0.75, 2.5
"""Of returns before the round."""
SLOTS = 2
LENGTHS = (7, 4, 1, 5)
BOOTSTRAPS = (0.0, 0.5, -1.25, 2.0)
"""The first episode is terminated, the others are truncated."""
ARGUMENTS = (("blueprint", 13), ("style", 4), ("tempo", 3), ("alpha_target", 3), ("alpha_speed", 4), ("alpha_curve", 5))
READERS = {
    "blueprint": (1,),
    "style": (1, 2),
    "tempo": (1,),
    "alpha_target": (1, 2),
    "alpha_speed": (2, 3),
    "alpha_curve": (2, 3),
}
"""Operations that read each argument head, in the order of the network's tables."""


def mixed_softmax(scores, legal, epsilon):
    """Probabilities: softmax over the legal choices, a share of it replaced by a uniform one. None if none is legal."""
    if not any(legal):
        return None
    top = max(s for s, ok in zip(scores, legal, strict=True) if ok)
    weights = [math.exp(s - top) if ok else 0.0 for s, ok in zip(scores, legal, strict=True)]
    uniform = epsilon / sum(legal)
    return [(1 - epsilon) * w / sum(weights) + uniform * ok for w, ok in zip(weights, legal, strict=True)]


def shannon_entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0.0)


class Step:
    """The distribution of one step as nested lists: operations, slots by operation, arguments by operation and slot."""

    def __init__(self, tables, mask, epsilon):
        flags = [bool(flag) for flag in mask]
        by_op = [flags[op * SLOTS : (op + 1) * SLOTS] for op in range(6)]
        self.choices = sum(any(row) for row in by_op)
        self.op = mixed_softmax(tables["op"], [any(row) for row in by_op], epsilon)
        self.slot = [mixed_softmax(tables["slot"][op], by_op[op], epsilon) for op in range(6)]
        self.arguments = {}
        start = 6 * SLOTS
        for head, size in ARGUMENTS:
            legal, start = flags[start : start + size], start + size
            for index, op in enumerate(READERS[head]):
                for slot in range(SLOTS):
                    scores = tables[head][index][slot]
                    self.arguments[head, op, slot] = mixed_softmax(scores, legal, epsilon)

    def log_probs(self, action):
        op, slot = int(action[0]), int(action[1])
        rest = 0.0
        if op != 0:
            rest += math.log(self.slot[op][slot])
            for index, (head, _) in enumerate(ARGUMENTS):
                if op in READERS[head]:
                    rest += math.log(self.arguments[head, op, slot][action[2 + index]])
        return math.log(self.op[op]), rest

    def entropy(self):
        total = shannon_entropy(self.op)
        for op in range(1, 6):
            if self.op[op] == 0.0:
                continue
            total += self.op[op] * shannon_entropy(self.slot[op])
            for slot in range(SLOTS):
                mass = self.op[op] * self.slot[op][slot]
                read = [head for head, _ in ARGUMENTS if op in READERS[head]]
                total += mass * sum(shannon_entropy(self.arguments[head, op, slot]) for head in read)
        return total


def loop_steps(learner, trajectory, epsilon):
    """Distributions and Q values of an episode; the scores come from the network in double precision."""
    network = copy.deepcopy(learner.network).double()
    with torch.no_grad():
        output = network(
            torch.from_numpy(trajectory.features)[None].double(),
            torch.from_numpy(trajectory.blueprints)[None],
            torch.from_numpy(trajectory.context)[None].double(),
        )
    tables = {"op": output.logits.op, "slot": output.logits.slot} | output.logits.arguments
    rows = [{name: table[t].tolist() for name, table in tables.items()} for t in range(len(trajectory))]
    steps = [Step(row, mask, epsilon) for row, mask in zip(rows, trajectory.masks, strict=True)]
    return steps, output.q.tolist()


def returns_by_hand(trajectory):
    """Sums over all later steps, each with its own weight: the definition, in quadratic time."""
    length = len(trajectory)
    values = [*map(float, trajectory.values), trajectory.bootstrap]
    deltas = [float(trajectory.rewards[t]) + GAMMA * values[t + 1] - values[t] for t in range(length)]
    advantages_by_episode = [sum((GAMMA * LAM) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
    return advantages_by_episode, [a + v for a, v in zip(advantages_by_episode, values, strict=False)]


def standardised_by_hand(rows, weights):
    valid_numbers = [x for row, flags in zip(rows, weights, strict=True) for x, w in zip(row, flags, strict=True) if w]
    mean = sum(valid_numbers) / len(valid_numbers)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in valid_numbers) / len(valid_numbers))
    return [
        [(x - mean) / max(deviation, 0.01 * SPREAD) if w else 0.0 for x, w in zip(row, flags, strict=True)]
        for row, flags in zip(rows, weights, strict=True)
    ]


def weights_by_hand(learner, episodes):
    """Where there was a choice of operations, and where the operation was not WAIT."""
    choice_mask = [[step.choices > 1 for step in loop_steps(learner, e.trajectory, 0.0)[0]] for e in episodes]
    return choice_mask, [[action[0] != 0 for action in e.trajectory.actions] for e in episodes]


def targets_by_hand(learner, episodes):
    choice_mask, argument_mask = weights_by_hand(learner, episodes)
    advantages_by_episode, returns, arguments = [], [], []
    for episode in episodes:
        advantages, episode_returns = returns_by_hand(episode.trajectory)
        advantages_by_episode.append(advantages)
        returns.append(episode_returns)
        arguments.append([g - float(q) for g, q in zip(episode_returns, episode.trajectory.q_taken, strict=True)])
    return (
        standardised_by_hand(advantages_by_episode, choice_mask),
        standardised_by_hand(arguments, argument_mask),
        returns,
    )


def surrogate(log_ratio, advantage):
    ratio = math.exp(log_ratio)
    return min(ratio * advantage, min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage)


def losses_by_hand(learner, episodes):
    """Every term of the loss, and the loss."""
    op_advantages, argument_advantages, returns = targets_by_hand(learner, episodes)
    choice_mask, argument_mask = weights_by_hand(learner, episodes)
    mean, scale = float(learner.network.value_mean), float(learner.network.value_scale)
    policy = value = entropy = kl = 0.0
    ratios: list[float] = []
    valid_mask = 0
    for e, episode in enumerate(episodes):
        trajectory = episode.trajectory
        steps, q = loop_steps(learner, trajectory, EPSILON)
        for t, step in enumerate(steps):
            action = trajectory.actions[t]
            op, rest = step.log_probs(action)
            ratio_op, ratio_rest = op - float(trajectory.log_prob_op[t]), rest - float(trajectory.log_prob_arguments[t])
            log_ratio = ratio_op + ratio_rest
            if choice_mask[e][t]:
                ratios.append(math.exp(log_ratio))
                policy -= surrogate(ratio_op, op_advantages[e][t])
                entropy += step.entropy()
            if argument_mask[e][t]:
                policy -= surrogate(ratio_rest, argument_advantages[e][t])
            valid_mask += 1
            value += 0.5 * (q[t][action[0]] - (returns[e][t] - mean) / scale) ** 2
            kl += math.exp(log_ratio) - 1 - log_ratio
    choices = len(ratios)
    terms = {"policy_loss": policy / choices, "value_loss": value / valid_mask, "entropy": entropy / choices}
    total = terms["policy_loss"] + VALUE * terms["value_loss"] - ENTROPY * terms["entropy"]
    up, down = (sum(ratio > 1 + CLIP for ratio in ratios), sum(ratio < 1 - CLIP for ratio in ratios))
    shares = {"clip_share": up + down, "clip_share_up": up, "clip_share_down": down}
    shares = {name: count / choices for name, count in shares.items()}
    return terms | shares | {"kl": kl / valid_mask, "ratio_max": max(ratios)}, total


def holed_masks(rng):
    """WAIT and some other operations on some slots, or WAIT alone; at least one choice in every argument head."""
    by_op = rng.random((6, SLOTS)) < (0.0 if rng.random() < 0.2 else 0.6)
    by_op[0] = True
    arguments = {}
    for head, size in ARGUMENTS:
        arguments[head] = rng.random(size) < 0.6
        arguments[head][rng.integers(size)] = True
    return Masks(by_op, arguments).vector()


def ragged_round(learner, seed=0):
    """Episodes of four lengths with masks that change from step to step, drawn from the learner's policy."""
    rng = np.random.default_rng(seed)
    episodes = []
    for index, (length, bootstrap) in enumerate(zip(LENGTHS, BOOTSTRAPS, strict=True)):
        draft = synthetic(length, rng.normal(size=length).astype(np.float32), seed=100 * seed + index, slots=SLOTS)
        draft = changed(draft, masks=np.stack([holed_masks(rng) for _ in range(length)]))
        episodes.append(changed(drawn(learner, draft, index), bootstrap=bootstrap, terminated=bootstrap == 0.0))
    return episodes


def parity_learner(seed=3):
    """A learner with choices far from uniform, whose values have another mean and unit than rewards."""
    settings = {
        "policy__prune_logit": 0.0,
        "ppo__gae_lambda": LAM,
        "ppo__clip": CLIP,
        "ppo__value_coefficient": VALUE,
        "ppo__target_kl": 1e9,
    }
    learner = PPOLearner(small_config(seed=seed, gamma=GAMMA, ppo__lr=3e-3, **settings))
    with torch.no_grad():
        for layer, _ in learner.network._final_layers():
            layer.weight.mul_(40.0)
    return with_returns(learner, MEAN, SPREAD)


def double(batch):
    """The batch in double precision, because float32 rounds to one part in a million."""
    names = ("features", "log_prob_op", "log_prob_arguments", "values", "q_taken", "rewards", "bootstrap", "valid_mask")
    precise = {name: getattr(batch, name).double() for name in (*names, "choice_mask", "argument_mask")}
    return replace(batch, **precise)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_returns_and_both_advantages_equal_their_definitions(seed):
    learner = parity_learner()
    episodes = ragged_round(learner, seed)
    targets = learner._targets(double(padded_batch(episodes, learner.device)))
    actual = (targets.op, targets.arguments, targets.returns)
    for index, (expected, tensor) in enumerate(zip(targets_by_hand(learner, episodes), actual, strict=True)):
        for e, row in enumerate(expected):
            assert tensor[e, : len(row)].tolist() == pytest.approx(row, rel=1e-6, abs=1e-9)
            assert index == 2 or (tensor[e, len(row) :] == 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("updates", [0, 1, 4])
def test_every_term_of_the_loss_equals_the_plain_loops(seed, updates):
    """After some updates the policy differs from the behaviour policy and ratios leave the clip range."""
    learner = parity_learner()
    episodes = ragged_round(learner, seed)
    for index in range(updates):
        learner.update(episodes, index)
    expected, total = losses_by_hand(learner, episodes)
    learner.network.double()
    batch = double(padded_batch(episodes, learner.device))
    losses = learner._losses(batch, learner._targets(batch), EPSILON, ENTROPY)
    actual, loss = losses.report, losses.policy + losses.value
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert loss.item() == pytest.approx(total, rel=1e-6, abs=1e-9)
    assert expected["kl"] > 1e-4
    if updates == 1:
        assert expected["clip_share"] > 0.1


def test_the_rounds_of_these_tests_contain_every_kind_of_step():
    """Forced and free steps, all operations, padding, terminated and truncated episodes."""
    learner = parity_learner()
    episodes = [episode for seed in range(3) for episode in ragged_round(learner, seed)]
    batch = padded_batch(episodes, learner.device)
    assert batch.choice_mask.sum() < batch.valid_mask.sum() < batch.valid_mask.numel()
    assert 0 < batch.argument_mask.sum() < batch.choice_mask.sum()
    operations_taken = batch.actions[..., 0][batch.valid_mask > 0]
    assert set(operations_taken.tolist()) == {0, 1, 2, 3, 4, 5}
    assert (batch.bootstrap == 0).any()
    assert (batch.bootstrap != 0).any()


@pytest.mark.parametrize("greedy", [False, True])
def test_log_probabilities_of_one_row_equal_those_of_the_full_tables(greedy):
    """Acting computes only the rows of the tables that it needs; the learner computes all, for many states at once."""
    learner = parity_learner()
    batch = padded_batch(ragged_round(learner), learner.device)
    vectors, operations = batch.masks.flatten(0, 1), set()
    with torch.no_grad():
        untrained = learner.network(batch.features, batch.blueprints, batch.context).logits
        noise = 3.0 * torch.randn(untrained.op.shape, generator=torch.Generator().manual_seed(0))
        logits = ActionLogits(untrained.op + noise, untrained.slot, untrained.arguments)
        full_tables = ActionDistribution(logits, MaskTensors.from_vectors(vectors, SLOTS), EPSILON)
        for row in range(len(vectors)):
            one_row = slice(row, row + 1)
            tables = {head: scores[one_row] for head, scores in logits.arguments.items()}
            masks = MaskTensors.from_vectors(vectors[one_row], SLOTS)
            single_row = ActionDistribution(
                ActionLogits(logits.op[one_row], logits.slot[one_row], tables), masks, EPSILON
            )
            choice = single_row.mode() if greedy else single_row.sample(torch.Generator().manual_seed(row))
            assert not greedy or torch.equal(choice.actions, full_tables.mode().actions[one_row])
            log_probabilities = full_tables.log_probs(choice.actions.expand(len(vectors), -1))
            for actual, expected in zip(
                (choice.log_prob_op, choice.log_prob_arguments), log_probabilities, strict=True
            ):
                torch.testing.assert_close(actual, expected[one_row])
            operations.add(int(choice.actions[0, 0]))
    assert len(operations) >= (2 if greedy else 4)

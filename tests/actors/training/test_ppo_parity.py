"""The losses of an update against a second implementation, written by hand: plain loops over double numbers.

Nothing of the mathematics under test is used here. The network is asked for its scores and its Q values, one unpadded
episode at a time; all that follows from them is computed again, one step at a time, from the definitions.
"""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from learner_builders import changed, drawn, small_config, synthetic

from esper_actors.training.ppo_learner import PPOLearner, padded_batch
from esper_policies.distribution import ActionDistribution, ActionLogits, MaskTensors
from esper_ray.leyline.legality import Masks

GAMMA, LAM, CLIP, EPSILON, ENTROPY, VALUE = 0.9, 0.8, 0.2, 0.1, 0.03, 0.7
SLOTS = 2
LENGTHS = (7, 4, 1, 5)
BOOTSTRAPS = (0.0, 0.5, -1.25, 2.0)
"""The first episode terminated, the others were cut off."""
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


def entropy_of(probabilities):
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
            for place, op in enumerate(READERS[head]):
                for slot in range(SLOTS):
                    scores = tables[head][place][slot]
                    self.arguments[head, op, slot] = mixed_softmax(scores, legal, epsilon)

    def log_probs(self, action):
        op, slot = int(action[0]), int(action[1])
        rest = 0.0
        if op != 0:
            rest += math.log(self.slot[op][slot])
            for place, (head, _) in enumerate(ARGUMENTS):
                if op in READERS[head]:
                    rest += math.log(self.arguments[head, op, slot][action[2 + place]])
        return math.log(self.op[op]), rest

    def entropy(self):
        total = entropy_of(self.op)
        for op in range(1, 6):
            if self.op[op] == 0.0:
                continue
            total += self.op[op] * entropy_of(self.slot[op])
            for slot in range(SLOTS):
                mass = self.op[op] * self.slot[op][slot]
                read = [head for head, _ in ARGUMENTS if op in READERS[head]]
                total += mass * sum(entropy_of(self.arguments[head, op, slot]) for head in read)
        return total


def steps_of(learner, trajectory, epsilon):
    """Distributions and Q values of an episode; the scores come from the network in double precision."""
    network = copy.deepcopy(learner.network).double()
    with torch.no_grad():
        output = network(
            torch.from_numpy(trajectory.features)[None].double(), torch.from_numpy(trajectory.blueprints)[None]
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
    raw = [sum((GAMMA * LAM) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
    return raw, [a + v for a, v in zip(raw, values, strict=False)]


def standardised_by_hand(rows, weights):
    counted = [x for row, flags in zip(rows, weights, strict=True) for x, w in zip(row, flags, strict=True) if w]
    mean = sum(counted) / len(counted)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in counted) / len(counted))
    return [
        [(x - mean) / max(deviation, 0.1) if w else 0.0 for x, w in zip(row, flags, strict=True)]
        for row, flags in zip(rows, weights, strict=True)
    ]


def weights_by_hand(learner, episodes):
    """Where there was a choice of operations, and where the operation was not WAIT."""
    choice_mask = [[step.choices > 1 for step in steps_of(learner, e.trajectory, 0.0)[0]] for e in episodes]
    return choice_mask, [[action[0] != 0 for action in e.trajectory.actions] for e in episodes]


def targets_by_hand(learner, episodes):
    choice_mask, argument_mask = weights_by_hand(learner, episodes)
    raw, returns, arguments = [], [], []
    for episode in episodes:
        advantages, goals = returns_by_hand(episode.trajectory)
        raw.append(advantages)
        returns.append(goals)
        arguments.append([g - float(q) for g, q in zip(goals, episode.trajectory.q_taken, strict=True)])
    return standardised_by_hand(raw, choice_mask), standardised_by_hand(arguments, argument_mask), returns


def surrogate(log_ratio, advantage):
    ratio = math.exp(log_ratio)
    return min(ratio * advantage, min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage)


def losses_by_hand(learner, episodes):
    """Every term of the loss, and the loss."""
    op_advantages, argument_advantages, returns = targets_by_hand(learner, episodes)
    choice_mask, argument_mask = weights_by_hand(learner, episodes)
    scale = float(learner.network.value_scale)
    policy = value = entropy = kl = clipped = 0.0
    choices = valid_mask = 0
    for e, episode in enumerate(episodes):
        trajectory = episode.trajectory
        steps, q = steps_of(learner, trajectory, EPSILON)
        for t, step in enumerate(steps):
            action = trajectory.actions[t]
            op, rest = step.log_probs(action)
            ratio_op, ratio_rest = op - float(trajectory.log_prob_op[t]), rest - float(trajectory.log_prob_arguments[t])
            both = ratio_op + ratio_rest
            if choice_mask[e][t]:
                choices += 1
                policy -= surrogate(ratio_op, op_advantages[e][t])
                entropy += step.entropy()
                clipped += abs(math.exp(both) - 1) > CLIP
            if argument_mask[e][t]:
                policy -= surrogate(ratio_rest, argument_advantages[e][t])
            valid_mask += 1
            value += 0.5 * (q[t][action[0]] - returns[e][t] / scale) ** 2
            kl += math.exp(both) - 1 - both
    terms = {"policy_loss": policy / choices, "value_loss": value / valid_mask, "entropy": entropy / choices}
    total = terms["policy_loss"] + VALUE * terms["value_loss"] - ENTROPY * terms["entropy"]
    return terms | {"kl": kl / valid_mask, "clip_share": clipped / choices}, total


def holed_masks(rng):
    """WAIT and some others on some slots, at times WAIT alone; at least one choice in every argument head."""
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


def learner_of(seed=3):
    """A network whose choices are far from uniform, in another unit of value than reward."""
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
    learner.network.rescale_values(2.5)
    return learner


def double(batch):
    """The batch in double precision: float32 rounds what is compared here to one part in a million."""
    names = ("features", "log_prob_op", "log_prob_arguments", "values", "q_taken", "rewards", "bootstrap", "valid_mask")
    precise = {name: getattr(batch, name).double() for name in (*names, "choice_mask", "argument_mask")}
    return replace(batch, **precise)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_returns_and_both_advantages_are_those_of_the_definitions(seed):
    learner = learner_of()
    episodes = ragged_round(learner, seed)
    targets = learner._targets(double(padded_batch(episodes, learner.device)))
    found = (targets.op, targets.arguments, targets.returns)
    for place, (expected, tensor) in enumerate(zip(targets_by_hand(learner, episodes), found, strict=True)):
        for e, row in enumerate(expected):
            assert tensor[e, : len(row)].tolist() == pytest.approx(row, rel=1e-6, abs=1e-9)
            assert place == 2 or (tensor[e, len(row) :] == 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("updates", [0, 1, 4])
def test_every_term_of_the_loss_is_that_of_the_loops(seed, updates):
    """Some updates later the policy is another one than the one that played: ratios leave the clip range."""
    learner = learner_of()
    episodes = ragged_round(learner, seed)
    for index in range(updates):
        learner.update(episodes, index)
    expected, total = losses_by_hand(learner, episodes)
    learner.network.double()
    batch = double(padded_batch(episodes, learner.device))
    found, loss = learner._losses(batch, learner._targets(batch), EPSILON, ENTROPY)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert loss.item() == pytest.approx(total, rel=1e-6, abs=1e-9)
    assert expected["kl"] > 1e-4
    if updates == 1:
        assert 0.1 < expected["clip_share"] < 1.0


def test_the_round_of_these_tests_has_every_kind_of_step():
    """Forced steps, free ones, all operations, padding, ends of both kinds; otherwise the tests above say less."""
    learner = learner_of()
    episodes = [episode for seed in range(3) for episode in ragged_round(learner, seed)]
    batch = padded_batch(episodes, learner.device)
    assert batch.choice_mask.sum() < batch.valid_mask.sum() < batch.valid_mask.numel()
    assert 0 < batch.argument_mask.sum() < batch.choice_mask.sum()
    taken = batch.actions[..., 0][batch.valid_mask > 0]
    assert set(taken.tolist()) == {0, 1, 2, 3, 4, 5}
    assert (batch.bootstrap == 0).any()
    assert (batch.bootstrap != 0).any()


@pytest.mark.parametrize("greedy", [False, True])
def test_a_choice_of_one_row_says_of_itself_what_the_tables_say(greedy):
    """A player makes only the rows of the tables that it meets; the learner makes all, for many states at once."""
    learner = learner_of()
    batch = padded_batch(ragged_round(learner), learner.device)
    vectors, operations = batch.masks.flatten(0, 1), set()
    with torch.no_grad():
        untrained = learner.network(batch.features, batch.blueprints).logits
        noise = 3.0 * torch.randn(untrained.op.shape, generator=torch.Generator().manual_seed(0))
        logits = ActionLogits(untrained.op + noise, untrained.slot, untrained.arguments)
        whole = ActionDistribution(logits, MaskTensors.from_vectors(vectors, SLOTS), EPSILON)
        for row in range(len(vectors)):
            here = slice(row, row + 1)
            tables = {head: scores[here] for head, scores in logits.arguments.items()}
            masks = MaskTensors.from_vectors(vectors[here], SLOTS)
            alone = ActionDistribution(ActionLogits(logits.op[here], logits.slot[here], tables), masks, EPSILON)
            choice = alone.mode() if greedy else alone.sample(torch.Generator().manual_seed(row))
            assert not greedy or torch.equal(choice.actions, whole.mode().actions[here])
            everywhere = whole.log_probs(choice.actions.expand(len(vectors), -1))
            for found, expected in zip((choice.log_prob_op, choice.log_prob_arguments), everywhere, strict=True):
                torch.testing.assert_close(found, expected[here])
            operations.add(int(choice.actions[0, 0]))
    assert len(operations) >= (2 if greedy else 4)

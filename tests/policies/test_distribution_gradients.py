"""Gradients of the distribution: zero for masked or unread logits, nonzero for live ones, always finite."""

import pytest
import torch
from policy_builders import READS, all_legal, distribution_of, random_logits, random_masks

from esper_ray.leyline.actions import ARGUMENT_HEADS, HEADS

ACTIONS = {
    0: [0, 0, 0, 0, 0, 0, 0, 0],
    1: [1, 1, 4, 2, 1, 0, 0, 0],
    2: [2, 1, 0, 2, 0, 1, 3, 4],
    3: [3, 1, 0, 0, 0, 0, 2, 1],
    4: [4, 1, 0, 0, 0, 0, 0, 0],
    5: [5, 1, 0, 0, 0, 0, 0, 0],
}


def learning(seed, slots, spread=1.5):
    return random_logits(seed, slots, spread, learn=True)


def tables(logits):
    return {"op": logits.op, "slot": logits.slot} | logits.arguments


def gradients(logits, objective):
    """Gradient of every table; zeros for tables without a gradient."""
    leaves = tables(logits)
    grads = torch.autograd.grad(objective.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_the_entropy_has_gradients_for_every_live_logit_and_no_masked_one(seed, epsilon):
    masks, logits = random_masks(seed, 3), learning(seed, 3)
    grads = gradients(logits, distribution_of(logits, masks, 3, epsilon=epsilon).entropy())
    ops, by_op = torch.from_numpy(masks.op), torch.from_numpy(masks.slot_by_op)
    assert (grads["op"][0][~ops] == 0).all()
    assert ops.sum() > 1
    assert (grads["op"][0][ops] != 0).all()
    for op in range(1, 6):
        assert (grads["slot"][0, op][~by_op[op]] == 0).all()
        if by_op[op].sum() > 1:
            assert (grads["slot"][0, op][by_op[op]] != 0).all()
    assert (grads["slot"][0, 0] == 0).all()
    for head in ARGUMENT_HEADS:
        legal = torch.from_numpy(masks.arguments[head])
        for place, op in enumerate(o for o in range(6) if head in READS[o]):
            block = grads[head][0, place]
            assert (block[:, ~legal] == 0).all()
            assert (block[~by_op[op]] == 0).all()
            if legal.sum() > 1 and by_op[op].any():
                assert (block[by_op[op]][:, legal] != 0).all()


@pytest.mark.parametrize("op", range(6))
def test_a_log_probability_has_gradients_for_the_read_tables_only(op):
    masks, logits = all_legal(2), learning(op, 2)
    action = torch.tensor([ACTIONS[op]])
    log_prob_op, log_prob_arguments = distribution_of(logits, masks, 2).log_probs(action)
    first = gradients(logits, log_prob_op)
    assert (first["op"] != 0).all()
    assert all((first[name] == 0).all() for name in first if name != "op")
    grads = gradients(logits, distribution_of(logits, masks, 2).log_probs(action)[1])
    assert log_prob_arguments.shape == (1,)
    assert (grads["op"] == 0).all()
    for head in HEADS[1:]:
        if head not in READS[op]:
            assert (grads[head] == 0).all()
    if op == 0:
        return
    expected = torch.zeros(6, 2, dtype=torch.bool)
    expected[op] = True
    assert torch.equal(grads["slot"][0] != 0, expected)
    for head in (h for h in READS[op] if h != "slot"):
        readers = [o for o in range(6) if head in READS[o]]
        expected = torch.zeros(grads[head].shape[1:], dtype=torch.bool)
        expected[readers.index(op), 1] = True
        assert torch.equal(grads[head][0] != 0, expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.999])
def test_masked_logits_have_no_gradient_from_log_probabilities(epsilon):
    masks, logits = all_legal(2), learning(0, 2)
    masks.slot_by_op[[2, 5]] = False
    masks.arguments["blueprint"][5:] = False
    action = torch.tensor([ACTIONS[1]])
    grads = gradients(logits, sum(distribution_of(logits, masks, 2, epsilon=epsilon).log_probs(action)))
    assert (grads["op"][0] != 0).tolist() == [True, True, False, True, True, False]
    assert (grads["blueprint"][0, 0, 1] != 0).tolist() == [True] * 5 + [False] * 8


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.999])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_gradients_are_finite_if_whole_conditions_are_impossible(epsilon, spread):
    masks, logits = all_legal(2), learning(1, 2, spread)
    masks.slot_by_op[[1, 3, 4]] = False
    masks.slot_by_op[2] = [False, True]
    distribution = distribution_of(logits, masks, 2, epsilon=epsilon)
    reference = distribution_of(random_logits(2, 2, spread), masks, 2, epsilon=epsilon)
    action = torch.tensor([ACTIONS[2]])
    grads = gradients(logits, distribution.entropy() + sum(distribution.log_probs(action)) + distribution.kl(reference))
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    assert (grads["slot"][0, [1, 3, 4]] == 0).all()
    assert (grads["blueprint"] == 0).all()
    assert (grads["op"] != 0).any() or spread > 1.0


def test_a_tiny_probability_has_a_gradient():
    """Clamping small probabilities would remove the gradient; the mixture keeps it."""
    masks, logits = all_legal(1), learning(0, 1)
    with torch.no_grad():
        logits.op[0] = torch.tensor([10.0, 0.0, 0.0, 0.0, 0.0, -10.0])
    action = torch.tensor([[5, 0, 0, 0, 0, 0, 0, 0]])
    grads = gradients(logits, distribution_of(logits, masks, 1, epsilon=0.1).log_probs(action)[0])
    assert float(grads["op"][0, 5]) > 0

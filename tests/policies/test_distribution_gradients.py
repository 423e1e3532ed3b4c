"""Gradients: none to what is masked or unread, some to everything alive, finite everywhere."""

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
    """Gradient of every table, zeros where it is not reached at all."""
    leaves = tables(logits)
    found = torch.autograd.grad(objective.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_the_entropy_moves_every_live_score_and_no_masked_one(seed, epsilon):
    masks, logits = random_masks(seed, 3), learning(seed, 3)
    found = gradients(logits, distribution_of(logits, masks, 3, epsilon=epsilon).entropy())
    ops, by_op = torch.from_numpy(masks.op), torch.from_numpy(masks.slot_by_op)
    assert (found["op"][0][~ops] == 0).all()
    assert ops.sum() > 1
    assert (found["op"][0][ops] != 0).all()
    for op in range(1, 6):
        assert (found["slot"][0, op][~by_op[op]] == 0).all()
        if by_op[op].sum() > 1:
            assert (found["slot"][0, op][by_op[op]] != 0).all()
    assert (found["slot"][0, 0] == 0).all()
    for head in ARGUMENT_HEADS:
        legal = torch.from_numpy(masks.arguments[head])
        for place, op in enumerate(o for o in range(6) if head in READS[o]):
            block = found[head][0, place]
            assert (block[:, ~legal] == 0).all()
            assert (block[~by_op[op]] == 0).all()
            if legal.sum() > 1 and by_op[op].any():
                assert (block[by_op[op]][:, legal] != 0).all()


@pytest.mark.parametrize("op", range(6))
def test_a_log_probability_moves_exactly_the_tables_that_were_read(op):
    masks, logits = all_legal(2), learning(op, 2)
    taken = torch.tensor([ACTIONS[op]])
    log_prob_op, log_prob_arguments = distribution_of(logits, masks, 2).log_probs(taken)
    first = gradients(logits, log_prob_op)
    assert (first["op"] != 0).all()
    assert all((first[name] == 0).all() for name in first if name != "op")
    found = gradients(logits, distribution_of(logits, masks, 2).log_probs(taken)[1])
    assert log_prob_arguments.shape == (1,)
    assert (found["op"] == 0).all()
    for head in HEADS[1:]:
        if head not in READS[op]:
            assert (found[head] == 0).all()
    if op == 0:
        return
    expected = torch.zeros(6, 2, dtype=torch.bool)
    expected[op] = True
    assert torch.equal(found["slot"][0] != 0, expected)
    for head in (h for h in READS[op] if h != "slot"):
        readers = [o for o in range(6) if head in READS[o]]
        expected = torch.zeros(found[head].shape[1:], dtype=torch.bool)
        expected[readers.index(op), 1] = True
        assert torch.equal(found[head][0] != 0, expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.999])
def test_masked_scores_get_no_gradient_from_log_probabilities(epsilon):
    masks, logits = all_legal(2), learning(0, 2)
    masks.slot_by_op[[2, 5]] = False
    masks.arguments["blueprint"][5:] = False
    taken = torch.tensor([ACTIONS[1]])
    found = gradients(logits, sum(distribution_of(logits, masks, 2, epsilon=epsilon).log_probs(taken)))
    assert (found["op"][0] != 0).tolist() == [True, True, False, True, True, False]
    assert (found["blueprint"][0, 0, 1] != 0).tolist() == [True] * 5 + [False] * 8


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.999])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_gradients_are_finite_where_whole_conditions_are_impossible(epsilon, spread):
    masks, logits = all_legal(2), learning(1, 2, spread)
    masks.slot_by_op[[1, 3, 4]] = False
    masks.slot_by_op[2] = [False, True]
    distribution = distribution_of(logits, masks, 2, epsilon=epsilon)
    other = distribution_of(random_logits(2, 2, spread), masks, 2, epsilon=epsilon)
    taken = torch.tensor([ACTIONS[2]])
    found = gradients(logits, distribution.entropy() + sum(distribution.log_probs(taken)) + distribution.kl(other))
    assert all(torch.isfinite(grad).all() for grad in found.values())
    assert (found["slot"][0, [1, 3, 4]] == 0).all()
    assert (found["blueprint"] == 0).all()
    assert (found["op"] != 0).any() or spread > 1.0


def test_a_tiny_probability_still_gets_gradient():
    """A clamp of small probabilities would have cut it off; the mixture does not."""
    masks, logits = all_legal(1), learning(0, 1)
    with torch.no_grad():
        logits.op[0] = torch.tensor([10.0, 0.0, 0.0, 0.0, 0.0, -10.0])
    taken = torch.tensor([[5, 0, 0, 0, 0, 0, 0, 0]])
    found = gradients(logits, distribution_of(logits, masks, 1, epsilon=0.1).log_probs(taken)[0])
    assert float(found["op"][0, 5]) > 0

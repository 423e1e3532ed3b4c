"""The distribution over factored actions against the enumerated joint distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_builders import (
    READS,
    all_legal,
    distribution_of,
    every_canonical_action,
    joint_by_hand,
    mask_tensors,
    random_logits,
    random_masks,
)

from esper_policies.distribution import ActionDistribution, ActionLogits, MaskTensors
from esper_ray.leyline.actions import ARGUMENT_HEADS, HEADS, LifecycleOp

SEEDS = range(4)
EVERY = every_canonical_action(2)


def log_probs_of(distribution, rows=EVERY):
    op, arguments = distribution.log_probs(rows)
    return (op + arguments).double()


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_probabilities_of_all_joint_actions_sum_to_one(seed, epsilon):
    """The sum includes illegal actions, whose probability is exactly zero."""
    masks = random_masks(seed, 2)
    probabilities = log_probs_of(distribution_of(random_logits(seed, 2), masks, 2, len(EVERY), epsilon)).exp()
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-5)
    legal = joint_by_hand(random_logits(seed, 2), masks, epsilon)
    illegal = torch.tensor([tuple(row) not in legal for row in EVERY.tolist()])
    assert illegal.any()
    assert probabilities[illegal].sum() == 0.0


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_log_probabilities_are_sums_over_conditionals(seed, epsilon):
    masks, logits = random_masks(seed, 2), random_logits(seed, 2)
    joint = joint_by_hand(logits, masks, epsilon)
    actions = torch.tensor(list(joint))
    log_probs = log_probs_of(distribution_of(logits, masks, 2, len(actions), epsilon), actions)
    expected = torch.tensor([math.log(p) for p in joint.values()], dtype=torch.float64)
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_entropy_equals_that_of_the_enumerated_distribution(seed, epsilon):
    masks, logits = random_masks(seed, 2), random_logits(seed, 2)
    expected = -sum(p * math.log(p) for p in joint_by_hand(logits, masks, epsilon).values())
    entropy = distribution_of(logits, masks, 2, epsilon=epsilon).entropy()
    assert float(entropy[0]) == pytest.approx(expected, abs=1e-5)


def evenness_by_hand(logits, masks, epsilon):
    """Sum over heads of the entropy given what was chosen before, over the logarithm of the number of choices."""
    joint = joint_by_hand(logits, masks, epsilon)
    total = 0.0
    for place, head in enumerate(HEADS):
        conditions = {}
        for action, mass in joint.items():
            read = head == "op" or head in READS[LifecycleOp(action[0])]
            if read:
                given = action[: min(place, 2)]
                row = conditions.setdefault(given, {})
                row[action[place]] = row.get(action[place], 0.0) + mass
        for row in conditions.values():
            weight = sum(row.values())
            if len(row) > 1:
                entropy = -sum(mass / weight * math.log(mass / weight) for mass in row.values() if mass)
                total += weight * entropy / math.log(len(row))
    return total


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_evenness_equals_the_sum_over_heads_by_hand(seed, epsilon):
    masks, logits = random_masks(seed, 2), random_logits(seed, 2)
    evenness = distribution_of(logits, masks, 2, epsilon=epsilon).evenness()
    assert float(evenness[0]) == pytest.approx(evenness_by_hand(logits, masks, epsilon), abs=1e-5)


def test_the_operation_gains_no_evenness_by_reading_many_heads():
    """At even operations the gradient is zero, while the joint entropy pulls towards GERMINATE."""
    logits, masks = random_logits(0, 2), mask_tensors(all_legal(2), 2)
    logits = ActionLogits(
        torch.zeros(1, 6).requires_grad_(), logits.slot[:1], {h: t[:1] for h, t in logits.arguments.items()}
    )
    pulls = {}
    for name in ("entropy", "evenness"):
        (pulls[name],) = torch.autograd.grad(getattr(ActionDistribution(logits, masks), name)().sum(), logits.op)
    assert float(pulls["evenness"].abs().max()) < 1e-6
    assert int(pulls["entropy"].argmax()) in (LifecycleOp.GERMINATE, LifecycleOp.SET_ALPHA_TARGET)
    assert float(pulls["entropy"].max()) > 0.1


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (0.1, 0.0), (0.3, 0.1)])
@pytest.mark.parametrize("seed", SEEDS)
def test_kl_divergence_equals_that_of_the_enumerated_distributions(seed, first, second):
    masks = random_masks(seed, 2)
    p = joint_by_hand(random_logits(seed, 2), masks, first)
    q = joint_by_hand(random_logits(seed + 100, 2), masks, second)
    expected = sum(mass * math.log(mass / q[action]) for action, mass in p.items())
    divergence = distribution_of(random_logits(seed, 2), masks, 2, epsilon=first).kl(
        distribution_of(random_logits(seed + 100, 2), masks, 2, epsilon=second)
    )
    assert float(divergence[0]) == pytest.approx(expected, abs=1e-5)
    assert expected > 0.01


def test_kl_divergence_from_itself_is_zero():
    distribution = distribution_of(random_logits(1, 2), random_masks(1, 2), 2)
    assert float(distribution.kl(distribution)[0]) == 0.0


def test_rows_are_independent_of_each_other():
    first_row = distribution_of(random_logits(3, 2), random_masks(3, 2), 2)
    second_row = distribution_of(random_logits(4, 2), random_masks(4, 2), 2)
    logits, vectors = [random_logits(s, 2) for s in (3, 4)], [random_masks(s, 2).vector() for s in (3, 4)]
    stacked = ActionLogits(
        torch.cat([x.op for x in logits]),
        torch.cat([x.slot for x in logits]),
        {head: torch.cat([x.arguments[head] for x in logits]) for head in ARGUMENT_HEADS},
    )
    both = ActionDistribution(stacked, MaskTensors.from_vectors(torch.from_numpy(np.stack(vectors)), 2))
    torch.testing.assert_close(both.entropy(), torch.cat([first_row.entropy(), second_row.entropy()]))
    actions = torch.tensor([[1, 1, 2, 1, 1, 1, 0, 0], [2, 0, 0, 3, 0, 2, 1, 4]])
    expected = [first_row.log_probs(actions[:1]), second_row.log_probs(actions[1:])]
    for log_probs, (first, second) in zip(both.log_probs(actions), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(log_probs, torch.cat([first, second]))


def two_ops(epsilon):
    """WAIT at 0.7 and FOSSILIZE at 0.3, no other legal operation; two equally good slots."""
    masks = all_legal(2)
    masks.slot_by_op[[1, 2, 3, 5]] = False
    logits = random_logits(0, 2)
    logits.op[0] = torch.tensor([0.7, 9.0, 9.0, 9.0, 0.3, 9.0])
    logits.op[0, [0, 4]] = logits.op[0, [0, 4]].log()
    logits.slot[0, 4] = torch.tensor([3.0, 3.0])
    return distribution_of(logits, masks, 2, epsilon=epsilon)


@pytest.mark.parametrize(
    ("epsilon", "wait", "fossilize"), [(0.0, 0.7, 0.3), (0.1, 0.68, 0.32), (0.5, 0.6, 0.4), (1.0, 0.5, 0.5)]
)
def test_epsilon_mixes_in_a_uniform_choice_of_legal_operations(epsilon, wait, fossilize):
    distribution = two_ops(epsilon)
    assert distribution.op[0].exp().tolist() == pytest.approx([wait, 0, 0, 0, fossilize, 0], abs=1e-6)
    assert distribution.slot[0, 4].exp().tolist() == pytest.approx([0.5, 0.5])


def test_entropy_by_hand_includes_the_slot_only_if_it_is_read():
    """H(0.7, 0.3) + 0.3 ln 2 = 0.610864 + 0.207944."""
    assert float(two_ops(0.0).entropy()[0]) == pytest.approx(0.818808, abs=1e-5)


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_an_epsilon_outside_zero_to_one_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1\], got"):
        distribution_of(random_logits(0, 2), all_legal(2), 2, epsilon=epsilon)


def test_a_row_without_a_legal_operation_is_refused():
    masks = all_legal(2)
    vectors = torch.from_numpy(np.stack([masks.vector(), masks.vector()]))
    vectors[1, :12] = 0
    logits = random_logits(0, 2)
    double = ActionLogits(
        logits.op.expand(2, -1),
        logits.slot.expand(2, -1, -1),
        {head: scores.expand(2, -1, -1, -1) for head, scores in logits.arguments.items()},
    )
    with pytest.raises(ValueError, match="without any legal operation"):
        ActionDistribution(double, MaskTensors.from_vectors(vectors, 2))


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 10])
def test_mask_vectors_round_trip(slots):
    masks = random_masks(slots, slots)
    read = mask_tensors(masks, slots)
    assert (read.slot_by_op[0].numpy() == masks.slot_by_op).all()
    assert (read.op[0].numpy() == masks.op).all()
    for head in ARGUMENT_HEADS:
        assert (read.arguments[head][0].numpy() == masks.arguments[head]).all()


def test_mask_vectors_of_another_number_of_slots_are_refused():
    with pytest.raises(ValueError, match="3 slots have 50 entries, got 44"):
        MaskTensors.from_vectors(torch.ones(1, 44), 3)


def test_the_mode_is_the_most_probable_legal_choice_of_every_head():
    masks, logits = all_legal(2), random_logits(0, 2)
    masks.slot_by_op[5] = False
    masks.slot_by_op[1] = [True, False]
    masks.arguments["style"][3] = False
    logits.op[0] = torch.tensor([1.0, 5.0, 4.0, 0.0, 0.0, 9.0])
    logits.slot[0, 1] = torch.tensor([0.0, 9.0])
    for head, best in (("blueprint", 11), ("style", 3), ("tempo", 2), ("alpha_target", 1), ("alpha_speed", 3)):
        logits.arguments[head].zero_()
        logits.arguments[head][0, 0, 0, best] = 4.0
    logits.arguments["style"][0, 0, 0, 2] = 3.0
    assert distribution_of(logits, masks, 2).mode().actions.tolist() == [[1, 0, 11, 2, 2, 1, 0, 0]]


def test_the_entropy_of_a_head_is_conditional_on_the_action():
    masks, logits = all_legal(2), random_logits(0, 2)
    masks.slot_by_op[1] = [True, False]
    masks.arguments["tempo"][:] = [True, False, False]
    logits.op.zero_()
    for scores in logits.arguments.values():
        scores.zero_()
    germinate = torch.tensor([[1, 0, 2, 1, 0, 1, 0, 0]])
    entropies = distribution_of(logits, masks, 2).head_entropies(germinate)
    read = {head: bool(was[0]) for head, (_, was) in entropies.items()}
    assert [head for head in read if read[head]] == ["op", "blueprint", "style", "alpha_target"]
    assert float(entropies["op"][0][0]) == pytest.approx(math.log(6))
    assert float(entropies["blueprint"][0][0]) == pytest.approx(math.log(13))
    assert float(entropies["style"][0][0]) == pytest.approx(math.log(4))
    assert float(entropies["alpha_target"][0][0]) == pytest.approx(math.log(3))


@given(seed=st.integers(0, 2**20), slots=st.integers(1, 4), spread=st.floats(0, 1e4), epsilon=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_entropy_lies_between_zero_and_that_of_a_uniform_choice(seed, slots, spread, epsilon):
    masks = random_masks(seed, slots)
    distribution = distribution_of(random_logits(seed, slots, spread), masks, slots, epsilon=epsilon)
    entropy = float(distribution.entropy()[0])
    count = int(masks.slot_by_op[0, 0])
    sizes = {head: int(masks.arguments[head].sum()) for head in ARGUMENT_HEADS}
    for op, heads in (
        (1, ARGUMENT_HEADS[:4]),
        (2, (*ARGUMENT_HEADS[1:2], *ARGUMENT_HEADS[3:])),
        (3, ARGUMENT_HEADS[4:]),
    ):
        count += int(masks.slot_by_op[op].sum()) * math.prod(sizes[head] for head in heads)
    count += int(masks.slot_by_op[4:].sum())
    assert -1e-4 <= entropy <= math.log(count) + 1e-4


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_used_heads_of_an_action_are_those_of_the_whole_tables(seed, epsilon):
    masks, logits = random_masks(seed, 2), random_logits(seed, 2)
    legal_actions = list(joint_by_hand(logits, masks, epsilon))
    distribution = distribution_of(logits, masks, 2, 1, epsilon)
    for action in legal_actions[:: max(1, len(legal_actions) // 20)]:
        actions = torch.tensor([action])
        used = distribution.used_heads(actions)
        assert set(used) == {"op", *READS[action[0]]}
        product = math.prod(float(probability) for _, probability, _, _ in used.values())
        assert product == pytest.approx(float(log_probs_of(distribution, actions).exp()), rel=1e-4)
        for head, (entropy, has_choice) in distribution.head_entropies(actions).items():
            if head in used:
                choice, _, own_entropy, legal = used[head]
                assert int(choice) == action[HEADS.index(head)]
                assert float(own_entropy) == pytest.approx(float(entropy), abs=1e-5)
                assert (int(legal) > 1) == bool(has_choice) or action[0] == LifecycleOp.WAIT

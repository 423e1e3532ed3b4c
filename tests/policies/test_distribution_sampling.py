"""Samples: correct frequencies, always legal, and a pure function of the generator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_builders import READS, distribution_of, joint_by_hand, random_logits, random_masks

from esper_ray.leyline.actions import HEADS, Action

DRAWS = 20_000


def draws_of(seed, epsilon, rows=DRAWS, slots=2, generator=None):
    distribution = distribution_of(random_logits(seed, slots), random_masks(seed, slots), slots, rows, epsilon)
    return distribution.sample(generator or torch.Generator().manual_seed(seed)).actions


def chi_square(counts, joint):
    """Statistic and degrees of freedom; actions with an expected count below five share one cell."""
    rare_count, rare_mass, statistic, cells = DRAWS, 1.0, 0.0, 0
    for action, mass in joint.items():
        if mass * DRAWS >= 5:
            expected = mass * DRAWS
            statistic += (counts.get(action, 0) - expected) ** 2 / expected
            cells += 1
            rare_count -= counts.get(action, 0)
            rare_mass -= mass
    if rare_mass * DRAWS >= 5:
        statistic += (rare_count - rare_mass * DRAWS) ** 2 / (rare_mass * DRAWS)
        cells += 1
    return statistic, cells - 1


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_actions_are_sampled_with_their_probabilities(seed, epsilon):
    """Chi-square against the enumerated joint distribution: its mean is df, its deviation sqrt(2 df)."""
    sampled, numbers = torch.unique(draws_of(seed, epsilon), dim=0, return_counts=True)
    counts = dict(zip(map(tuple, sampled.tolist()), numbers.tolist(), strict=True))
    statistic, freedom = chi_square(counts, joint_by_hand(random_logits(seed, 2), random_masks(seed, 2), epsilon))
    assert freedom > 10
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


@given(seed=st.integers(0, 2**20), slots=st.integers(1, 5), epsilon=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=80, deadline=None)
def test_samples_and_modes_are_always_legal(seed, slots, epsilon):
    masks = random_masks(seed, slots)
    distribution = distribution_of(random_logits(seed, slots, 5.0), masks, slots, 40, epsilon)
    actions = distribution.sample(torch.Generator().manual_seed(seed)).actions
    for row in torch.cat([actions, distribution.mode().actions[:1]]).tolist():
        assert masks.allows(Action.from_indices(row, slots))


def test_unread_heads_are_zero():
    seen = set()
    for row in draws_of(7, 1.0, rows=500, slots=3).tolist():
        unread = [head for head in HEADS[1:] if head not in READS[row[0]]]
        assert all(row[HEADS.index(head)] == 0 for head in unread)
        seen.add(row[0])
    assert len(seen) >= 3


def test_samples_depend_on_the_given_generator_only():
    torch.manual_seed(1)
    first = draws_of(3, 0.1, rows=50)
    before = torch.get_rng_state()
    torch.manual_seed(2)
    repeated = draws_of(3, 0.1, rows=50)
    different = draws_of(3, 0.1, rows=50, generator=torch.Generator().manual_seed(99))
    assert torch.equal(first, repeated)
    assert not torch.equal(first, different)
    torch.manual_seed(1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_log_probability_of_a_sample_equals_the_enumerated_one():
    """For 200 samples with a mixture of epsilon 0.2."""
    joint = joint_by_hand(random_logits(5, 2), random_masks(5, 2), 0.2)
    distribution = distribution_of(random_logits(5, 2), random_masks(5, 2), 2, 200, 0.2)
    actions = distribution.sample(torch.Generator().manual_seed(0)).actions
    op, arguments = distribution.log_probs(actions)
    expected = [joint[tuple(row)] for row in actions.tolist()]
    assert (op + arguments).exp().tolist() == pytest.approx(expected, rel=1e-4)

"""Choice of the coalitions that are measured."""

from itertools import combinations

import pytest

from esper_ray.kasmina.measurement.coalition_sampling import antithetic_orders, chosen_coalitions, few_coalitions
from esper_ray.kasmina.network.passes.branching import subsets

SLOTS = tuple(f"r0c{i}" for i in range(7))


@pytest.mark.parametrize("players", range(5))
def test_up_to_four_players_have_all_coalitions(players):
    """P48: 2^n of them; a sample includes the full and the empty coalition, see below."""
    names = SLOTS[:players]
    expected = {frozenset(c) for n in range(players + 1) for c in combinations(names, n)}
    assert len(expected) == 2**players
    assert chosen_coalitions(names) == (frozenset(expected), ())


@pytest.mark.parametrize("seed", range(5))
def test_above_four_players_the_sample_has_key_coalitions_and_order_prefixes(seed):
    committed = frozenset(SLOTS[2:5])
    chosen, orders = chosen_coalitions(SLOTS, committed, permutations=2, seed=seed)
    assert list(orders) == antithetic_orders(SLOTS, 2, seed)
    everyone = frozenset(SLOTS)
    assert {frozenset(), everyone, committed} <= chosen
    assert {everyone - {slot} for slot in SLOTS} <= chosen
    prefixes = {
        frozenset(order[:size]) for order in antithetic_orders(SLOTS, 2, seed) for size in range(len(SLOTS) + 1)
    }
    assert prefixes <= chosen
    assert chosen == prefixes | set(subsets(committed)) | {everyone - {slot} for slot in SLOTS}


def test_orders_are_antithetic_pairs():
    orders = antithetic_orders(SLOTS, 3, seed=1)
    assert len(orders) == 6
    for first, second in zip(orders[::2], orders[1::2], strict=True):
        assert first == second[::-1]
        assert sorted(first) == list(SLOTS)
    assert orders == antithetic_orders(reversed(SLOTS), 3, seed=1)
    assert orders != antithetic_orders(SLOTS, 3, seed=2)


def test_few_coalitions_are_all_seeds_and_the_committed_ones():
    few = few_coalitions(SLOTS[:2], frozenset({"r0c1", "r0c6"}))
    assert few == (frozenset({frozenset(SLOTS[:2]), frozenset({"r0c1"})}), ())


def test_orders_are_not_repeated_if_every_seed_is_committed():
    chosen, orders = chosen_coalitions(SLOTS, frozenset(SLOTS), permutations=3, seed=5)
    assert list(orders) == antithetic_orders(SLOTS, 3, 5)
    assert {frozenset(), frozenset(SLOTS)} <= chosen


def test_more_than_four_committed_players_have_their_own_orders():
    committed = frozenset(SLOTS[1:])
    chosen, orders = chosen_coalitions(SLOTS, committed, permutations=3, seed=5)
    committed_orders = [order for order in orders if frozenset(order) == committed]
    assert committed_orders == antithetic_orders(committed, 3, 5)
    assert {frozenset(order[:size]) for order in committed_orders for size in range(len(order) + 1)} <= chosen

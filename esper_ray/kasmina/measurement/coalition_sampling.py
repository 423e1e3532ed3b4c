"""Choice of the coalitions of seeds that are measured."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from esper_ray.kasmina.network.passes.branching import subsets
from esper_ray.leyline.records import Members

Order = tuple[str, ...]

EXACT_PLAYERS = 4
"""Maximum number of seeds whose coalitions are all measured."""
PERMUTATIONS = 4
"""Default number of sampled pairs of orders above :data:`EXACT_PLAYERS`."""


class Chosen(NamedTuple):
    """Coalitions to measure, and the random orders whose prefixes they are."""

    coalitions: frozenset[Members]
    orders: tuple[Order, ...] = ()


def chosen_coalitions(
    players: Sequence[str], committed: Members = frozenset(), *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Chosen:
    """All coalitions of up to :data:`EXACT_PLAYERS` players; above that, a sample.

    A sample always has the empty and the full coalition, the full one without each player, the committed seeds,
    and each of these alone. The rest consists
    of the prefixes of random orders of the players, each with its reverse (antithetic), so that Shapley values can
    be estimated from exactly the coalitions that were measured.

    Source: Mitchell et al., Sampling Permutations for Shapley Value Estimation (2022).

    Args:
        permutations: pairs of orders.
        seed: of the orders.
    """
    if len(players) <= EXACT_PLAYERS:
        return Chosen(frozenset(subsets(players)))
    all_players = frozenset(players)
    committed_players = tuple(player for player in players if player in committed)
    orders = antithetic_orders(players, permutations, seed)
    if len(committed_players) == len(players):
        coalitions = set[Members]()
    elif len(committed_players) > EXACT_PLAYERS:
        orders += antithetic_orders(committed_players, permutations, seed)
        coalitions = {frozenset(committed_players)}
    else:
        coalitions = set(subsets(committed_players))
    coalitions |= {frozenset(), all_players} | {all_players - {player} for player in players}
    for order in orders:
        coalitions |= {frozenset(order[:size]) for size in range(len(order))}
    return Chosen(frozenset(coalitions), tuple(orders))


def few_coalitions(players: Sequence[str], committed: Members) -> Chosen:
    """The full and the committed coalition, which every epoch needs."""
    return Chosen(frozenset({frozenset(players), committed & frozenset(players)}))


def antithetic_orders(players: Collection[str], pairs: int, seed: int) -> list[Order]:
    """``pairs`` random orders of ``players``, each followed by its reverse. It is a pure function of its arguments."""
    generator = np.random.default_rng(np.random.SeedSequence([seed]))
    names = sorted(players)
    orders: list[Order] = []
    for _ in range(pairs):
        order = tuple(str(player) for player in generator.permutation(names))
        orders += [order, order[::-1]]
    return orders

"""Which coalitions of seeds are worth measuring."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from esper_ray.kasmina.network.branching import subsets
from esper_ray.leyline.records import Members

Order = tuple[str, ...]

EXACT_PLAYERS = 4
"""Most seeds of which every coalition is measured."""
PERMUTATIONS = 4
"""Pairs of orders that are sampled beyond, where nothing else is said."""


class Chosen(NamedTuple):
    """Coalitions that are to be measured, and the random orders that they are the beginnings of."""

    coalitions: frozenset[Members]
    orders: tuple[Order, ...] = ()


def chosen_coalitions(
    players: Sequence[str], committed: Members = frozenset(), *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Chosen:
    """All coalitions of up to :data:`EXACT_PLAYERS` players; above, a sample that always holds the important ones.

    Those are nobody, everybody, everybody but one, and the committed, who also play by themselves. The sample consists
    of the beginnings of random orders of the players, each with its reverse (antithetic), so that Shapley values can
    be estimated from exactly the coalitions that were measured.

    Source: Mitchell et al., Sampling Permutations for Shapley Value Estimation (2022).

    Args:
        permutations: pairs of orders.
        seed: of the orders.
    """
    if len(players) <= EXACT_PLAYERS:
        return Chosen(frozenset(subsets(players)))
    everybody = frozenset(players)
    kept = tuple(player for player in players if player in committed)
    orders = antithetic_orders(players, permutations, seed)
    if len(kept) == len(players):
        chosen = set[Members]()
    elif len(kept) > EXACT_PLAYERS:
        orders += antithetic_orders(kept, permutations, seed)
        chosen = {frozenset(kept)}
    else:
        chosen = set(subsets(kept))
    chosen |= {frozenset(), everybody} | {everybody - {player} for player in players}
    for order in orders:
        chosen |= {frozenset(order[:size]) for size in range(len(order))}
    return Chosen(frozenset(chosen), tuple(orders))


def few_coalitions(players: Sequence[str], committed: Members) -> Chosen:
    """Everybody and the committed: what every epoch needs."""
    return Chosen(frozenset({frozenset(players), committed & frozenset(players)}))


def antithetic_orders(players: Collection[str], pairs: int, seed: int) -> list[Order]:
    """``pairs`` random orders of ``players``, each followed by its reverse; a pure function of its arguments."""
    generator = np.random.default_rng(np.random.SeedSequence([seed]))
    names = sorted(players)
    orders: list[Order] = []
    for _ in range(pairs):
        order = tuple(str(player) for player in generator.permutation(names))
        orders += [order, order[::-1]]
    return orders

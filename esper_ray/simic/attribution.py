"""Attribution of accuracy to seeds from measured coalitions, in percentage points.

Leave-one-out contributions and interactions of pairs are in :mod:`esper_ray.leyline.contributions`.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from math import factorial, sqrt
from statistics import fmean, stdev

from esper_ray.leyline.contributions import EMPTY, CoalitionWeights, weighted_accuracy
from esper_ray.leyline.records import Attribution, Estimate, Measurement, Members, Unmeasured

REGIME_PP, RECOVERY = 0.5, 0.001
"""Interaction above which two seeds are dependent; change per step that counts as recovery."""


def shapley_values(measured: Measurement, players: Members | None = None) -> dict[str, Attribution]:
    """Shapley value of each player; the sum is the full minus the empty accuracy.

    Exact where every coalition of ``players`` was measured. Otherwise the mean over the random orders whose prefixes
    were measured; the spread between pairs of an order and its reverse is then part of the error.

    Args:
        players: subset of the players, with the others inactive; default: all.

    Source: Shapley, A value for n-person games (1953); Mitchell et al., Sampling Permutations for Shapley Value
    Estimation (2022).
    """
    subset = frozenset(measured.players) if players is None else players
    ordered = [slot for slot in measured.players if slot in subset]
    orders = [order for order in measured.orders if frozenset(order) == subset]
    if not orders or all(measured.coalition(members) for members in _subsets(ordered)):
        return {slot: weighted_accuracy(measured, _shapley_weights(slot, ordered)) for slot in ordered}
    return {slot: _sampled(measured, slot, orders) for slot in ordered}


def mean_marginals(measured: Measurement) -> dict[str, float]:
    """Mean accuracy with a player minus that without; 0 if either is unmeasured.

    The Banzhaf value where every coalition was measured.
    """
    marginals = {}
    for slot in measured.players:
        sides: dict[bool, list[float]] = {True: [], False: []}
        for coalition in measured.coalitions:
            sides[slot in coalition.members].append(coalition.accuracy_pp)
        marginals[slot] = fmean(sides[True]) - fmean(sides[False]) if sides[True] and sides[False] else 0.0
    return marginals


def interaction_regime(interaction_pp: float, change_pp: float = 0.0) -> str:
    """Interaction regime of two seeds: ``synergy``, ``independent``, ``interference`` or ``recovering``.

    Args:
        change_pp: of the interaction per step.
    """
    if interaction_pp > REGIME_PP:
        return "synergy"
    if interaction_pp >= -REGIME_PP:
        return "independent"
    return "recovering" if change_pp > RECOVERY else "interference"


def total_improvement(measured: Measurement) -> float | None:
    """Accuracy with all players minus accuracy with none; ``None`` if unmeasured."""
    none = measured.coalition(EMPTY)
    return None if none is None else measured.accuracy_pp - none.accuracy_pp


def live_improvement(measured: Measurement, committed: Members) -> float | None:
    """Accuracy with all players minus that with the committed ones; ``None`` if unmeasured."""
    players = frozenset(measured.players)
    alone = measured.coalition(committed & players)
    return None if players <= committed or alone is None else measured.accuracy_pp - alone.accuracy_pp


def _subsets(players: Sequence[str]) -> list[Members]:
    return [frozenset(members) for size in range(len(players) + 1) for members in combinations(players, size)]


def _shapley_weights(slot: str, players: Sequence[str]) -> CoalitionWeights:
    n = len(players)
    weights: dict[Members, float] = {}
    for members in _subsets([player for player in players if player != slot]):
        weight = factorial(len(members)) * factorial(n - len(members) - 1) / factorial(n)
        weights |= {members | {slot}: weight, members: -weight}
    return weights


def _order_weights(slot: str, orders: Sequence[Sequence[str]]) -> CoalitionWeights:
    weights: dict[Members, float] = defaultdict(float)
    for order in orders:
        place = order.index(slot)
        weights[frozenset(order[: place + 1])] += 1.0 / len(orders)
        weights[frozenset(order[:place])] -= 1.0 / len(orders)
    return weights


def _sampled(measured: Measurement, slot: str, orders: Sequence[Sequence[str]]) -> Attribution:
    """Mean over ``orders``, each of which is followed by its reverse."""
    estimate = weighted_accuracy(measured, _order_weights(slot, orders))
    pairs = [weighted_accuracy(measured, _order_weights(slot, orders[i : i + 2])) for i in range(0, len(orders), 2)]
    values = [pair.value_pp for pair in pairs if isinstance(pair, Estimate)]
    if isinstance(estimate, Unmeasured):
        return estimate
    if len(values) < 2 or estimate.error_pp is None:
        return Estimate(estimate.value_pp)  # the spread between orders is unknown
    spread = stdev(values) / sqrt(len(values))
    return Estimate(estimate.value_pp, sqrt(estimate.error_pp**2 + spread**2))

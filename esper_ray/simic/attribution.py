"""Attribution of accuracy to seeds from measured coalitions, in percentage points.

Every quantity here is a weighted sum of coalitions' accuracies. All coalitions were measured on the same examples, so
its standard error is that of the same sum of single examples' scores. A quantity that needs an unmeasured coalition is
:class:`~esper_ray.leyline.records.Unmeasured`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial, sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.records import Attribution, Coalition, Estimate, Measurement, Members, Unmeasured

CoalitionWeights = Mapping[Members, float]
EMPTY: Members = frozenset()
REGIME_PP, RECOVERY = 0.5, 0.001
"""Interaction above which two seeds are dependent; change per step that counts as recovery."""


def leave_one_out(measured: Measurement) -> dict[str, Attribution]:
    """Leave-one-out contribution of each player."""
    everyone = frozenset(measured.players)
    return {slot: _estimate(measured, {everyone: 1.0, everyone - {slot}: -1.0}) for slot in measured.players}


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
        return {slot: _estimate(measured, _shapley_weights(slot, ordered)) for slot in ordered}
    return {slot: _sampled(measured, slot, orders) for slot in ordered}


def pair_interactions(measured: Measurement) -> dict[Members, Attribution]:
    """Interaction ``f({i,j}) - f({i}) - f({j}) + f({})`` of each pair of players."""
    return {
        frozenset(pair): _estimate(
            measured,
            {frozenset(pair): 1.0, frozenset({pair[0]}): -1.0, frozenset({pair[1]}): -1.0, EMPTY: 1.0},
        )
        for pair in combinations(measured.players, 2)
    }


def interaction_sums(measured: Measurement) -> dict[str, float]:
    """Sum of each player's pair interactions, if all its pairs were measured."""
    interactions = {
        pair: interaction.value_pp
        for pair, interaction in pair_interactions(measured).items()
        if isinstance(interaction, Estimate)
    }
    partners = len(measured.players) - 1
    by_slot = {slot: [value for pair, value in interactions.items() if slot in pair] for slot in measured.players}
    return {slot: sum(values) for slot, values in by_slot.items() if len(values) == partners}


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
    estimate = _estimate(measured, _order_weights(slot, orders))
    pairs = [_estimate(measured, _order_weights(slot, orders[i : i + 2])) for i in range(0, len(orders), 2)]
    values = [pair.value_pp for pair in pairs if isinstance(pair, Estimate)]
    if isinstance(estimate, Unmeasured):
        return estimate
    if len(values) < 2 or estimate.error_pp is None:
        return Estimate(estimate.value_pp)  # the spread between orders is unknown
    spread = stdev(values) / sqrt(len(values))
    return Estimate(estimate.value_pp, sqrt(estimate.error_pp**2 + spread**2))


def _estimate(measured: Measurement, weights: CoalitionWeights) -> Attribution:
    """Weighted sum of accuracies, with a paired standard error if example scores exist."""
    coalitions: dict[Members, Coalition] = {}
    for members in weights:
        coalition = measured.coalition(members)
        if coalition is not None:
            coalitions[members] = coalition
    missing = [members for members in weights if members not in coalitions]
    if missing:
        return Unmeasured(tuple(missing))
    value = sum(weight * coalitions[members].accuracy_pp for members, weight in weights.items())
    single: NDArray[np.float64] | float = 0.0
    for members, weight in weights.items():
        scores = coalitions[members].scores
        if scores is None:
            return Estimate(value)
        single = single + weight * scores.astype(np.float64)
    assert isinstance(single, np.ndarray)  # there is at least one weight
    return Estimate(value, float(100.0 * single.std() / np.sqrt(len(single))))

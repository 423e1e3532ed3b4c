"""Who contributed what: exact measures over the coalitions that were measured, in percentage points."""

from itertools import combinations
from math import factorial

from esper_ray.leyline.records import Measurement


def leave_one_out(measured: Measurement) -> dict[str, float]:
    """Accuracy of all players minus accuracy of all others, for each player for whom both were measured."""
    everyone = frozenset(measured.players)
    without = {slot: measured.coalition(everyone - {slot}) for slot in measured.players}
    return {slot: measured.accuracy_pp - c.accuracy_pp for slot, c in without.items() if c is not None}


def leave_one_out_errors(measured: Measurement) -> dict[str, float]:
    """Paired standard error of each :func:`leave_one_out`, where results for single examples were kept."""
    everyone = frozenset(measured.players)
    errors = {slot: measured.difference_error_pp(everyone, everyone - {slot}) for slot in measured.players}
    return {slot: error for slot, error in errors.items() if error is not None}


def shapley_values(measured: Measurement) -> dict[str, float]:
    """Exact Shapley value of each player; they sum to the accuracy of all minus the accuracy of none.

    Source: Shapley, A value for n-person games (1953).
    """
    n = len(measured.players)
    values = dict.fromkeys(measured.players, 0.0)
    for slot in measured.players:
        others = [other for other in measured.players if other != slot]
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for members in map(frozenset, combinations(others, size)):
                values[slot] += weight * (measured.accuracy_of(members | {slot}) - measured.accuracy_of(members))
    return values


def pair_interactions(measured: Measurement) -> dict[frozenset[str], float]:
    """``f({i,j}) - f({i}) - f({j}) + f({})`` for each pair of players for which all four were measured."""
    pairs = {}
    for first, second in combinations(measured.players, 2):
        sets = (frozenset({first, second}), frozenset[str](), frozenset({first}), frozenset({second}))
        found = [coalition.accuracy_pp for coalition in map(measured.coalition, sets) if coalition is not None]
        if len(found) == len(sets):
            both, none, *alone = found
            pairs[sets[0]] = both - sum(alone) + none
    return pairs


def interaction_sums(measured: Measurement) -> dict[str, float]:
    """Sum of each player's pair interactions; only for players all of whose pairs were measured."""
    pairs, others = pair_interactions(measured), len(measured.players) - 1
    mine = {slot: [value for pair, value in pairs.items() if slot in pair] for slot in measured.players}
    return {slot: sum(values) for slot, values in mine.items() if len(values) == others}


def total_improvement(measured: Measurement) -> float | None:
    """Accuracy with every player on minus accuracy with none; ``None`` if there are none or it was not measured."""
    none = measured.coalition(frozenset())
    return None if none is None else measured.accuracy_pp - none.accuracy_pp

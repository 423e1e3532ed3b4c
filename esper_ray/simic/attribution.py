"""Who contributed what: exact measures over a complete table of coalitions, in percentage points."""

from itertools import combinations
from math import factorial

from esper_ray.leyline.records import Measurement


def leave_one_out(measured: Measurement) -> dict[str, float]:
    """Accuracy of all players minus accuracy of all others, for each player."""
    everyone = frozenset(measured.players)
    full = measured.accuracy_of(everyone)
    return {slot: full - measured.accuracy_of(everyone - {slot}) for slot in measured.players}


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
    """``f({i,j}) - f({i}) - f({j}) + f({})`` for each pair of players."""
    empty: frozenset[str] = frozenset()
    pairs = {}
    for first, second in combinations(measured.players, 2):
        alone = measured.accuracy_of(frozenset({first})) + measured.accuracy_of(frozenset({second}))
        both = measured.accuracy_of(frozenset({first, second}))
        pairs[frozenset({first, second})] = both - alone + measured.accuracy_of(empty)
    return pairs


def total_improvement(measured: Measurement) -> float | None:
    """Accuracy with every player on minus accuracy with none; ``None`` without players."""
    if not measured.players:
        return None
    return measured.accuracy_of(frozenset(measured.players)) - measured.accuracy_of(frozenset())

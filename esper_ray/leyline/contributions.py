"""Contributions of seeds from measured coalitions, in percentage points.

Every quantity is a weighted sum of coalitions' accuracies. All coalitions were measured on the same examples, so its
standard error is that of the same sum of single examples' scores. A quantity that needs an unmeasured coalition is
:class:`~esper_ray.leyline.records.Unmeasured`.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.records import Attribution, Coalition, Estimate, Measurement, Members, Unmeasured

CoalitionWeights = Mapping[Members, float]
EMPTY: Members = frozenset()


def leave_one_out(measured: Measurement) -> dict[str, Attribution]:
    """Leave-one-out contribution of each player."""
    everyone = frozenset(measured.players)
    return {slot: weighted_accuracy(measured, {everyone: 1.0, everyone - {slot}: -1.0}) for slot in measured.players}


def pair_interactions(measured: Measurement) -> dict[Members, Attribution]:
    """Interaction ``f({i,j}) - f({i}) - f({j}) + f({})`` of each pair of players."""
    return {
        frozenset(pair): weighted_accuracy(
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


def weighted_accuracy(measured: Measurement, weights: CoalitionWeights) -> Attribution:
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

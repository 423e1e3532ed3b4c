"""Ranking of choices by interquartile means with stratified bootstrap intervals.

Source: Agarwal et al., Deep reinforcement learning at the edge of the statistical precipice (2021).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.results.evaluation import Interval
from esper_ray.leyline.results.sweep import RankedChoice
from esper_ray.simic.comparison import LEVEL, RESAMPLES

Strata = Sequence[Sequence[float]]
"""Scores of the runs of one choice, by stratum: a stratum is one setting of all other keys except the seed."""


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean without the lowest and the highest quarter of ``values``, each rounded down.

    For fewer than four values it is their mean, since a quarter of them is less than one value.

    Raises:
        ValueError: if there are no values, or one is not finite.
    """
    return float(_trimmed_means(_finite(values)[None, :])[0])


def stratified_resamples(strata: Strata, resamples: int, seed: int) -> NDArray[np.float64]:
    """Interquartile means of resamples, each drawn within strata with replacement.

    Strata stay as large as they are: a resample never has more runs of an easy setting than there were.
    """
    generator = np.random.default_rng(seed)
    samples = [generator.choice(_finite(values), (resamples, len(values))) for values in strata]
    return _trimmed_means(np.concatenate(samples, axis=1))


def ranking(
    choices: Mapping[str, Strata],
    stopped: Mapping[str, int] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> list[RankedChoice]:
    """The choices by descending interquartile mean; ties keep their input order.

    Args:
        choices: scores by choice and stratum.
        stopped: for each choice the trials that ended early.

    Raises:
        ValueError: if a choice has no scores, or one is not finite.
    """
    everything = {name: [value for values in strata for value in values] for name, strata in choices.items()}
    means = {name: interquartile_mean(values) for name, values in everything.items()}
    samples = {
        name: stratified_resamples(strata, resamples, seed) for seed, (name, strata) in enumerate(choices.items())
    }
    best = _best_shares(np.stack(list(samples.values()))) if samples else np.empty(0)
    tail = (1.0 - level) / 2.0
    ranked = []
    for share, (name, values) in zip(best, everything.items(), strict=True):
        low, high = np.quantile(samples[name], [tail, 1.0 - tail])
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        interval = Interval(means[name], float(low), float(high))
        ranked.append(RankedChoice(name, len(values), interval, spread, float(share), (stopped or {}).get(name, 0)))
    return sorted(ranked, key=lambda entry: -entry.score_pp.mean)


def _best_shares(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of columns in which each row is maximal; tied rows divide a column."""
    winners = scores == scores.max(axis=0)
    shares: NDArray[np.float64] = (winners / winners.sum(axis=0)).mean(axis=1)
    return shares


def _trimmed_means(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row without its lowest and highest quarter."""
    count = rows.shape[1]
    cut = count // 4
    means: NDArray[np.float64] = np.sort(rows, axis=1)[:, cut : count - cut].mean(axis=1)
    return means


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    if not len(values):
        raise ValueError("a ranking needs at least one score of each choice, got none")
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"a ranking needs finite scores, got {array[~np.isfinite(array)][0]}")
    return array

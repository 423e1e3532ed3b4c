"""Paired comparison of policies over seeds: bootstrap intervals and Pareto frontier."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from types import MappingProxyType
from typing import Literal

import numpy as np

from esper_ray.leyline.results.evaluation import ComparisonVerdict, Interval, PairedComparison, Score, Summary

RESAMPLES = 10_000
LEVEL = 0.95
POWER = 1.959964 + 0.841621
"""Quantiles of the normal distribution at 97.5 % and at 80 %."""


def bootstrap_interval(values: Sequence[float], resamples: int = RESAMPLES, level: float = LEVEL) -> Interval:
    """Mean of ``values`` with a deterministic percentile bootstrap interval.

    For paired differences this is the paired interval.

    Raises:
        ValueError: if there are no values, or one is not finite.

    Source: Efron, Bootstrap methods: another look at the jackknife (1979).
    """
    if not len(values):
        raise ValueError("an interval needs at least one value, got none")
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"an interval needs finite values, got {array[~np.isfinite(array)][0]}")
    means = np.random.default_rng(0).choice(array, (resamples, len(array))).mean(axis=1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(array.mean()), float(low), float(high))


def verdict(differences: Sequence[float]) -> ComparisonVerdict:
    """Verdict of a paired comparison, with the number of seeds that it needs.

    Args:
        differences: of the first over the second, one for each seed.

    Returns:
        The number of seeds that would be needed is that of a two-sided test at 5 % that finds a difference as large
        as the mean with a probability of 80 %: ``((1.96 + 0.84) * deviation / mean) ** 2``.

    Raises:
        ValueError: if there are fewer than two, or one is not finite.

    Source: Cohen, Statistical power analysis for the behavioral sciences (1988), chapter 2.
    """
    if len(differences) < 2:
        raise ValueError(f"a verdict needs at least two seeds, got {len(differences)}")
    interval = bootstrap_interval(differences)
    deviation = float(np.std(differences, ddof=1))
    needed = None if interval.mean == 0 else max(2, math.ceil((POWER * deviation / interval.mean) ** 2))
    better: Literal["first", "second", "undecided"] = "undecided"
    if interval.low > 0 or interval.high < 0:
        better = "first" if interval.low > 0 else "second"
    return ComparisonVerdict(better, interval, len(differences), needed)


def paired_comparisons(scores: Sequence[Score], policy: str) -> list[PairedComparison]:
    """Paired comparison of ``policy`` with each other policy.

    Raises:
        ValueError: if there is no such policy, or policies were played on different seeds.
    """
    return [
        PairedComparison(policy, rival, against.test_gain_pp, against.objective_gain_pp)
        for rival in dict.fromkeys(score.policy for score in scores)
        if rival != policy
        for against in summaries([s for s in scores if s.policy in (policy, rival)], control=rival)
        if against.policy == policy and against.test_gain_pp is not None and against.objective_gain_pp is not None
    ]


def summaries(
    scores: Sequence[Score], control: str, finding_flops: Mapping[str, float] = MappingProxyType({})
) -> list[Summary]:
    """One summary for each policy, in the order in which they first appear.

    Args:
        control: the policy that the others are compared with, seed by seed.
        finding_flops: operations that were spent once to find a policy, by name.

    Raises:
        ValueError: if there is no such policy, or policies were played on different seeds.
    """
    by_policy: dict[str, dict[int, Score]] = {}
    for score in scores:
        by_policy.setdefault(score.policy, {})[score.seed] = score
    if control not in by_policy:
        raise ValueError(f"the control {control!r} was not played; there are {', '.join(by_policy)}")
    seeds = by_policy[control].keys()
    for name, own_scores in by_policy.items():
        if own_scores.keys() != seeds:
            raise ValueError(
                f"{name!r} was played on other seeds than {control!r}: {sorted(own_scores)}, {sorted(seeds)}"
            )
    frontier = _frontier(by_policy)
    found = [_summary(name, own_scores, by_policy[control], name in frontier) for name, own_scores in by_policy.items()]
    return [
        replace(each, finding_gflops=finding_flops[each.policy] / 1e9) if each.policy in finding_flops else each
        for each in found
    ]


def _summary(name: str, own_scores: dict[int, Score], control: dict[int, Score], on_frontier: bool) -> Summary:
    ordered = [own_scores[seed] for seed in sorted(own_scores)]
    rivals = [control[seed] for seed in sorted(control)]
    rewards = [s.total_reward for s in ordered if s.total_reward is not None]
    is_control = rivals[0].policy == name

    def gain(what: str) -> Interval | None:
        pairs = zip(ordered, rivals, strict=True)
        return None if is_control else bootstrap_interval([getattr(a, what) - getattr(b, what) for a, b in pairs])

    return Summary(
        policy=name,
        episodes=len(ordered),
        test_accuracy_pp=bootstrap_interval([s.test_accuracy_pp for s in ordered]),
        val_accuracy_pp=bootstrap_interval([s.val_accuracy_pp for s in ordered]),
        objective_pp=bootstrap_interval([s.objective_pp for s in ordered]),
        parameters=fmean(s.parameters for s in ordered),
        train_gflops=fmean(s.train_flops for s in ordered) / 1e9,
        spread_pp=_spread(ordered),
        rollbacks=sum(s.rollbacks for s in ordered),
        fossilized=fmean(s.fossilized for s in ordered),
        total_reward=fmean(rewards) if len(rewards) == len(ordered) else None,
        objective_gain_pp=gain("objective_pp"),
        test_gain_pp=gain("test_accuracy_pp"),
        on_frontier=on_frontier,
    )


def _spread(scores: Sequence[Score]) -> float:
    return float(np.std([s.test_accuracy_pp for s in scores], ddof=1)) if len(scores) > 1 else 0.0


def _frontier(by_policy: dict[str, dict[int, Score]]) -> set[str]:
    """Policies that no other dominates in test accuracy, parameters, rollbacks and spread."""
    merits = {
        name: (
            fmean(s.test_accuracy_pp for s in own_scores.values()),
            -fmean(s.parameters for s in own_scores.values()),
            -float(sum(s.rollbacks for s in own_scores.values())),
            -_spread(list(own_scores.values())),
        )
        for name, own_scores in by_policy.items()
    }
    return {
        name
        for name, merit in merits.items()
        if not any(
            all(a >= b for a, b in zip(rival, merit, strict=True)) and rival != merit for rival in merits.values()
        )
    }

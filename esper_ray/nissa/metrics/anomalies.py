"""Anomalies of a run, computed from its rounds alone.

Equal runs have equal anomalies, resumed or not.

The alerts use the same thresholds, and the clock in addition.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from esper_ray.nissa.catalogue.alerts import LARGE_KL_NATS, REGRESSION_RATIO, ROLLBACK_SHARE
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS
from esper_ray.nissa.state.measures import ROLLING_ROUNDS, normalized_entropy

RoundRow = Mapping[str, Any]
"""A line of ``rounds.csv``; missing numbers are NaN or ``None``."""
STREAK = 3
"""Consecutive rounds for conditions of which a single round is not evidence."""
QUIET_ROUNDS = 5
"""Consecutive rounds without a germination."""
LOSSES = ("policy_loss", "value_loss", "kl", "grad_norm")


@dataclass(frozen=True, slots=True)
class Finding:
    """One anomalous condition after a round."""

    type: str
    subject: str | None = None
    value: float | None = None
    threshold: float | None = None

    @property
    def key(self) -> tuple[str, str | None]:
        """Its identity, independent of the numbers."""
        return self.type, self.subject


def anomalies(
    rows: Sequence[RoundRow], choices: Mapping[str, int], control_ratio: float | None, quarantined: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Records of kind ``anomaly`` that open or close in the last round.

    Args:
        rows: all rounds so far.
        choices: greatest number of legal choices, by head.
        control_ratio: accuracy without growth; ``None`` if it was not measured.
        quarantined: environments that were quarantined in this round.
    """
    number = len(rows) - 1
    now = {finding.key: finding for finding in findings(rows, choices, control_ratio)}
    before = {finding.key: finding for finding in findings(rows[:-1], choices, control_ratio)}
    records = [_record(number, finding, begins=True, rounds=0) for key, finding in now.items() if key not in before]
    for key, finding in before.items():
        if key not in now:
            rounds = _duration(rows, key, choices, control_ratio)
            records.append(_record(number, finding, begins=False, rounds=rounds))
    lost = (Finding("environment_quarantined", str(env)) for env in quarantined)
    return [*records, *(_record(number, finding, begins=True, rounds=0) for finding in lost)]


def findings(rows: Sequence[RoundRow], choices: Mapping[str, int], control_ratio: float | None) -> Iterator[Finding]:
    """Anomalous conditions after the last of ``rows``."""
    if not rows:
        return
    last, recent = rows[-1], rows[-STREAK:]
    full = len(recent) == STREAK
    yield from (Finding("nonfinite", name) for name in LOSSES if not _finite(last[name]))
    if last["skipped_minibatches"] > 0:
        yield Finding("minibatches_skipped", None, last["skipped_minibatches"], 0.0)
    if full:
        yield from _collapsed(recent, choices)
        yield from _critic(recent)
        yield from _rollbacks(recent)
    if _finite(last["kl"]) and last["kl"] > LARGE_KL_NATS:
        yield Finding("update_too_large", None, last["kl"], LARGE_KL_NATS)
    if full and all(row["optimizer_steps"] == 0 for row in recent):
        yield Finding("update_without_steps", None, 0.0, 1.0)
    if len(rows) >= QUIET_ROUNDS and not any(row["op_germinate"] for row in rows[-QUIET_ROUNDS:]):
        yield Finding("nothing_grows", None, 0.0, 1.0)
    yield from _accuracy(rows, control_ratio)


def _collapsed(recent: Sequence[RoundRow], choices: Mapping[str, int]) -> Iterator[Finding]:
    for head, floor in ENTROPY_FLOORS.items():
        entropies = [normalized_entropy(row, head, choices) for row in recent]
        shares = [entropy for entropy in entropies if entropy is not None and math.isfinite(entropy)]
        if len(shares) == len(recent) and max(shares) < floor:
            yield Finding("head_collapsed", head, shares[-1], floor)


def _critic(recent: Sequence[RoundRow]) -> Iterator[Finding]:
    explained = [row["explained_variance"] for row in recent]
    if all(map(_finite, explained)) and max(explained) < 0 and not any(row["low_variance"] for row in recent):
        yield Finding("critic_useless", None, explained[-1], 0.0)


def _rollbacks(recent: Sequence[RoundRow]) -> Iterator[Finding]:
    share = sum(row["rollbacks"] for row in recent) / sum(row["episodes"] for row in recent)
    if share > ROLLBACK_SHARE:
        yield Finding("rollback_storm", None, share, ROLLBACK_SHARE)


def _accuracy(rows: Sequence[RoundRow], control_ratio: float | None) -> Iterator[Finding]:
    accuracies = [row["val_accuracy_ratio"] for row in rows]
    means = [fmean(accuracies[end - ROLLING_ROUNDS : end]) for end in range(ROLLING_ROUNDS, len(rows) + 1)]
    if means and max(means) - means[-1] > REGRESSION_RATIO:
        yield Finding("accuracy_regressed", None, means[-1], max(means) - REGRESSION_RATIO)
    mean = fmean(accuracies[-ROLLING_ROUNDS:])
    if control_ratio is not None and len(rows) >= STREAK and mean < control_ratio:
        yield Finding("below_control", None, mean, control_ratio)


def _duration(
    rows: Sequence[RoundRow], key: tuple[str, str | None], choices: Mapping[str, int], control_ratio: float | None
) -> int:
    """Number of consecutive rounds before the last one with this finding."""
    count = 0
    for end in range(len(rows) - 1, 0, -1):
        if key not in {finding.key for finding in findings(rows[:end], choices, control_ratio)}:
            break
        count += 1
    return count


def _record(number: int, finding: Finding, *, begins: bool, rounds: int) -> dict[str, Any]:
    values = {"subject": finding.subject, "value": finding.value, "threshold": finding.threshold}
    return {"kind": "anomaly", "round": number, "type": finding.type, "open": begins, **values, "rounds": rounds}


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)

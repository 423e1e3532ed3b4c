"""The five answers about a run: alive, learning, growing, explained, safe.

All but the first follow from the state alone. Whether the run is alive depends on the time, and on what a viewer has
seen of its pulse; :func:`answers` finds it when a state is shown.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from esper_ray.leyline.stages import Stage
from esper_ray.nissa.state.measures import occupied_stages
from esper_ray.nissa.state.run_state import RunState

Level = Literal["ok", "look", "wrong", "unknown"]
GONE_SECONDS = 5.0
"""Seconds without a beat after which the driver is gone."""
STUCK_MULTIPLE = 10.0
"""Multiple of the usual duration of a phase after which the run is stuck."""
STUCK_SECONDS = 60.0
"""Shortest time without progress that counts as stuck."""
BOOTSTRAP_SAMPLES = 1000
"""Bootstrap samples of the gain."""
INTERVAL = (2.5, 97.5)
"""Percentiles of the interval."""
FEW_ROUNDS = 3
"""Rounds before which a gain below zero is not a finding."""
_WRONG = {"nonfinite", "environment_quarantined", "rollback_storm", "below_control"}
"""Types of anomalies that make a run unsafe."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to one of the five questions."""

    level: Level
    text: str
    value: float | None = None
    threshold: float | None = None
    since: int | None = None
    """Round in which it began; ``None`` if unknown."""
    because: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sight:
    """What a viewer has seen of the pulse of a run, by its own clock."""

    pulse: Mapping[str, Any] | None
    """Newest pulse; ``None`` if there is none."""
    beat_age_s: float = 0.0
    """Seconds since the beat was seen to change."""
    moved_age_s: float = 0.0
    """Seconds since the main thread was seen to report."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Gain of the newest episodes over the host without growth, in percentage points."""

    mean_pp: float
    low_pp: float
    high_pp: float
    episodes: int
    controls: int


def gain(state: RunState) -> Gain | None:
    """Gain over the measured control with a bootstrap interval.

    ``None`` without episodes or without a control.
    """
    accuracies = (outcome.val_accuracy_pp for outcome in state.recent_outcomes)
    measured = tuple(accuracy for accuracy in accuracies if accuracy is not None)
    if not measured or not state.control_accuracies_pp:
        return None
    return _gain(measured, state.control_accuracies_pp)


@functools.lru_cache(maxsize=8)
def _gain(accuracies_pp: tuple[float, ...], controls_pp: tuple[float, ...]) -> Gain:
    """The same for these accuracies. A viewer calls it at every look, and they change once a round."""
    measured, controls = np.array(accuracies_pp), np.array(controls_pp)
    generator = np.random.default_rng(0)
    means = _resampled(measured, generator) - _resampled(controls, generator)
    low, high = np.percentile(means, INTERVAL)
    mean = float(measured.mean() - controls.mean())
    return Gain(mean, float(low), float(high), len(measured), len(controls))


def _resampled(values: np.ndarray[Any, Any], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """(BOOTSTRAP_SAMPLES,) means of samples with replacement."""
    means: np.ndarray[Any, Any] = values[generator.integers(len(values), size=(BOOTSTRAP_SAMPLES, len(values)))].mean(
        axis=1
    )
    return means


def answers(state: RunState, sight: Sight) -> dict[str, Answer]:
    """The five answers, by the name of the question."""
    return {
        "alive": alive(state, sight),
        "learning": learning(state),
        "growing": growing(state),
        "explained": explained(state),
        "safe": safe(state),
    }


def alive(state: RunState, sight: Sight) -> Answer:
    """Whether the driver beats and its main thread moves."""
    pulse = sight.pulse
    if state.status in ("finished", "interrupted"):
        return Answer("ok", state.status)
    if pulse is None:
        return Answer("unknown", "not recorded by this version")
    place = f"round {pulse['round'] + 1}/{pulse['rounds']}"
    if pulse["phase"] == "ended":
        level: Level = "wrong" if pulse["status"] == "failed" else "ok"
        return Answer(level, f"{pulse['status']} after {pulse['round']} of {pulse['rounds']} rounds")
    if sight.beat_age_s > GONE_SECONDS:
        who = f"process {pulse['pid']} on {pulse['host']}"
        text = f"GONE, no beat for {sight.beat_age_s:.0f} s, {who}, last: {pulse['phase']} {place}"
        return Answer("wrong", text, sight.beat_age_s, GONE_SECONDS)
    usual = usual_seconds(state, pulse["phase"])
    limit = STUCK_SECONDS if usual is None else max(STUCK_SECONDS, STUCK_MULTIPLE * usual)
    if pulse["phase"] != "starting" and sight.moved_age_s > limit:
        text = f"STUCK in {pulse['phase']} for {sight.moved_age_s:.0f} s"
        text += "" if usual is None else f" (usual {usual:.0f})"
        faults = tuple(fault.describe() for fault in state.faults[-3:])
        return Answer("wrong", text, sight.moved_age_s, limit, because=faults)
    return Answer("ok", f"{pulse['phase']} {place}", sight.beat_age_s, GONE_SECONDS)


def usual_seconds(state: RunState, phase: str) -> float | None:
    """Mean duration of a phase over the newest rounds.

    ``None`` before the first, or for another phase.
    """
    column = {"playing": "play_seconds", "learning": "update_seconds"}.get(phase)
    newest = state.timings[-10:]
    return fmean(row[column] for row in newest) if column is not None and newest else None


def learning(state: RunState) -> Answer:
    """Whether episodes end more accurately than the same host without growth."""
    if not state.rounds:
        return Answer("unknown", "no round is over yet")
    found = gain(state)
    if found is None:
        return Answer("unknown", "no control without growth was measured")
    text = f"gain {found.mean_pp:+.1f} pp [{found.low_pp:+.1f}, {found.high_pp:+.1f}]"
    because = (
        f"{found.episodes} newest episodes against {found.controls} without growth",
        *(_anomaly_line(state, key) for key in state.anomalies if key.startswith(("below_control", "accuracy_"))),
    )
    if found.low_pp > 0:
        return Answer("ok", text, found.mean_pp, 0.0, because=because)
    level: Level = "wrong" if found.high_pp < 0 and len(state.rounds) >= FEW_ROUNDS else "look"
    return Answer(level, text, found.mean_pp, 0.0, because=because)


def slot_stages(state: RunState) -> Counter[str]:
    """Occupied slots of all environments by stage, those in play included."""
    stages = occupied_stages(state.environments.values())
    return Counter({stage.name: count for stage, count in stages.items()})


def growing(state: RunState) -> Answer:
    """What happens in the slots of all environments."""
    if not state.environments:
        return Answer("unknown", "no episode has started")
    stages = slot_stages(state)
    names = [stage.name for stage in Stage if stages[stage.name]]
    parts = [f"{stages[name]} {name.lower()}" for name in names] or ["all slots are empty"]
    kept = sum(record.fossilized for record in state.blueprints.values())
    lost = sum(record.pruned for record in state.blueprints.values())
    text = f"{', '.join(parts)}; kept {kept}, pruned {lost}"
    open_keys = [key for key in state.anomalies if key == "nothing_grows"]
    because = tuple(_anomaly_line(state, key) for key in open_keys)
    since = state.anomalies["nothing_grows"].since_round if open_keys else None
    return Answer("look" if open_keys else "ok", text, float(kept), since=since, because=because)


def explained(state: RunState) -> Answer:
    """Whether the records that explain rewards and ends of seeds are whole."""
    totals = state.totals
    lost = sum(totals.samples_lost.values())
    if totals.malformed:
        return Answer(
            "wrong", f"{totals.malformed} records do not match their declaration", float(totals.malformed), 0.0
        )
    if not totals.steps:
        return Answer("unknown", "no step is in the log yet")
    if lost:
        return Answer("look", f"{lost} samples of decisions were lost", float(lost), 0.0)
    return Answer("ok", f"every reward of {totals.steps:,} steps has its entries", float(totals.steps))


def safe(state: RunState) -> Answer:
    """Whether anomalies are open, environments quarantined, or numbers not finite."""
    lines = [_anomaly_line(state, key) for key in sorted(state.anomalies)]
    lines += [f"environment {env} is quarantined: {error}" for env, error in sorted(state.quarantined.items())]
    rollbacks = sum(state.totals.rollbacks.values())
    if not lines:
        text = "no anomaly" + (f", {rollbacks} rollbacks so far" if rollbacks else "")
        return Answer("ok", text, 0.0, 0.0)
    wrong = bool(state.quarantined) or any(anomaly.type in _WRONG for anomaly in state.anomalies.values())
    since = min((anomaly.since_round for anomaly in state.anomalies.values()), default=None)
    return Answer("wrong" if wrong else "look", lines[0], float(len(lines)), 0.0, since, tuple(lines))


def _anomaly_line(state: RunState, key: str) -> str:
    anomaly = state.anomalies[key]
    name = anomaly.type.replace("_", " ") + ("" if anomaly.subject is None else f" ({anomaly.subject})")
    values = ""
    if anomaly.value is not None and anomaly.threshold is not None:
        values = f": {anomaly.value:.3g}, threshold {anomaly.threshold:.3g}"
    return f"{name}{values}, since round {anomaly.since_round + 1}"

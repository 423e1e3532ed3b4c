"""One episode, step by step: operations, seeds, rewards, gates, decisions, attribution."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from esper_ray.karn.questions.account import PaidEntry, paid_entries
from esper_ray.karn.questions.policy import shown_decision
from esper_ray.karn.questions.tables import LogTables
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.records import Record
from esper_ray.leyline.slots import parse_slot_id

EPISODE_KINDS = (
    "episode_started", "control", "seed_transition", "gate", "veto", "rollback", "env_epoch", "counterfactual",
    "attribution", "outcome",
)  # fmt: skip
STEP_VALUES = (
    "operation", "slot", "success", "reward", "val_accuracy_pp", "committed_accuracy_pp", "val_loss", "train_loss",
    "growth_ratio", "total_parameters", "value", "log_prob",
)  # fmt: skip
"""Values of a step that are given as the log has them."""


class UnknownEpisodeError(UsageError):
    """An episode or a seed that the log does not have."""

    remedy = "Choose one of the list of episodes."


def episode_records(tables: LogTables, episode: int) -> list[Record]:
    """Events of one episode, in order; none if it is not in the log."""
    return tables.records(EPISODE_KINDS, f"episode = {int(episode)}")


def episode_decisions(tables: LogTables, episode: int) -> list[Record]:
    """Samples of decisions in one episode. Of a step that was repeated after a resumption the newest one."""
    samples = tables.records(("decision",), f"episode = {int(episode)}")
    return sorted({sample["step"]: sample for sample in samples}.values(), key=lambda sample: int(sample["step"]))


def mean_control(tables: LogTables) -> list[float | None]:
    """Mean accuracy of all controls before the first step and after each."""
    curves = [row["curve_pp"] for row in tables.rows("SELECT curve_pp FROM control ORDER BY seq") if row["curve_pp"]]
    length = min(map(len, curves), default=0)
    columns = [[curve[step] for curve in curves] for step in range(length)]
    return [None if None in column else fmean(value for value in column if value is not None) for column in columns]


def logged_episode(tables: LogTables, episode: int) -> dict[str, Any]:
    """The account of an episode in the log.

    Raises:
        UnknownEpisodeError: if it is not in the log.
    """
    records = episode_records(tables, episode)
    if not records:
        newest = tables.rows("SELECT max(episode) AS n FROM episode_started")[0]["n"]
        known = "no episode is in the log yet" if newest is None else f"the log has the episodes up to {newest}"
        raise UnknownEpisodeError(f"there is no episode {episode}: {known}")
    return episode_account(records, episode_decisions(tables, episode), mean_control(tables), live=False)


def episode_account(
    records: Sequence[Record], decisions: Sequence[Record], control: Sequence[float | None], *, live: bool
) -> dict[str, Any]:
    """The account of an episode with these records, of which there is at least one.

    Args:
        decisions: samples of its decisions.
        control: mean accuracy without growth, by step, for an episode without a control of its own.
        live: whether it is in play: gates and transitions are in the log when its round has ended.
    """
    by_kind = {kind: [record for record in records if record["kind"] == kind] for kind in EPISODE_KINDS}
    first, steps = records[0], by_kind["env_epoch"]
    start, end, own = (_only(by_kind[kind]) for kind in ("episode_started", "outcome", "control"))
    back, attribution, coalitions = (_only(by_kind[kind]) for kind in ("rollback", "attribution", "counterfactual"))
    placed = placed_events(records)
    entries = paid_entries(steps)
    curve = own["curve_pp"] if own is not None else list(control)
    return {
        "episode": first["episode"],
        "env": first["env"],
        "round": first["round"],
        "seed": start["seed"] if start is not None else None,
        "live": live,
        "start_accuracy_pp": start["val_accuracy_pp"] if start is not None else None,
        "control_accuracy_pp": own["val_accuracy_pp"] if own is not None else None,
        "control_curve_pp": curve or None,
        "control_is_own": own is not None,
        "slots": slots_of_episode(records),
        "steps": [_step(step, entries) for step in steps],
        "transitions": [record for record in placed if record["kind"] == "seed_transition"],
        "gates": [record for record in placed if record["kind"] == "gate"],
        "vetoes": [record for record in placed if record["kind"] == "veto"],
        "rollback": back,
        "attribution": attribution,
        "counterfactual": coalitions,
        "outcome": end,
        "decisions": [shown_decision(sample) for sample in decisions],
    }


def _only(records: Sequence[Record]) -> Record | None:
    return records[-1] if records else None


def placed_events(records: Iterable[Record]) -> list[Record]:
    """Gates, transitions and vetoes with the ``step`` whose action or end they belong to."""
    placed: list[Record] = []
    waiting: list[Record] = []
    for record in records:
        if record["kind"] in ("seed_transition", "gate", "veto"):
            waiting.append(record)
        elif record["kind"] == "env_epoch":
            placed += [{**event, "step": record["step"]} for event in waiting]
            waiting = []
    return placed + waiting


def slots_of_episode(records: Iterable[Record]) -> list[str]:
    """Slots that had a seed or an operation, by row and column."""
    names: set[str] = set()
    for record in records:
        names |= set(record["slots"]) if record["kind"] == "env_epoch" else set()
        if record["kind"] in ("env_epoch", "seed_transition", "gate", "veto") and record["slot"]:
            names.add(record["slot"])
    return sorted(names, key=parse_slot_id)


def _step(step: Record, entries: Sequence[PaidEntry]) -> dict[str, Any]:
    number = step["step"]
    later = [entry for entry in entries if entry.cause == number and entry.step != number]
    probability = None if step["log_prob"] is None else math.exp(min(0.0, step["log_prob"]))
    return {
        "step": number,
        **{name: step.get(name) for name in STEP_VALUES},
        "probability": probability,
        "why": step.get("why"),
        "entries": [asdict(entry) for entry in entries if entry.step == number],
        "later": [asdict(entry) for entry in later],
        "slots": step["slots"],
        "clock": {name: step[name] for name in ("round", "episode", "env", "step")},
    }


def live_episode(steps: Mapping[int, Sequence[Record]], episode: int) -> list[Record]:
    """Steps of an episode in play; none if it is not in play.

    Args:
        steps: steps of the episodes in play, by environment.
    """
    return next((list(records) for records in steps.values() if records and records[0]["episode"] == episode), [])

"""Plays a recorded episode again, from its seed and its actions, and compares it with the record. No Ray in here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper_actors.rollout.event_records import started_record, step_records
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import Action
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.policy import Decision
from esper_ray.leyline.records import Record
from esper_ray.nissa.log.events import json_record

BOOKKEEPING = ("run", "group", "source", "source_seq", "seq", "round")
"""Keys that the event log and the controller add."""
THOUGHTS = ("why", "log_prob", "value")
"""Keys that the policy alone knows."""


class ReplayError(UserError, ValueError):
    """An episode that was not recorded, or not completely."""

    remedy = "Choose an episode that the log holds completely."


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where a replay departs from the record."""

    epoch: int
    what: str
    """Kind of the record and dotted key within it."""
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        return f"epoch {self.epoch}: {self.what} was {self.recorded!r}, is {self.replayed!r}"


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay came to."""

    steps: int
    """Steps that were played."""
    recorded: int
    """Steps of the record."""
    difference: Difference | None


def recorded_episode(events: Iterable[Record], episode: int) -> list[Record]:
    """The records of one episode, from its beginning to its outcome.

    Raises:
        ReplayError: if there is no such episode, naming those that there are, it has no end, or records are missing.
    """
    found: list[Record] = []
    known: set[int] = set()
    for event in events:
        if event["kind"] == "episode_started":
            known.add(event["episode"])
        if event.get("episode") == episode:
            found.append(event)
    if not found:
        there = f"{min(known)} to {max(known)}" if known else "none"
        raise ReplayError(f"episode {episode} was not recorded; the log holds {there}")
    if found[0]["kind"] != "episode_started" or found[-1]["kind"] != "outcome":
        raise ReplayError(f"the record of episode {episode} is not complete: it ends with {found[-1]['kind']!r}")
    numbers = [record["source_seq"] for record in found if record["source"] == found[0]["source"]]
    if missing := numbers[-1] - numbers[0] + 1 - len(numbers):
        raise ReplayError(f"the record of episode {episode} is not complete: of its records {missing} are missing")
    return found


def replay(env: MorphogenesisEnv, records: Sequence[Record]) -> Replay:
    """Play the episode of ``records`` in ``env`` until its end or the first difference."""
    started = records[0]
    clock = {key: started[key] for key in ("episode", "env")}
    env.reset(seed=started["seed"])
    difference = _difference(started, json_record(started_record(clock, started["seed"], env.outcome)))
    steps = _steps(records)
    for played, expected in enumerate(steps):
        if difference is not None:
            return Replay(played, len(steps), difference)
        decision = _decision(expected[-1])
        env.step(decision.action.to_indices())
        outcome = env.outcome
        found = [json_record(record) for record in step_records(clock, decision, outcome)]
        difference = _first_difference(expected, found)
        last = played + 1 == len(steps)
        if difference is None and outcome.last is not last:
            difference = Difference(played + 1, "end of the episode", last, outcome.last)
    return Replay(len(steps), len(steps), difference)


def _steps(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each step; the decision comes last."""
    steps: list[list[Record]] = [[]]
    for record in (record for record in records[1:-1] if record["kind"] != "control"):
        steps[-1].append(record)
        if record["kind"] == "env_epoch":
            steps.append([])
    return steps[:-1]


def _decision(record: Record) -> Decision:
    return Decision(Action(*record["action"]))


def _first_difference(expected: Sequence[Record], found: Sequence[Record]) -> Difference | None:
    for one, other in zip(expected, found, strict=False):
        difference = _difference(one, other)
        if difference is not None:
            return difference
    if len(expected) != len(found):
        kinds = [[record["kind"] for record in records] for records in (expected, found)]
        return Difference(expected[-1]["step"], "events", *kinds)
    return None


def _difference(expected: Record, found: Record) -> Difference | None:
    left, right = (_flat({k: v for k, v in r.items() if k not in BOOKKEEPING + THOUGHTS}) for r in (expected, found))
    for key in [*left, *(key for key in right if key not in left)]:
        one, other = left.get(key), right.get(key)
        if one != other or (key in left) is not (key in right):
            return Difference(expected["step"], f"{expected['kind']} {key}", one, other)
    return None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by dotted name."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {prefix: value}
    leaves: dict[str, Any] = {prefix: type(value).__name__} if not value else {}
    for key, inner in items:
        leaves |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return leaves

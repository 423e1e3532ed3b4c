"""Replay of a recorded episode from its seed and actions, compared with its record."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper_actors.rollout.event_records import started_record, step_records
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import Action
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.policy import Decision
from esper_ray.leyline.records import Record
from esper_ray.nissa.log.finite import json_record

BOOKKEEPING = ("run", "group", "source", "source_seq", "seq", "round")
"""Keys that the event log and the controller add."""
POLICY_KEYS = ("why", "log_prob", "value")
"""Keys that come from the policy and are not replayed."""


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
    """The result of a replay."""

    steps: int
    """Steps that were replayed."""
    recorded: int
    """Steps of the record."""
    difference: Difference | None


def recorded_episode(events: Iterable[Record], episode: int) -> list[Record]:
    """The records of one episode, from its beginning to its outcome.

    Raises:
        ReplayError: if there is no such episode, naming the existing ones, it has no end, or records are missing.
    """
    records: list[Record] = []
    episodes: set[int] = set()
    for event in events:
        if event["kind"] == "episode_started":
            episodes.add(event["episode"])
        if event.get("episode") == episode:
            records.append(event)
    if not records:
        there = f"{min(episodes)} to {max(episodes)}" if episodes else "none"
        raise ReplayError(f"episode {episode} was not recorded; the log holds {there}")
    if records[0]["kind"] != "episode_started" or records[-1]["kind"] != "outcome":
        raise ReplayError(f"the record of episode {episode} is not complete: it ends with {records[-1]['kind']!r}")
    numbers = [record["source_seq"] for record in records if record["source"] == records[0]["source"]]
    if missing := numbers[-1] - numbers[0] + 1 - len(numbers):
        raise ReplayError(f"the record of episode {episode} is not complete: of its records {missing} are missing")
    steps = [record["step"] for record in records if record["kind"] == "env_epoch"]
    if steps != list(range(1, len(steps) + 1)):
        raise ReplayError(f"the record of episode {episode} is damaged: its {len(steps)} steps are not numbered from 1")
    return records


def replay(env: MorphogenesisEnv, records: Sequence[Record]) -> Replay:
    """Play the episode of ``records`` in ``env`` until its end or the first difference.

    Raises:
        ReplayError: if a record holds a seed or an action that the environment does not have.
    """
    started = records[0]
    _check_actions(records, len(env.config.growth.slots))
    ids = {key: started[key] for key in ("episode", "env")}
    env.reset(seed=started["seed"])
    difference = _difference(started, json_record(started_record(ids, started["seed"], env.outcome)))
    steps = _steps(records)
    for step, expected in enumerate(steps):
        if difference is not None:
            return Replay(step, len(steps), difference)
        decision = _decision(expected[-1])
        env.step(decision.action.to_indices())
        outcome = env.outcome
        replayed = [json_record(record) for record in step_records(ids, decision, outcome)]
        difference = _first_difference(expected, replayed)
        last = step + 1 == len(steps)
        if difference is None and outcome.last is not last:
            difference = Difference(step + 1, "end of the episode", last, outcome.last)
    return Replay(len(steps), len(steps), difference)


def _check_actions(records: Sequence[Record], slots: int) -> None:
    if records[0]["seed"] < 0:
        raise ReplayError(f"event {records[0]['seq']}: seed: it must not be negative, got {records[0]['seed']}")
    for record in records:
        if record["kind"] == "env_epoch":
            try:
                Action.from_indices(record["action"], slots)
            except ValueError as error:
                raise ReplayError(f"event {record['seq']}: action: {error}") from error


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


def _first_difference(expected: Sequence[Record], replayed: Sequence[Record]) -> Difference | None:
    for recorded, again in zip(expected, replayed, strict=False):
        difference = _difference(recorded, again)
        if difference is not None:
            return difference
    if len(expected) != len(replayed):
        kinds = [[record["kind"] for record in records] for records in (expected, replayed)]
        return Difference(expected[-1]["step"], "events", *kinds)
    return None


def _difference(expected: Record, replayed: Record) -> Difference | None:
    left, right = (
        _flat({k: v for k, v in r.items() if k not in BOOKKEEPING + POLICY_KEYS}) for r in (expected, replayed)
    )
    for key in [*left, *(key for key in right if key not in left)]:
        recorded, again = left.get(key), right.get(key)
        if recorded != again or (key in left) is not (key in right):
            return Difference(expected["step"], f"{expected['kind']} {key}", recorded, again)
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

"""JSON form of the state of a run, for summaries and other processes.

A summary is the state of one part of a log. It is not evidence: it is only believed with the digest of its part, the
version of events, and the same fields of the state. Otherwise the part is folded again.
"""

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import TypeAdapter, ValidationError

from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.state.run_state import RunState

STATE_VERSION = 1
"""Version of the JSON form. It changes when a field of an older one would mean something else."""
_ADAPTER = TypeAdapter(RunState)


class StateError(ValueError):
    """A JSON form of another version, or one that is damaged."""


@dataclass(frozen=True, slots=True)
class _Summary:
    """Content of a summary."""

    version: int
    events: int
    fields: str
    """Digest of the fields of the state."""
    part: str
    """Digest of the part that was folded."""
    state: RunState


_SUMMARIES = TypeAdapter(_Summary)


def state_to_json(state: RunState) -> dict[str, Any]:
    """``state`` as a tree of JSON values."""
    tree: dict[str, Any] = _ADAPTER.dump_python(state, mode="json")
    return {"version": STATE_VERSION, "events": EVENT_SCHEMA, "state": tree}


def state_from_json(tree: Any) -> RunState:
    """The state of a tree of :func:`state_to_json`.

    Raises:
        StateError: if it is of another version, or no such tree.
    """
    versions = (tree.get("version"), tree.get("events")) if isinstance(tree, dict) else (None, None)
    if versions != (STATE_VERSION, EVENT_SCHEMA):
        raise StateError(f"the state is of version {versions}, this program reads {(STATE_VERSION, EVENT_SCHEMA)}")
    try:
        return _ADAPTER.validate_json(json.dumps(tree.get("state")))
    except ValidationError as error:
        raise _refusal(error) from error


def state_of(records: Iterable[Record]) -> RunState:
    """State of the records of a part.

    Raises:
        StateError: if a record is not as its kind declares it.
    """
    try:
        return RunState.of(records)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"a record is not as declared: {error!r:.100}") from error


def summary_text(state: RunState, part_digest: str) -> str:
    """Summary of a part with this state."""
    return _SUMMARIES.dump_json(_Summary(STATE_VERSION, EVENT_SCHEMA, _fields_digest(), part_digest, state)).decode()


def state_of_summary(content: bytes, part_digest: str) -> RunState:
    """The state in a summary.

    Args:
        part_digest: digest of the part that the summary must be about.

    Raises:
        StateError: if it is damaged, of another version or about another part.
    """
    try:
        summary = _SUMMARIES.validate_json(content)
    except ValidationError as error:
        raise _refusal(error) from error
    found = (summary.version, summary.events, summary.fields, summary.part)
    if found != (STATE_VERSION, EVENT_SCHEMA, _fields_digest(), part_digest):
        raise StateError(f"the summary is of another version or part: {found}")
    return summary.state


@functools.cache
def _fields_digest() -> str:
    """Digest of names and types of all fields. With another one a summary may lack what this program counts."""
    return sha256(json.dumps(_ADAPTER.json_schema(), sort_keys=True).encode()).hexdigest()


def _refusal(error: ValidationError) -> StateError:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return StateError(f"state {place}: {first['msg']}, got {first['input']!r:.80}")

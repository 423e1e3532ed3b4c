"""Recorder of an episode, and the blobs of partial and finished episodes."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from esper_actors.rollout.event_records import attribution_records, host_state, started_record, step_records
from esper_actors.rollout.record_checks import (
    TRAJECTORY_COLUMNS,
    RecordingError,
    SavedAssignment,
    SavedFinished,
    SavedPartial,
    check_columns,
    check_finished,
    check_log,
)
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.commitment import committed_slots
from esper_ray.leyline.files.blob import BlobFormat, prefixed, under
from esper_ray.leyline.files.validation import validated
from esper_ray.leyline.policy import Decision, Episode, Trajectory, View, attribute_of, stored_name
from esper_ray.leyline.step_outcome import StepOutcome

_RECORD = BlobFormat("episode record", 3, RecordingError, safetensors.numpy)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One episode to be played."""

    index: int
    """Number of the episode within the run."""
    env: int
    seed: int


@dataclass(slots=True)
class EpisodeRecorder:
    """The steps and events of an episode so far."""

    assignment: Assignment
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in TRAJECTORY_COLUMNS})
    log: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns["actions"])

    @property
    def clock(self) -> dict[str, int]:
        """Ids of the episode in its records."""
        return {"episode": self.assignment.index, "env": self.assignment.env}

    def begin(self, outcome: StepOutcome, control_pp: Sequence[float] = ()) -> None:
        """Record the outcome of ``reset``, and the validation accuracies without growth where they are known."""
        seed = self.assignment.seed
        self.log.append(started_record(self.clock, seed, outcome))
        if control_pp:
            curve = {"val_accuracy_pp": control_pp[-1], "curve_pp": list(control_pp)}
            self.log.append({"kind": "control", **self.clock, "step": 0, "seed": seed, **curve})

    def add(self, view: View, decision: Decision, outcome: StepOutcome) -> list[dict[str, Any]]:
        """Record a step: what was seen, what was decided, and its outcome.

        Returns:
            Its records, the state that it led to last.
        """
        values = (
            view.features,
            view.blueprints,
            view.context,
            view.masks.vector(),
            decision.action.to_indices(),
            decision.log_prob_op,
            decision.log_prob_arguments,
            decision.value,
            decision.q_taken,
        )
        for name, value in zip(TRAJECTORY_COLUMNS, values, strict=True):
            self.columns[name].append(value)
        records = step_records(self.clock, decision, outcome)
        self.log += records
        return records

    def finished(self, env: MorphogenesisEnv) -> Episode:
        """The episode, at its end in ``env``."""
        clock = {**self.clock, "step": env.epoch}
        steps = [record for record in self.log if record["kind"] == "env_epoch"]
        outcome, committed = env.outcome, committed_slots(env.reports)
        ending = {
            "seed": self.assignment.seed,
            "total_reward": env.ledger.total(),
            "reward_by_source": env.ledger.by_source(),
            "fossilised": [slot for slot in env.limits.slots if slot in committed],
            "rollback": outcome.terminated,
            **host_state(outcome),
        }
        operations = Counter(record["operation"] for record in steps)
        return Episode(
            index=self.assignment.index,
            env=self.assignment.env,
            seed=self.assignment.seed,
            trajectory=Trajectory(
                **self._arrays(),
                rewards=env.ledger.by_cause(len(self)),
                bootstrap=0.0,  # the length of an episode is part of what is played for, and all is settled at its end
                terminated=outcome.terminated,
            ),
            log=(*self.log, *attribution_records(clock, env.measured), {"kind": "outcome", **clock, **ending}),
            total_reward=env.ledger.total(),
            val_accuracy_pp=outcome.val_accuracy_pp,
            committed_accuracy_pp=outcome.committed_accuracy_pp,
            growth_ratio=outcome.growth_ratio,
            operations={op.name: operations[op.name] for op in LifecycleOp},
            fossilized=len(committed),
            refused=sum(not record["success"] for record in steps),
            rollback=outcome.terminated,
        )

    def packed(self, environment: bytes, policy: Mapping[str, NDArray[Any]]) -> bytes:
        """The middle of the episode, with the saved states of its environment and its policy."""
        arrays = prefixed("column/", self._arrays()) | prefixed("policy/", policy)
        arrays["environment"] = np.frombuffer(environment, dtype=np.uint8)
        return _RECORD.encode(arrays, {"finished": False, "assignment": _tree(self.assignment), "log": self.log})

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {name: np.asarray(self.columns[name], dtype=kind) for name, kind in TRAJECTORY_COLUMNS.items()}


@dataclass(frozen=True, slots=True)
class PartialEpisode:
    """An episode that can be resumed."""

    recorder: EpisodeRecorder
    environment: bytes
    """For ``MorphogenesisEnv.load_state``."""
    policy: dict[str, NDArray[Any]]
    """For ``LearnedPolicy.load_state``."""


def pack_episode(episode: Episode) -> bytes:
    """A finished episode."""
    tree = _tree(episode)
    trajectory = tree.pop("trajectory")
    arrays = prefixed("trajectory/", {name: getattr(trajectory, name) for name in (*TRAJECTORY_COLUMNS, "rewards")})
    numbers = {name: getattr(trajectory, name) for name in ("bootstrap", "terminated")}
    return _RECORD.encode(arrays, {"finished": True, "episode": tree, "trajectory": numbers})


def unpack(blob: bytes, assignment: Assignment) -> PartialEpisode | Episode:
    """What :meth:`EpisodeRecorder.packed` or :func:`pack_episode` has written of ``assignment``.

    Raises:
        RecordingError: if ``blob`` is damaged, of another version, or of another episode.
    """
    record = _RECORD.decode(blob, "the record of an episode")
    tree, arrays = record.content, record.tensors
    if isinstance(tree, dict) and tree.get("finished") is True:
        return _finished(validated(SavedFinished, tree, "the record of an episode", RecordingError), arrays, assignment)
    return _partial(validated(SavedPartial, tree, "the record of an episode", RecordingError), arrays, assignment)


def _finished(record: SavedFinished, arrays: Mapping[str, NDArray[Any]], assignment: Assignment) -> Episode:
    _check_owner(record.episode, assignment)
    columns = under("trajectory/", arrays)
    _check_names(arrays, prefixed("trajectory/", columns))
    check_finished(record, columns)
    parts: dict[str, Any] = columns | record.trajectory.model_dump()
    trajectory = Trajectory(**parts)
    figures = {attribute_of(name): value for name, value in record.episode.model_dump().items()}
    return Episode(**figures | {"trajectory": trajectory, "log": tuple(figures["log"])})


def _partial(record: SavedPartial, arrays: Mapping[str, NDArray[Any]], assignment: Assignment) -> PartialEpisode:
    _check_owner(record.assignment, assignment)
    columns, policy = under("column/", arrays), under("policy/", arrays)
    _check_names(arrays, {"environment"} | prefixed("column/", columns).keys() | prefixed("policy/", policy).keys())
    check_log(record.log, record.assignment, check_columns(columns, with_rewards=False))
    environment = arrays["environment"]
    if environment.dtype != np.uint8 or environment.ndim != 1:
        raise RecordingError(f"the record of an episode is damaged: environment has type {environment.dtype}")
    recorder = EpisodeRecorder(assignment, {name: list(array) for name, array in columns.items()}, record.log)
    return PartialEpisode(recorder, environment.tobytes(), policy)


def _check_owner(recorded: SavedAssignment, assignment: Assignment) -> None:
    """
    Raises:
        RecordingError: if the record is of another episode.
    """
    owner = Assignment(recorded.index, recorded.env, recorded.seed)
    if owner != assignment:
        raise RecordingError(f"the record is of {owner}, needed is {assignment}")


def _check_names(arrays: Mapping[str, NDArray[Any]], expected: Collection[str]) -> None:
    """
    Raises:
        RecordingError: if an array is missing or has no place.
    """
    different = sorted(arrays.keys() ^ set(expected))
    if different:
        raise RecordingError(f"the record of an episode is damaged: array {different[0]} is missing or has no place")


def _tree(record: Assignment | Episode) -> dict[str, Any]:
    return {stored_name(entry.name): getattr(record, entry.name) for entry in fields(record)}

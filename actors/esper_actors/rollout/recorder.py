"""Recorder of an episode, and the blobs of partial and finished episodes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from esper_actors.rollout.event_records import host_state, started_record, step_records, worth_records
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.blob import BlobFormat, prefixed, under
from esper_ray.leyline.commitment import committed_slots
from esper_ray.leyline.policy import Decision, Episode, Trajectory, View
from esper_ray.leyline.step_outcome import StepOutcome

_COLUMNS: dict[str, Any] = {
    "features": np.float32,
    "blueprints": np.int64,
    "masks": np.int8,
    "actions": np.int64,
    "log_prob_op": np.float32,
    "log_prob_arguments": np.float32,
    "values": np.float32,
    "q_taken": np.float32,
}
"""Columns of a trajectory, except the reward, which is known at the end."""


class RecordingError(ValueError):
    """A blob that is no record of an episode."""


_RECORD = BlobFormat("episode record", 2, RecordingError, safetensors.numpy)


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
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    log: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns["actions"])

    @property
    def clock(self) -> dict[str, int]:
        """Whose records these are."""
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
            view.masks.vector(),
            decision.action.to_indices(),
            decision.log_prob_op,
            decision.log_prob_arguments,
            decision.value,
            decision.q_taken,
        )
        for name, value in zip(_COLUMNS, values, strict=True):
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
            log=(*self.log, *worth_records(clock, env.measured), {"kind": "outcome", **clock, **ending}),
            total_reward=env.ledger.total(),
            val_accuracy_pp=outcome.val_accuracy_pp,
            committed_accuracy_pp=outcome.committed_accuracy_pp,
            growth_ratio=outcome.growth_ratio,
            operations={op.name: operations[op.name] for op in LifecycleOp},
            fossilised=len(committed),
            refused=sum(not record["success"] for record in steps),
            rollback=outcome.terminated,
        )

    def packed(self, environment: bytes, policy: Mapping[str, NDArray[Any]]) -> bytes:
        """The middle of the episode, with the saved states of its environment and its policy."""
        arrays = prefixed("column/", self._arrays()) | prefixed("policy/", policy)
        arrays["environment"] = np.frombuffer(environment, dtype=np.uint8)
        return _RECORD.encode(arrays, {"finished": False, "assignment": _tree(self.assignment), "log": self.log})

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {name: np.asarray(self.columns[name], dtype=kind) for name, kind in _COLUMNS.items()}


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
    arrays = prefixed("trajectory/", {name: getattr(trajectory, name) for name in (*_COLUMNS, "rewards")})
    numbers = {name: getattr(trajectory, name) for name in ("bootstrap", "terminated")}
    return _RECORD.encode(arrays, {"finished": True, "episode": tree, "trajectory": numbers})


def unpack(blob: bytes, assignment: Assignment) -> PartialEpisode | Episode:
    """What :meth:`EpisodeRecorder.pack` or :func:`pack_episode` has written of ``assignment``.

    Raises:
        RecordingError: if ``blob`` is damaged, of another version, or of another episode.
    """
    record = _RECORD.decode(blob, "the record of an episode")
    tree, arrays = record.content, record.tensors
    try:
        owner = tree["episode"] if tree["finished"] else tree["assignment"]
        recorded = Assignment(owner["index"], owner["env"], owner["seed"])
        if recorded != assignment:
            raise RecordingError(f"the record is of {recorded}, needed is {assignment}")
        if tree["finished"]:
            parts: dict[str, Any] = under("trajectory/", arrays) | tree["trajectory"]
            trajectory = Trajectory(**parts)
            return Episode(**owner | {"trajectory": trajectory, "log": tuple(owner["log"])})
        columns = {name: list(array) for name, array in under("column/", arrays).items()}
        if columns.keys() != _COLUMNS.keys():
            raise RecordingError(f"the record of an episode has the columns {sorted(columns)}")
        recorder = EpisodeRecorder(assignment, columns, tree["log"])
        return PartialEpisode(recorder, arrays["environment"].tobytes(), under("policy/", arrays))
    except (KeyError, TypeError) as error:
        raise RecordingError(f"the record of an episode is damaged: {error!r}") from error


def _tree(record: Assignment | Episode) -> dict[str, Any]:
    return {entry.name: getattr(record, entry.name) for entry in fields(record)}

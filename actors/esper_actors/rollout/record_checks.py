"""Checks of recorded episodes that were read: types, shapes, and agreement of their parts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isclose
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from esper_ray.leyline.actions import Blueprint, LifecycleOp, head_sizes
from esper_ray.leyline.context import CONTEXT_SIZE
from esper_ray.leyline.files.tensors import TensorSpec, listed, tensor_problems
from esper_ray.leyline.files.validation import SavedRecord, Whole
from esper_ray.leyline.legality import mask_vector_size
from esper_ray.leyline.observation import observation_size

TRAJECTORY_COLUMNS: Mapping[str, Any] = {
    "features": np.float32,
    "blueprints": np.int64,
    "context": np.float32,
    "masks": np.int8,
    "actions": np.int64,
    "log_prob_op": np.float32,
    "log_prob_arguments": np.float32,
    "values": np.float32,
    "q_taken": np.float32,
}
"""Columns of a trajectory and their types, except the reward, which is known at the end."""

Percentage = Annotated[float, Field(ge=0, le=100)]
Log = list[dict[str, Any]]


class RecordingError(ValueError):
    """A blob that is not a record of an episode."""


class SavedAssignment(SavedRecord):
    """The episode of a record."""

    index: Whole
    env: Whole
    seed: Whole


class SavedPartial(SavedRecord):
    """Record of an unfinished episode, without its arrays."""

    finished: Literal[False]
    assignment: SavedAssignment
    log: Log


class SavedEpisode(SavedAssignment):
    """Final figures of an episode, without its trajectory."""

    log: Log
    total_reward: float
    val_accuracy_pp: Percentage
    committed_accuracy_pp: Percentage
    growth_ratio: Annotated[float, Field(ge=1)]
    operations: dict[str, Whole]
    fossilised: Whole
    refused: Whole
    rollback: bool


class SavedTrajectory(SavedRecord):
    """Numbers of a trajectory besides its arrays."""

    bootstrap: float
    terminated: bool


class SavedFinished(SavedRecord):
    """Record of a finished episode, without its arrays."""

    finished: Literal[True]
    episode: SavedEpisode
    trajectory: SavedTrajectory


def check_columns(columns: Mapping[str, NDArray[Any]], *, with_rewards: bool) -> int:
    """Check the columns of a trajectory against each other.

    Args:
        with_rewards: whether the rewards are one of them.

    Returns:
        Number of steps.

    Raises:
        RecordingError: with the column, the value and the constraint.
    """
    actions, blueprints = columns.get("actions"), columns.get("blueprints")
    if actions is None or blueprints is None or blueprints.ndim != 2:
        raise RecordingError("the record of an episode is damaged: it lacks the columns actions or blueprints")
    steps, slots = blueprints.shape
    if not 1 <= slots <= observation_size(slots) or steps < 1:
        raise RecordingError(f"the record of an episode is damaged: it has {steps} steps and {slots} slots")
    shapes: dict[str, tuple[int, ...]] = {
        "features": (observation_size(slots),),
        "blueprints": (slots,),
        "context": (slots, CONTEXT_SIZE),
        "masks": (mask_vector_size(slots),),
        "actions": (len(head_sizes(slots)),),
    }
    least = {"blueprints": -1.0, "masks": 0.0, "actions": 0.0}
    kinds = {**TRAJECTORY_COLUMNS, "rewards": np.float64} if with_rewards else TRAJECTORY_COLUMNS
    specs = {
        name: TensorSpec(np.dtype(kind).name, (steps, *shapes.get(name, ())), least=least.get(name))
        for name, kind in kinds.items()
    }
    problems = tensor_problems(columns, specs)
    if problems:
        raise RecordingError(f"the record of an episode is damaged: {listed(problems)}")
    most = {"actions": np.array(list(head_sizes(slots).values())) - 1, "masks": 1, "blueprints": len(Blueprint) - 1}
    for name, bound in most.items():
        if bool((columns[name] > bound).any()):
            raise RecordingError(f"the record of an episode is damaged: column {name} is above {bound}")
    return int(steps)


def check_log(log: Log, owner: SavedAssignment, steps: int) -> list[dict[str, Any]]:
    """Check that a log belongs to an episode with ``steps`` steps.

    Returns:
        The records of its steps.

    Raises:
        RecordingError: if it does not.
    """
    for record in log:
        ids = (record.get("episode"), record.get("env"))
        if not isinstance(record.get("kind"), str) or ids != (owner.index, owner.env):
            raise RecordingError(f"the record of an episode is damaged: its log has the record {str(record)[:60]}")
    epochs = [record for record in log if record["kind"] == "env_epoch"]
    if [record.get("step") for record in epochs] != list(range(1, steps + 1)):
        raise RecordingError(f"the record of an episode is damaged: its log has {len(epochs)} of {steps} steps")
    return epochs


def check_finished(record: SavedFinished, columns: Mapping[str, NDArray[Any]]) -> None:
    """Check that the figures of a finished episode are those of its log and trajectory.

    Raises:
        RecordingError: with the figure, its value and what follows from the rest.
    """
    episode = record.episode
    steps = check_columns(columns, with_rewards=True)
    epochs = check_log(episode.log, episode, steps)
    executed = Counter(epoch.get("operation") for epoch in epochs)
    total = float(np.sum(columns["rewards"]))
    near = isclose(episode.total_reward, total, rel_tol=1e-9, abs_tol=1e-9)
    agreement: Sequence[tuple[str, object, object]] = (
        ("operations", episode.operations, {op.name: executed[op.name] for op in LifecycleOp}),
        ("refused", episode.refused, sum(epoch.get("success") is False for epoch in epochs)),
        ("terminated", record.trajectory.terminated, episode.rollback),
        ("total_reward", episode.total_reward, episode.total_reward if near else total),
        ("bootstrap", record.trajectory.bootstrap, 0.0),
        ("fossilised", min(episode.fossilised, columns["blueprints"].shape[1]), episode.fossilised),
    )
    for name, value, expected in agreement:
        if value != expected:
            raise RecordingError(f"the record of an episode is damaged: {name} is {value}, its steps have {expected}")

"""Checkpoints: weights and optimizer as safetensors, everything else as JSON, written atomically.

``learner.safetensors`` holds tensors only; ``state.json`` is the envelope of :mod:`esper_ray.leyline.files.blob`, with
a digest over both files. Both are checked completely before anything is made of them.
"""

import json
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import safetensors.torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from torch import Tensor

from esper_actors.training.learner.state import (
    LearnerNumbers,
    LearnerState,
    LearnerStateError,
    learner_specs,
)
from esper_policies.network import network_specs
from esper_ray.leyline.actions import action_names
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.blob import BlobFormat, prefixed, under
from esper_ray.leyline.files.durable import remove, write_folder
from esper_ray.leyline.files.tensors import dense, listed, tensor_problems
from esper_ray.leyline.files.validation import SavedRecord, Whole, validated
from esper_ray.leyline.observation import schema_hash
from esper_ray.nissa.runs.position import Position

TENSORS_FILE, STATE_FILE = "learner.safetensors", "state.json"
STALE_PREFIX = "behind."
"""On-disk prefix of the stale weights, which play the next round."""
LARGEST_STATE = 1 << 26
"""Bytes of a ``state.json`` above which it is not read."""
HEADER_BYTES, LARGEST_ELEMENT = 1 << 20, 8
"""Bytes that a tensor file may have besides its tensors, and for one number."""

Accuracy = Annotated[float, Field(ge=0, le=100)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class CheckpointError(UserError):
    """A checkpoint that cannot be found, read or used."""

    remedy = "Resume with the configuration of the run, or with `--checkpoint` from an intact checkpoint."


CHECKPOINT = BlobFormat("checkpoint", 5, CheckpointError, safetensors.torch)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two rounds."""

    round_index: int
    """Number of finished rounds."""
    learner: LearnerState
    position: Position
    """Sizes and digests of the growing files of the run."""
    progress: dict[str, Any]
    """Counts of the controller so far."""
    stale_weights: dict[str, Tensor] | None = None
    """Weights of the next round's behaviour policy, if they differ from the learner's."""


CheckpointReader = Callable[[Path, RunConfig], Checkpoint]
"""Function that reads a checkpoint, or raises a :class:`CheckpointError`."""


class BestEpisode(SavedRecord):
    """The best episode so far."""

    episode: Whole
    val_accuracy_pp: Accuracy


class BestRound(SavedRecord):
    """The best round so far, and the checkpoint of the policy that played it."""

    round: Whole
    val_accuracy_ratio: Ratio
    checkpoint: Whole


class NoneYet(SavedRecord):
    """Nothing is the best before the first round."""


class SavedProgress(SavedRecord):
    """Counts of the controller in a checkpoint."""

    round_index: Whole
    env_steps: Whole
    seconds: Annotated[float, Field(ge=0, le=1e12)]
    best: BestEpisode | NoneYet
    best_round: BestRound | NoneYet
    control_pp: list[Accuracy]


class SavedState(SavedRecord):
    """Content of ``state.json``."""

    round: Whole
    config_sha256: str
    observation_schema: str
    actions: list[str]
    numbers: LearnerNumbers
    position: Position
    progress: SavedProgress
    stale: bool
    """Whether the tensors contain the stale weights, which play the next round."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """
        Raises:
            ValueError: if two counts of the same rounds differ.
        """
        for name, number in (("progress.round_index", self.progress.round_index), ("updates", self.numbers.updates)):
            if number != self.round:
                raise ValueError(f"{name} is {number}, it must be {self.round}, as round is")
        best = self.progress.best_round
        if isinstance(best, BestRound) and not best.round < self.round:
            raise ValueError(f"progress.best_round.round is {best.round}, it must be below {self.round}")
        if isinstance(best, BestRound) and not best.round - 1 <= best.checkpoint <= best.round:
            raise ValueError(
                f"progress.best_round.checkpoint is {best.checkpoint}, round {best.round} was played by the policy of "
                "that checkpoint or the one before"
            )
        return self


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    config: RunConfig,
    keep: int | None = None,
    protected_rounds: Collection[int] = (),
) -> Path:
    """Write ``folder/round-<n>`` atomically, then remove all but the newest ``keep``.

    Args:
        protected_rounds: rounds whose checkpoints are never removed.

    Raises:
        CheckpointError: if it could not be loaded again, for example because a weight is not finite; nothing is
            written or removed then.
        WriteError: if it cannot be written; ``folder`` must exist.
    """
    target = folder / checkpoint_name(checkpoint.round_index)
    _check_tensors(checkpoint, config, f"checkpoint {target}")
    tensors = checkpoint.learner.tensors | prefixed(STALE_PREFIX, checkpoint.stale_weights or {})
    state = {
        "round": checkpoint.round_index,
        "config_sha256": config.digest(),
        "observation_schema": schema_hash(),
        "actions": list(action_names()),
        "numbers": checkpoint.learner.numbers,
        "position": checkpoint.position.model_dump(),
        "progress": checkpoint.progress,
        "stale": checkpoint.stale_weights is not None,
    }
    validated(SavedState, state, f"checkpoint {target}: {STATE_FILE}", CheckpointError)
    data = safetensors.torch.save(dense(tensors))
    envelope = json.dumps(CHECKPOINT.seal(state, data), indent=2) + "\n"
    write_folder(target, ((TENSORS_FILE, data), (STATE_FILE, envelope)))
    for left_over in folder.glob(".round-*.old"):
        remove(left_over)
    if keep is not None:
        for old in checkpoints_in(folder)[:-keep]:
            if finished_rounds(old) not in protected_rounds:
                remove(old)
    return target


def checkpoint_name(round_index: int) -> str:
    """Name of the folder of the checkpoint after ``round_index`` rounds."""
    return f"round-{round_index:05d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Folders of checkpoints, incomplete ones too, oldest first."""
    folders = (path for path in folder.glob("round-*") if is_checkpoint_name(path.name) and path.is_dir())
    return sorted(folders, key=finished_rounds)


def is_checkpoint_name(name: str) -> bool:
    """Whether ``name`` is that of a checkpoint."""
    return re.fullmatch(r"round-[0-9]{1,9}", name) is not None


def checkpoints_in(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [path for path in checkpoint_folders(folder) if (path / STATE_FILE).is_file()]


def finished_rounds(path: Path) -> int:
    """Number of finished rounds of the checkpoint ``path``."""
    return int(path.name.removeprefix("round-"))


def remove_later(folder: Path, round_index: int) -> None:
    """Remove the checkpoints after ``round_index``, newest first. So the rest is a run at every moment."""
    for path in reversed(checkpoint_folders(folder)):
        if finished_rounds(path) > round_index:
            remove(path)


def load_checkpoint(path: Path, config: RunConfig) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CheckpointError: if it is damaged, or was written under another version, observation layout or
            configuration; with file, place, value and constraint.
    """
    name = f"checkpoint {path}"
    text = _read(path / STATE_FILE, name, LARGEST_STATE)
    data = _read(path / TENSORS_FILE, name, _most_bytes(config))
    content = CHECKPOINT.unseal_text(text, name, data)
    expected: dict[str, Any] = {"observation_schema": schema_hash(), "actions": list(action_names())}
    expected |= {"config_sha256": config.digest()}
    for key, value in expected.items():
        if isinstance(content, dict) and content.get(key, value) != value:
            raise CheckpointError(f"{name} has {key} {content.get(key)!r}, this run needs {value!r}")
    state = validated(SavedState, content, f"{name}: {STATE_FILE}", CheckpointError)
    if is_checkpoint_name(path.name) and state.round != finished_rounds(path):
        raise CheckpointError(f"{name} is damaged: {STATE_FILE}: round is {state.round}, the folder is of another one")
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name} is damaged: {TENSORS_FILE}: {error}") from error
    own = {key: tensor for key, tensor in tensors.items() if not key.startswith(STALE_PREFIX)}
    stale = under(STALE_PREFIX, tensors) or None
    may, must = (config.system.staleness > 0 and state.round > least for least in (0, 1))
    _check_counts(state, config, name)
    if state.stale != (stale is not None) or (state.stale and not may) or (must and not state.stale):
        raise CheckpointError(
            f"{name} is damaged: {STATE_FILE}: stale is {state.stale}, {TENSORS_FILE} has {len(stale or ())} stale "
            f"weights, after round {state.round} with system.staleness {config.system.staleness}"
        )
    learner = LearnerState(own, content["numbers"])
    checkpoint = Checkpoint(state.round, learner, state.position, content["progress"], stale)
    _check_tensors(checkpoint, config, name)
    return checkpoint


def _check_counts(state: SavedState, config: RunConfig, name: str) -> None:
    """
    Raises:
        CheckpointError: if the counts of the controller are not possible with the environments of the run.
    """
    episodes, progress = state.round * config.system.envs, state.progress
    counts = {"env_steps": (progress.env_steps, episodes * config.episode_length)}
    counts |= {"control_pp": (len(progress.control_pp), episodes)}
    if isinstance(progress.best, BestEpisode):
        counts |= {"best.episode": (progress.best.episode, episodes - 1)}
    for key, (count, most) in counts.items():
        if count > most:
            raise CheckpointError(
                f"{name} is damaged: {STATE_FILE}: progress.{key} is {count}, at most {most} are possible after "
                f"{state.round} rounds of {config.system.envs} episodes"
            )


def load_or_name_intact(
    path: Path, config: RunConfig, advice: Callable[[Path], str], load: CheckpointReader = load_checkpoint
) -> Checkpoint:
    """The checkpoint ``path`` of a run.

    Args:
        advice: the command that uses another checkpoint.

    Raises:
        CheckpointError: as ``load`` does; with the newest checkpoint of the run that can be used, and the command.
    """
    try:
        return load(path, config)
    except CheckpointError as error:
        intact = newest_intact(path.parent, config, load)
        if intact is None:
            raise CheckpointError(f"{error}; no checkpoint of the run can be used") from error
        raise CheckpointError(f"{error}; the newest intact checkpoint is {intact.name}: {advice(intact)}") from error


def newest_intact(folder: Path, config: RunConfig, load: CheckpointReader = load_checkpoint) -> Path | None:
    """The newest checkpoint in ``folder`` that can be used; ``None`` if there is none."""
    for path in reversed(checkpoint_folders(folder)):
        try:
            load(path, config)
        except CheckpointError:
            continue
        return path
    return None


def _read(path: Path, name: str, most: int) -> bytes:
    """
    Raises:
        CheckpointError: if ``path`` cannot be read, or has more than ``most`` bytes.
    """
    if path.is_file() and path.stat().st_size > most:
        raise CheckpointError(f"{name} is damaged: {path.name} has {path.stat().st_size} bytes, at most {most} fit it")
    return CHECKPOINT.read_bytes(path, name)


def _most_bytes(config: RunConfig) -> int:
    """Upper bound of the size of a tensor file."""
    specs = [*learner_specs(config.policy).values(), *network_specs(config.policy).values()]
    return LARGEST_ELEMENT * sum(math.prod(spec.shape) for spec in specs) + HEADER_BYTES


def _check_tensors(checkpoint: Checkpoint, config: RunConfig, name: str) -> None:
    """
    Raises:
        CheckpointError: if the tensors are not those of a learner of ``config``, or a number is not possible.
    """
    try:
        checkpoint.learner.check(config.policy)
    except LearnerStateError as error:
        raise CheckpointError(f"{name} is damaged: {TENSORS_FILE}: {error}") from error
    if checkpoint.stale_weights is not None:
        problems = tensor_problems(checkpoint.stale_weights, network_specs(config.policy))
        if problems:
            raise CheckpointError(f"{name} is damaged: {TENSORS_FILE}: stale weights: {listed(problems)}")

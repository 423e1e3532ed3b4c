"""Checkpoints: weights and optimiser as safetensors, everything else as JSON, written atomically.

``learner.safetensors`` holds tensors only; ``state.json`` is the envelope of :mod:`esper_ray.leyline.blob`, with a
digest over both files.
"""

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from esper_actors.training.ppo_learner import LearnerState
from esper_ray.leyline.actions import action_names
from esper_ray.leyline.blob import BlobFormat, prefixed, under
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.observation import schema_hash

TENSORS_FILE, STATE_FILE = "learner.safetensors", "state.json"
STALE_PREFIX = "behind."
"""On-disk prefix of the stale weights, which play the next round."""
LEARNER_NUMBERS = ("updates", "base_moments", "slot_moments", "return_moments")


class CheckpointError(UserError):
    """A checkpoint that cannot be found, read or used."""

    remedy = "Resume with the configuration of the run, or from another checkpoint."


CHECKPOINT = BlobFormat("checkpoint", 3, CheckpointError, safetensors.torch)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two rounds."""

    round_index: int
    """Number of finished rounds."""
    learner: LearnerState
    position: dict[str, int]
    """Lengths of the append-only files of the run."""
    progress: dict[str, Any]
    """Counts of the controller so far."""
    stale_weights: dict[str, Tensor] | None = None
    """Weights of the next round's behaviour policy, if they differ from the learner's."""


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
    """
    target = folder / f"round-{checkpoint.round_index:05d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = checkpoint.learner.tensors | prefixed(STALE_PREFIX, checkpoint.stale_weights or {})
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    (temporary / TENSORS_FILE).write_bytes(data)
    state = {
        "round": checkpoint.round_index,
        "config_sha256": config.digest(),
        "observation_schema": schema_hash(),
        "actions": list(action_names()),
        "numbers": checkpoint.learner.numbers,
        "position": checkpoint.position,
        "progress": checkpoint.progress,
    }
    (temporary / STATE_FILE).write_text(json.dumps(CHECKPOINT.seal(state, data), indent=2) + "\n")
    replaced = folder / f".{target.name}.old"
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        os.replace(target, replaced)
    os.replace(temporary, target)
    shutil.rmtree(replaced, ignore_errors=True)
    if keep is not None:
        for old in checkpoints_in(folder)[:-keep]:
            if finished_rounds(old) not in protected_rounds:
                shutil.rmtree(old)
    return target


def checkpoints_in(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    numbered = [path for path in folder.glob("round-*") if path.name.removeprefix("round-").isdecimal()]
    complete = [path for path in numbered if (path / STATE_FILE).is_file()]
    return sorted(complete, key=finished_rounds)


def finished_rounds(path: Path) -> int:
    """Number of finished rounds of the checkpoint ``path``."""
    return int(path.name.removeprefix("round-"))


def load_checkpoint(path: Path, config: RunConfig) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CheckpointError: if it is damaged, or was written under another version, observation layout or
            configuration.
    """
    try:
        envelope = json.loads((path / STATE_FILE).read_text())
        data = (path / TENSORS_FILE).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    state = CHECKPOINT.unseal(envelope, f"checkpoint {path}", data)
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    missing = [
        key for key in ("round", "numbers", "position", "progress") if not state.get(key) and state.get(key) != 0
    ]
    numbers = state.get("numbers")
    missing += [f"numbers.{key}" for key in LEARNER_NUMBERS if not isinstance(numbers, dict) or key not in numbers]
    if missing:
        raise CheckpointError(f"checkpoint {path} is damaged: its state lacks {', '.join(missing)}")
    expected: dict[str, Any] = {"observation_schema": schema_hash(), "actions": list(action_names())}
    expected |= {"config_sha256": config.digest()}
    for key, value in expected.items():
        if state.get(key) != value:
            raise CheckpointError(f"checkpoint {path} has {key} {state.get(key)!r}, this run needs {value!r}")
    stale_weights = under(STALE_PREFIX, tensors)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(STALE_PREFIX)}
    learner = LearnerState(own, state["numbers"])
    return Checkpoint(state["round"], learner, state["position"], state["progress"], stale_weights or None)

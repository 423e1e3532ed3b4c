"""Changes of checkpoints that keep them otherwise valid."""

import json
from pathlib import Path

from safetensors.torch import load, save

from esper_actors.training.checkpoint import CHECKPOINT, STATE_FILE, TENSORS_FILE
from esper_ray.leyline.files.digests import FilePrefix
from esper_ray.nissa.log.numbering import LogPosition
from esper_ray.nissa.runs.position import Position

POSITION = Position(
    rounds=FilePrefix.of(b"round\n0\n"),
    timings=FilePrefix.of(b"round,ended\n0,1.5\n"),
    events=LogPosition(sequence=4, sources={"driver": 4}, lines_from=0, lines_sha256="0" * 64),
)
"""Ends of the files of a run after one round."""


def state_of(path: Path):
    """The state of the checkpoint ``path``."""
    return json.loads((path / STATE_FILE).read_text())["content"]


def rewrite(path: Path, change_state=None, change_tensors=None):
    """Change the state and the tensors of the checkpoint ``path`` in place, and write the digest that fits."""
    state, tensors = state_of(path), load((path / TENSORS_FILE).read_bytes())
    if change_state is not None:
        change_state(state)
    if change_tensors is not None:
        change_tensors(tensors)
    data = save(tensors)
    (path / TENSORS_FILE).write_bytes(data)
    (path / STATE_FILE).write_text(json.dumps(CHECKPOINT.seal(state, data)))


def rewrite_envelope(path: Path, **changes):
    """Change the envelope of the checkpoint ``path`` and nothing else."""
    envelope = json.loads((path / STATE_FILE).read_text())
    (path / STATE_FILE).write_text(json.dumps(envelope | changes))

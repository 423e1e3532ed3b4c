"""An episode in the middle, as bytes: one safetensors blob with the tensors and a JSON text about everything else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esper_ray.kasmina.network.growth import GrowthRecord
from esper_ray.kasmina.optimizer import ParameterState
from esper_ray.kasmina.organism import OrganismSnapshot
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.records import Measurement
from esper_ray.simic.live.engine import SavedBooks
from esper_ray.tolaria.governor import GovernorState
from esper_ray.tolaria.seed_measurements import MeasuredSeeds

VERSION = 2
TEXT = "episode"
"""Name of the tensor that holds the JSON text."""


class EpisodeStateError(UserError, ValueError):
    """A saved episode that cannot be gone on with here."""

    remedy = "Load the state into an environment with the same configuration, data and host."


@dataclass(frozen=True, slots=True)
class LifeProgress:
    """What is known of a network's life besides its tensors and seeds."""

    seed: int
    epoch: int
    first_accuracy_pp: float
    since_snapshot: int
    """Epochs since the trusted state was taken."""
    measured: Measurement
    vitals: MeasuredSeeds
    governor: GovernorState


@dataclass(frozen=True, slots=True)
class PlayProgress:
    """What the environment remembers of the episode."""

    illegal_actions: int
    last_operation: int
    last_success: bool
    last_intervention: int | None
    """Step of the last operation that took effect."""
    losses: tuple[float, ...]
    accuracies_pp: tuple[float, ...]
    over: bool
    books: SavedBooks


@dataclass(frozen=True, slots=True)
class Trusted:
    """The last state that the governor trusted."""

    organism: OrganismSnapshot
    vitals: MeasuredSeeds
    measured: Measurement


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """All that an episode needs to go on."""

    play: PlayProgress
    life: LifeProgress
    organism: OrganismSnapshot
    trusted: Trusted
    generator: Mapping[str, Any]
    """State of the environment's own random stream, from which seeds of later episodes are drawn."""
    digest: str
    """Of the configuration that the episode follows."""
    data: str
    """Fingerprint of the data that it learns from."""


class _Text(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    version: int
    digest: str
    data: str
    generator: dict[str, Any]
    play: PlayProgress
    life: LifeProgress
    growth: GrowthRecord
    trusted_growth: GrowthRecord
    trusted_vitals: MeasuredSeeds
    trusted_measured: Measurement
    plain: dict[str, Any]
    """Numbers that optimisers keep beside tensors, by name."""


def pack(state: EpisodeState) -> bytes:
    """``state`` as a safetensors blob. Nothing in it needs unpickling."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for owner, snapshot in (("now", state.organism), ("trusted", state.trusted.organism)):
        tensors |= {f"{owner}/model/{name}": tensor for name, tensor in snapshot.tensors.items()}
        for name, kept in snapshot.optimizer.items():
            for key, value in kept.items():
                (tensors if isinstance(value, Tensor) else plain)[f"{owner}/optimizer/{name}/{key}"] = value
    trusted = state.trusted
    text = _Text(
        version=VERSION,
        digest=state.digest,
        data=state.data,
        generator=dict(state.generator),
        play=state.play,
        life=state.life,
        growth=state.organism.growth,
        trusted_growth=trusted.organism.growth,
        trusted_vitals=trusted.vitals,
        trusted_measured=trusted.measured,
        plain=plain,
    )
    tensors[TEXT] = torch.frombuffer(bytearray(text.model_dump_json().encode()), dtype=torch.uint8)
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def unpack(blob: bytes, digest: str, data: str, device: torch.device) -> EpisodeState:
    """The state that :func:`pack` wrote, with its tensors on ``device``.

    Args:
        digest: of the configuration that is to be followed.
        data: fingerprint of the data that is to be learnt from.

    Raises:
        EpisodeStateError: if it is no such blob, or belongs to another configuration, version or data.
    """
    try:
        tensors = load(blob)
        text = _Text.model_validate_json(tensors.pop(TEXT).numpy().tobytes())
    except (SafetensorError, KeyError, ValidationError) as error:
        raise EpisodeStateError(f"these {len(blob)} bytes are no saved episode: {error}") from error
    if text.version != VERSION:
        raise EpisodeStateError(f"the episode was saved as version {text.version}; this is version {VERSION}")
    if text.digest != digest:
        raise EpisodeStateError(
            f"the episode follows the configuration {text.digest[:12]}, the environment {digest[:12]}; "
            "they differ in what decides an episode"
        )
    if text.data != data:
        raise EpisodeStateError(f"the episode learns from the data {text.data[:12]}, the environment from {data[:12]}")
    moved = {name: tensor.to(device) for name, tensor in tensors.items()} | text.plain
    trusted = _snapshot("trusted", text.trusted_growth, moved)
    return EpisodeState(
        play=text.play,
        life=text.life,
        organism=_snapshot("now", text.growth, moved),
        trusted=Trusted(trusted, text.trusted_vitals, text.trusted_measured),
        generator=text.generator,
        digest=text.digest,
        data=text.data,
    )


def _snapshot(owner: str, growth: GrowthRecord, values: Mapping[str, Any]) -> OrganismSnapshot:
    model = f"{owner}/model/"
    optimizer: dict[str, ParameterState] = {}
    for name, value in values.items():
        if name.startswith(f"{owner}/optimizer/"):
            parameter, key = name.split("/", 2)[2].rsplit("/", 1)
            optimizer.setdefault(parameter, {})[key] = value
    tensors = {name.removeprefix(model): tensor for name, tensor in values.items() if name.startswith(model)}
    return OrganismSnapshot(growth, tensors, optimizer)

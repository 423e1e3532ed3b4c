"""Snapshot of an unfinished episode, and its encoding as a blob of tensors and JSON."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from pydantic import ConfigDict
from torch import Tensor

from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.kasmina.network.optimizer_states import ParameterState
from esper_ray.kasmina.network.records import GrowthRecord
from esper_ray.kasmina.organism import OrganismSnapshot
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.blob import BlobFormat, prefixed, under
from esper_ray.leyline.files.validation import SavedRecord, validated
from esper_ray.leyline.records import Measurement
from esper_ray.simic.live.engine import SavedRewards
from esper_ray.tolaria.governor import GovernorState


class EpisodeStateError(UserError, ValueError):
    """Saved episode that this environment cannot resume."""

    remedy = "Load the state into an environment with the same configuration, data and host."


SNAPSHOT = BlobFormat("episode snapshot", 6, EpisodeStateError, safetensors.torch)


@dataclass(frozen=True, slots=True)
class LifeProgress:
    """Progress of a network apart from its tensors and seeds."""

    seed: int
    epoch: int
    first_accuracy_pp: float
    since_snapshot: int
    """Epochs since the last snapshot of the trusted state."""
    measured: Measurement
    seeds: MeasuredSeeds
    governor: GovernorState


@dataclass(frozen=True, slots=True)
class PlayProgress:
    """Progress of an episode apart from its network."""

    illegal_actions: int
    last_operation: int
    last_success: bool
    last_intervention: int | None
    """Step of the last operation that took effect."""
    losses: tuple[float, ...]
    accuracies_pp: tuple[float, ...]
    over: bool
    rewards: SavedRewards


@dataclass(frozen=True, slots=True)
class TrustedState:
    """Last healthy state of a network, which a rollback restores."""

    organism: OrganismSnapshot
    seeds: MeasuredSeeds
    measured: Measurement


@dataclass(frozen=True, slots=True)
class EpisodeSnapshot:
    """Complete state of an unfinished episode."""

    play: PlayProgress
    life: LifeProgress
    organism: OrganismSnapshot
    trusted: TrustedState
    generator: Mapping[str, Any]
    """State of the environment's random stream, the source of the seeds of later episodes."""
    digest: str
    """Digest of the episode's configuration."""
    data: str
    """Fingerprint of the episode's data."""


class _Text(SavedRecord):
    # A seed that has diverged has norms that are not finite, and does not concern the host.
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")

    digest: str
    data: str
    generator: dict[str, Any]
    play: PlayProgress
    life: LifeProgress
    growth: GrowthRecord
    trusted_growth: GrowthRecord
    trusted_seeds: MeasuredSeeds
    trusted_measured: Measurement
    plain: dict[str, bool | int | float | None]
    """Entries of optimizer states that are not tensors, by name."""
    optimizer: list[str]
    """Names of the tensors of optimizer states, which follow from no configuration."""


def pack(state: EpisodeSnapshot) -> bytes:
    """``state`` as a safetensors blob. Equal states give equal bytes. Nothing in it needs unpickling.

    Raises:
        EpisodeStateError: if a tensor of the host cannot be written exactly, such as a sparse one; with its name.
    """
    trusted = state.trusted
    tensors, plain = flattened(state.organism, trusted.organism)
    text = _Text(
        digest=state.digest,
        data=state.data,
        generator=dict(state.generator),
        play=state.play,
        life=state.life,
        growth=state.organism.growth,
        trusted_growth=trusted.organism.growth,
        trusted_seeds=trusted.seeds,
        trusted_measured=trusted.measured,
        plain=plain,
        optimizer=sorted(name for name in tensors if "/optimizer/" in name),
    )
    return SNAPSHOT.encode(dict(sorted(tensors.items())), text.model_dump(mode="json"))


def unpack(blob: bytes, digest: str, data: str, device: torch.device) -> EpisodeSnapshot:
    """The state that :func:`pack` wrote, with its tensors on ``device``.

    Args:
        digest: digest of the configuration of the environment.
        data: fingerprint of the data of the environment.

    Raises:
        EpisodeStateError: if it is not such a blob, or belongs to another configuration, version or data.
    """
    saved = SNAPSHOT.decode(blob, "the saved episode")
    text = validated(_Text, saved.content, "the saved episode", EpisodeStateError, complete=True)
    if text.digest != digest:
        raise EpisodeStateError(
            f"the episode has configuration {text.digest[:12]}, the environment {digest[:12]}; "
            "they differ in keys that determine an episode"
        )
    if text.data != data:
        raise EpisodeStateError(f"the episode has data {text.data[:12]}, the environment has data {data[:12]}")
    strange = strange_names(saved.tensors, text.optimizer, text.plain)
    if strange:
        raise EpisodeStateError(f"the saved episode is damaged: tensor {strange[0]} is missing or has no place")
    moved = {name: tensor.to(device) for name, tensor in saved.tensors.items()} | text.plain
    trusted = organism_snapshot("trusted", text.trusted_growth, moved)
    return EpisodeSnapshot(
        play=text.play,
        life=text.life,
        organism=organism_snapshot("now", text.growth, moved),
        trusted=TrustedState(trusted, text.trusted_seeds, text.trusted_measured),
        generator=text.generator,
        digest=text.digest,
        data=text.data,
    )


def flattened(now: OrganismSnapshot, trusted: OrganismSnapshot) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain values of two snapshots by name, the present one under ``now``."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for owner, snapshot in (("now", now), ("trusted", trusted)):
        tensors |= prefixed(f"{owner}/model/", snapshot.tensors)
        for name, slots in snapshot.optimizer.items():
            for key, value in slots.items():
                (tensors if isinstance(value, Tensor) else plain)[f"{owner}/optimizer/{name}/{key}"] = value
    return tensors, dict(sorted(plain.items()))


def strange_names(tensors: Collection[str], optimizer: Collection[str], plain: Collection[str]) -> list[str]:
    """Names without an owner, and differences to the optimizer states that were written.

    Args:
        tensors: names of the tensors that were read.
        optimizer: names of the tensors of optimizer states that were written.
        plain: names of the other values of optimizer states.
    """
    own = {name for name in tensors if name.startswith(("now/optimizer/", "trusted/optimizer/"))}
    model = {name for name in tensors if name.startswith(("now/model/", "trusted/model/"))}
    strange = sorted(set(tensors) - own - model | own ^ set(optimizer))
    return strange + [name for name in plain if name.count("/") < 3 or name in tensors]


def organism_snapshot(owner: str, growth: GrowthRecord, values: Mapping[str, Any]) -> OrganismSnapshot:
    """The snapshot of ``owner`` among the ``values`` of :func:`flattened`."""
    optimizer: dict[str, ParameterState] = {}
    for name, value in under(f"{owner}/optimizer/", values).items():
        parameter, key = name.rsplit("/", 1)
        optimizer.setdefault(parameter, {})[key] = value
    return OrganismSnapshot(growth, under(f"{owner}/model/", values), optimizer)

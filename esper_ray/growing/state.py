"""Saved state of a session: bytes of tensors and JSON. Nothing in them needs unpickling."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import safetensors.torch
import torch
from pydantic import ConfigDict
from torch import Tensor

from esper_ray.growing.decisions import Decided, Step
from esper_ray.growing.ending import Ending
from esper_ray.growing.options import SessionOptions
from esper_ray.kasmina.measurement.gradients import GradientWatch
from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.records import GrowthRecord
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism, OrganismSnapshot
from esper_ray.leyline.actions import Action
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.blob import BlobFormat, prefixed, under
from esper_ray.leyline.files.tensors import TensorSpec
from esper_ray.leyline.files.validation import SavedRecord, Whole, validated
from esper_ray.leyline.legality import Limits, legality
from esper_ray.leyline.policy import Policy, View
from esper_ray.leyline.records import Measurement
from esper_ray.runtime.signals import SignalHistory
from esper_ray.runtime.snapshot import LifeProgress, TrustedState, flattened, organism_snapshot, strange_names
from esper_ray.runtime.snapshot_checks import check_life, check_measurement, require

SAVED_GROWTH = "the saved growth"
WATCH, RANDOM = "watch/", "random/"
"""Beginnings of the names of gradient sums and of states of random streams."""


class GrowthStateError(UserError, ValueError):
    """Saved growth that this session cannot resume, or a state that cannot be saved."""

    remedy = "Load the state into a session that was made with the same model, data, policy and options."


STATE = BlobFormat("growth session", 3, GrowthStateError, safetensors.torch)


@dataclass(frozen=True, slots=True)
class SessionState:
    """Complete state of a session."""

    life: LifeProgress
    rollbacks: int
    first_loss: float | None
    """Unit of scores that follow from a loss."""
    signals: SignalHistory
    restored: str | None
    """Reason of a rollback after the last epoch."""
    open: tuple[Action, bool] | None
    """Action of the epoch that is being trained, and whether it took effect."""
    history: list[Step]
    decided: list[Decided]
    endings: tuple[Ending, ...] | None
    organism: OrganismSnapshot
    trusted: TrustedState
    groups: list[dict[str, Any]]
    """Options of the optimizer's groups."""
    watch: GradientWatch
    random: Mapping[str, Tensor]
    """States of torch's global random streams, by device type."""


class _Text(SavedRecord):
    # A seed that has diverged has norms that are not finite, and does not concern the host.
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")

    settings: dict[str, str]
    data: str
    life: LifeProgress
    rollbacks: Whole
    first_loss: float | None
    signals: SignalHistory
    restored: str | None
    open_action: tuple[int, ...] | None
    open_success: bool
    history: list[Step]
    decided: list[Decided]
    endings: tuple[Ending, ...] | None
    growth: GrowthRecord
    trusted_growth: GrowthRecord
    trusted_seeds: MeasuredSeeds
    trusted_measured: Measurement
    groups: list[dict[str, Any]]
    steps: Whole
    host_elements: Whole
    watched: dict[str, tuple[str, list[int]]]
    """Identity and tensor sizes of the seeds with gradient sums."""
    plain: dict[str, bool | int | float | None]
    """Entries of optimizer states that are not tensors, by name."""
    optimizer: list[str]
    """Names of the tensors of optimizer states."""


class Settled(Protocol):
    """What two sessions must have in common."""

    epochs: int
    seed: int
    limits: Limits
    options: SessionOptions
    policy: Policy

    @property
    def model(self) -> MorphogeneticModel: ...

    @property
    def optimizer(self) -> GrowingOptimizer: ...


def common_settings(session: Settled) -> dict[str, str]:
    """What a session must have in common with a saved one, by name."""
    model, limits = session.model, session.limits
    return {
        "model": type(model.host).__name__,
        "slots": ", ".join(f"{slot} on {at.place}" for slot, at in model.attachments.items()),
        "epochs": str(session.epochs),
        "seed": str(session.seed),
        "policy": type(session.policy).__name__,
        "blueprints": ", ".join(limits.blueprint_name(blueprint) for blueprint in sorted(limits.blueprints)),
        "styles": ", ".join(style.id for style in sorted(limits.styles)),
        "rules": str(model.growth.rules),
        "optimizer": session.optimizer.description,
        "training": str(session.options),
    }


def pack(state: SessionState, settings: Mapping[str, str], data: str) -> bytes:
    """``state`` as a safetensors blob. Equal states give equal bytes.

    Args:
        settings: what a session must have in common, by name.
        data: fingerprint of the held-out examples.

    Raises:
        GrowthStateError: if a part cannot be written exactly, such as a sparse tensor; with its name.
    """
    trusted = state.trusted
    tensors, plain = flattened(state.organism, trusted.organism)
    for name, value in plain.items():
        if not isinstance(value, bool | int | float | None):
            raise GrowthStateError(f"{name} is a {type(value).__name__}; tensors and numbers can be saved")
    optimizer = sorted(name for name in tensors if "/optimizer/" in name)
    tensors |= prefixed(WATCH, state.watch.sums) | prefixed(RANDOM, dict(state.random))
    action, success = state.open or (None, False)
    text = _Text(
        settings=dict(settings),
        data=data,
        life=state.life,
        rollbacks=state.rollbacks,
        first_loss=state.first_loss,
        signals=state.signals,
        restored=state.restored,
        open_action=None if action is None else tuple(action.to_indices()),
        open_success=success,
        history=state.history,
        decided=state.decided,
        endings=state.endings,
        growth=state.organism.growth,
        trusted_growth=trusted.organism.growth,
        trusted_seeds=trusted.seeds,
        trusted_measured=trusted.measured,
        groups=state.groups,
        steps=state.watch.steps,
        host_elements=state.watch.host_elements,
        watched=state.watch.seeds,
        plain=plain,
        optimizer=optimizer,
    )
    return STATE.encode(dict(sorted(tensors.items())), text.model_dump(mode="json"))


def unpack(blob: bytes, settings: Mapping[str, str], data: str, limits: Limits, device: torch.device) -> SessionState:
    """The state that :func:`pack` wrote, with its tensors on ``device``.

    Raises:
        GrowthStateError: if it is not such a blob, or belongs to a session with other settings or data.
    """
    saved = STATE.decode(blob, SAVED_GROWTH)
    text = validated(_Text, saved.content, SAVED_GROWTH, GrowthStateError, complete=True)
    for name in sorted(settings.keys() | text.settings.keys()):
        there, here = text.settings.get(name), settings.get(name)
        if there != here:
            raise GrowthStateError(f"{SAVED_GROWTH} belongs to another session: {name} is {there} there, {here} here")
    if text.data != data:
        raise GrowthStateError(f"{SAVED_GROWTH} has held-out examples {text.data[:12]}, the session has {data[:12]}")
    sums, random = under(WATCH, saved.tensors), under(RANDOM, saved.tensors)
    rest = {name: tensor for name, tensor in saved.tensors.items() if not name.startswith((WATCH, RANDOM))}
    if strange := strange_names(rest, text.optimizer, text.plain):
        raise GrowthStateError(f"{SAVED_GROWTH} is damaged: tensor {strange[0]} is missing or has no place")
    moved = {name: tensor.to(device) for name, tensor in rest.items()} | text.plain
    watch = GradientWatch()
    watch.steps, watch.host_elements = text.steps, text.host_elements
    watch.sums, watch.seeds = {name: total.to(device) for name, total in sums.items()}, dict(text.watched)
    return SessionState(
        life=text.life,
        rollbacks=text.rollbacks,
        first_loss=text.first_loss,
        signals=text.signals,
        restored=text.restored,
        open=None if text.open_action is None else (_action(text.open_action, limits), text.open_success),
        history=list(text.history),
        decided=list(text.decided),
        endings=text.endings,
        organism=organism_snapshot("now", text.growth, moved),
        trusted=TrustedState(
            organism_snapshot("trusted", text.trusted_growth, moved), text.trusted_seeds, text.trusted_measured
        ),
        groups=text.groups,
        watch=watch,
        random=random,
    )


def check(state: SessionState, organism: Organism, epochs: int, window: int, examples: int) -> None:
    """Check that a session can have led to ``state``. Nothing is changed.

    Args:
        organism: that of the session, with its host and slots.
        epochs: length of the growth.
        window: number of epochs in the statistics of the governor.
        examples: number of scores of a measurement.

    Raises:
        ValueError: with the place, the value and the constraint.
    """
    slots, life = organism.model.slot_ids, state.life
    check_life(life, epochs, window, slots)
    begun = life.epoch + (state.open is not None)
    require(len(state.history) == begun, "history", len(state.history), f"{begun} steps after {life.epoch} epochs")
    require(len(state.decided) == begun, "decided", len(state.decided), f"{begun} decisions")
    require([step.epoch for step in state.history] == list(range(begun)), "history epochs", "another", "in order")
    require(state.open is not None or not state.watch.steps, "steps", state.watch.steps, "0 between epochs")
    for place, measured in (("measured", life.measured), ("trusted", state.trusted.measured)):
        check_measurement(place, measured, slots, examples)
    for owner, snapshot in (("now", state.organism), ("trusted", state.trusted.organism)):
        growth, present = snapshot.growth, organism.model.growth
        require(growth.seed == present.seed, f"{owner} growth.seed", growth.seed, f"{present.seed}")
        require(0 <= growth.epoch <= life.epoch, f"{owner} growth.epoch", growth.epoch, f"in [0, {life.epoch}]")
        organism.check(snapshot)
        for name, entries in snapshot.optimizer.items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    _check_entry(f"{owner} optimizer {name} {key}", value, snapshot.tensors[name])
    _check_watch(state.watch)


def _check_entry(place: str, value: Tensor, parameter: Tensor) -> None:
    """Check that a tensor of the optimizer's state fits ``parameter``."""
    shapes, types = [(), (1,), tuple(parameter.shape)], {parameter.dtype, torch.float32}
    require(tuple(value.shape) in shapes, f"{place} shape", tuple(value.shape), f"one of {shapes}")
    floats = not value.is_floating_point() or value.dtype in types
    require(floats, f"{place} type", str(value.dtype), "that of the parameter")


def _check_watch(watch: GradientWatch) -> None:
    seeds = {name for name in watch.sums if name != "host"}
    require(seeds == watch.seeds.keys(), "watched", sorted(watch.seeds), f"{sorted(seeds)}")
    for name, total in watch.sums.items():
        columns = 1 if name == "host" else len(watch.seeds[name][1]) + 1
        problem = TensorSpec("float32", (2, columns), finite=False).problem(total)
        require(problem is None, f"{WATCH}{name}", problem, f"(2, {columns})")


def replayed(policy: Policy, seed: int, decided: list[Decided], limits: Limits) -> Policy:
    """A copy of ``policy`` that has made all decisions again.

    Raises:
        GrowthStateError: if it decides differently.
    """
    fresh = copy.deepcopy(policy)
    fresh.begin_episode(seed)
    for number, past in enumerate(decided):
        view = View.build(past.signals, past.reports, legality(past.reports, past.limits(limits)), limits.places)
        action = tuple(fresh.decide(view).action.to_indices())
        if action != past.action:
            decisions = f"its decision {number} was {past.action}, this policy's is {action}"
            raise GrowthStateError(f"{SAVED_GROWTH} belongs to another policy: {decisions}")
    return fresh


def _action(indices: tuple[int, ...], limits: Limits) -> Action:
    try:
        return Action.from_indices(list(indices), len(limits.slots))
    except ValueError as error:
        raise GrowthStateError(f"{SAVED_GROWTH} is damaged: open_action: {error}") from error

"""Checkpoint of a grown model: tensors and a manifest from which the structure is rebuilt.

The manifest is JSON; in ``state_dict()`` it is stored as a tensor of bytes, so that all values there are
tensors. Files are safetensors; nothing is unpickled.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from esper_ray.kasmina.export.differences import (
    EXTRA_STATE,
    amplitude_differences,
    difference_message,
    slot_differences,
    tensor_differences,
)
from esper_ray.kasmina.lifecycle.consistency import check_seeds
from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.kasmina.modules import assign, overlaps, repeated_dimensions
from esper_ray.kasmina.network.records import GrowthRecord
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.actions import AlphaCurve, AlphaMode, BlendOperator, GerminationStyle
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.files.blob import BlobFormat, under
from esper_ray.leyline.files.validation import SavedRecord, validated
from esper_ray.leyline.stages import Stage

MANIFEST_VERSION = 3
Manifest = dict[str, Any]


class _Seed(SavedRecord):
    state: SeedState


class SavedSlot(SavedRecord):
    """One slot in a manifest."""

    module: str
    producer: str | None
    """Layer at which the span of the slot begins."""
    topology: str
    channels: Annotated[int, Field(ge=1)]
    causal: bool
    layout: str


class SavedManifest(SavedRecord):
    """Slots and seeds of a grown model as its file holds them."""

    version: int
    slots: dict[str, SavedSlot]
    seeds: dict[str, dict[str, Any] | None]
    germinations: dict[str, Annotated[int, Field(ge=0)]]
    added: dict[str, Annotated[int, Field(ge=0)]]
    """Channels that were folded into the layers of each span."""
    epoch: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]


class _Content(SavedRecord):
    """Content of a file besides the tensors."""

    aliases: dict[str, str]
    """Names of tied tensors, and the names under which they are stored."""


class TopologyError(UserError, ValueError):
    """A checkpoint that does not belong to the model. The message lists the differences."""

    remedy = "Wrap the same model with the same slots before the state is loaded."


MODEL_FILE = BlobFormat("grown model", 2, TopologyError, safetensors.torch)


def model_manifest(model: SlottedNetwork) -> Manifest:
    """Slots, shapes and seeds of ``model`` as plain data."""
    record = model.growth.record()
    slots = {
        slot: {
            "module": at.module,
            "producer": None if at.region is None else at.region.producer.name,
            "topology": at.shape.topology.value,
            "channels": at.shape.channels,
            "causal": at.shape.causal,
            "layout": at.layout.value,
        }
        for slot, at in model.attachments.items()
    }
    seeds = {slot: None if state is None else seed_to_json(state) for slot, state in record.states.items()}
    return {
        "version": MANIFEST_VERSION,
        "slots": slots,
        "seeds": seeds,
        "germinations": dict(record.germinations),
        "added": dict(record.added),
        "epoch": record.epoch,
        "seed": record.seed,
    }


def manifest_tensor(model: SlottedNetwork) -> Tensor:
    """The manifest as UTF-8 bytes in a (N,) uint8 tensor."""
    return torch.tensor(list(json.dumps(model_manifest(model), sort_keys=True).encode()), dtype=torch.uint8)


def seed_to_json(state: SeedState) -> dict[str, Any]:
    """``state`` in JSON's types; enumerations become their names."""
    tree = asdict(state)
    for key in ("style", "stage", "previous_stage"):
        tree[key] = tree[key].name
    tree["outgoing"] = None if state.outgoing is None else state.outgoing.name
    tree["alpha"] |= {"mode": state.alpha.mode.name, "curve": state.alpha.curve.name}
    return tree | {"shut_by": list(state.shut_by)}


def seed_from_json(tree: Mapping[str, Any]) -> SeedState:
    """The state that :func:`seed_to_json` wrote. Types are exact: an integer is neither a boolean nor a text.

    Raises:
        KeyError, TypeError, ValueError: if a field is missing, unknown or of another type.
    """
    alpha = dict(tree["alpha"])
    alpha |= {"mode": AlphaMode[alpha["mode"]].value, "curve": AlphaCurve[alpha["curve"]].value}
    fields = dict(tree) | {
        "style": GerminationStyle[tree["style"]].value,
        "stage": Stage[tree["stage"]].value,
        "previous_stage": Stage[tree["previous_stage"]].value,
        "outgoing": None if tree["outgoing"] is None else BlendOperator[tree["outgoing"]].value,
        "alpha": alpha,
    }
    return validated(_Seed, {"state": fields}, "the seed", ValueError, complete=True).state


def load_state(model: SlottedNetwork, state: Mapping[str, Any], load: Callable[..., Any]) -> Any:
    """Rebuild the seeds that ``state`` holds, then ``load`` its tensors strictly.

    Raises:
        TopologyError: naming every difference; ``model`` is as it was then.
    """
    with _refitted(model, state):
        record, modules = _checked(model, state)
        with repetitions_apart(model.host):
            _try_out(model.host, _with_versions(model.host, under("host.", state)))
            model.growth.adopt(record, modules)
            return load(_with_versions(model, state), strict=True)


def tied_values(model: SlottedNetwork, state: Mapping[str, Any]) -> dict[str, Any]:
    """Values of tied tensors of the host that ``state`` has under another name only."""
    names: dict[tuple[Any, ...], list[str]] = {}
    for name, value in model.host.state_dict().items():
        if isinstance(value, Tensor) and value.layout is torch.strided and value.numel():
            names.setdefault((value.data_ptr(), value.shape, value.stride(), value.dtype), []).append(f"host.{name}")
    stored = [(group, next((name for name in group if name in state), None)) for group in names.values()]
    return {name: state[first] for group, first in stored if first for name in group if name not in state}


def rebuild_seeds(model: SlottedNetwork, state: Mapping[str, Any], prefix: str) -> None:
    """Rebuild the seeds of ``state`` unless ``model`` has them; torch loads the tensors next.

    Args:
        prefix: beginning of the names of ``model`` in the state of a module that holds it.

    Raises:
        TopologyError: naming every difference; ``model`` is as it was then.
    """
    if prefix + EXTRA_STATE not in state:
        return  # torch reports the missing key
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if _manifest(own).model_dump(mode="json") != json.loads(json.dumps(model_manifest(model))):
        with _refitted(model, own):
            model.growth.adopt(*_checked(model, own))


@contextmanager
def _refitted(model: SlottedNetwork, state: Mapping[str, Any]) -> Iterator[None]:
    """Context in which the spans of ``model`` are as wide as those of ``state``.

    After an error they are as before.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(model.growth.refitted(_manifest(state).added))
        except TopologyError:
            raise
        except ValueError as error:
            raise TopologyError(f"the checkpoint belongs to another model: {error}") from error
        stack.callback(model.refresh_places)
        model.refresh_places()
        yield


def _checked(
    model: SlottedNetwork, state: Mapping[str, Any]
) -> tuple[GrowthRecord, dict[str, dict[str, nn.Module | None]]]:
    """The record of ``state`` and new modules for its seeds."""
    manifest = _manifest(state)
    record = _record(manifest)
    present = model_manifest(model)["slots"]
    differences = slot_differences({slot: dict(entry) for slot, entry in manifest.slots.items()}, present)
    if differences:
        raise TopologyError(difference_message(differences))
    try:
        check_seeds(record.states, record.germinations, present)
        modules = model.growth.rebuild(record)
    except ValueError as error:
        raise TopologyError(f"the seeds of the checkpoint cannot be built: {error}") from error
    expected = expected_tensors(model, record, modules)
    differences = tensor_differences(state, expected) or amplitude_differences(state, record, expected)
    if differences:
        raise TopologyError(difference_message(differences))
    return record, modules


def _with_versions(module: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """``state`` with the versions of the submodules of ``module``, which a file does not hold.

    Some modules, as torchvision's MNASNet, refuse to load without them.
    """
    if hasattr(state, "_metadata"):
        return state
    versioned = OrderedDict(state)
    versioned._metadata = {  # type: ignore[attr-defined]  # where torch keeps and reads them
        name: {"version": part._version} for name, part in module.named_modules(remove_duplicate=False)
    }
    return versioned


@contextmanager
def repetitions_apart(host: nn.Module) -> Iterator[None]:
    """Context in which buffers that repeat their memory have memory of their own.

    torch can load values into it. At the end the buffers get the loaded values, once for each place.
    """
    buffers = [
        (module, name, buffer) for module in host.modules() for name, buffer in module.named_buffers(recurse=False)
    ]
    repeating = [(module, name, buffer) for module, name, buffer in buffers if repeated_dimensions(buffer)]
    for module, name, buffer in repeating:
        module._buffers[name] = buffer.clone(memory_format=torch.contiguous_format)
    try:
        yield
        for module, name, buffer in repeating:
            assign(buffer, module.get_buffer(name))
    finally:
        for module, name, buffer in repeating:
            module._buffers[name] = buffer


def _try_out(host: nn.Module, state: Mapping[str, Any]) -> None:
    """Load ``state`` into ``host``, which is as it was if that fails.

    Raises:
        TopologyError: with the reason of the host.
    """
    before = {name: value.detach().clone() for name, value in host.state_dict().items() if isinstance(value, Tensor)}
    try:
        host.load_state_dict(state)
    except Exception as error:  # the host's own code may raise anything
        present = host.state_dict()
        for name, value in before.items():
            assign(present[name], value)
        raise TopologyError(f"the host refuses the tensors of the checkpoint: {error}") from error


def save_model(model: SlottedNetwork, path: Path) -> None:
    """Write ``model`` to ``path`` atomically. Tied tensors are stored once.

    Raises:
        TopologyError: if the state holds something that a file cannot hold exactly, or that could not be loaded again:
            anything other than tensors, sparse or quantised tensors, tensors whose elements overlap in memory. It names
            the tensor and the reason; nothing is written then.
    """
    state = model.state_dict()
    MODEL_FILE.check_writable(state)
    parameters = {f"host.{name}" for name, parameter in model.host.named_parameters() if repeated_dimensions(parameter)}
    tensors: dict[str, Tensor] = {}
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in state.items():
        if name in parameters or overlaps(tensor):
            raise TopologyError(f"{name} cannot be saved: its elements share memory, so that it could not be loaded")
        place = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        original = first.setdefault(place, name) if tensor.numel() else name
        if original == name:
            tensors[name] = tensor
        else:
            aliases[name] = original
    path.parent.mkdir(parents=True, exist_ok=True)
    MODEL_FILE.write(path, tensors, {"aliases": aliases})


def load_model(model: SlottedNetwork, path: Path) -> None:
    """Load the file ``path`` of :func:`save_model` into ``model``.

    Raises:
        FileNotFoundError: if there is no such file.
        TopologyError: see :func:`load_state`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no model at {path}")
    file = MODEL_FILE.read(path, f"model {path}")
    aliases = validated(_Content, file.content, f"model {path}: the names of its tied tensors", TopologyError).aliases
    strange = [
        f"{name} of {original}"
        for name, original in aliases.items()
        if name in file.tensors or original not in file.tensors
    ]
    if strange:
        raise TopologyError(f"model {path} is damaged: the names of its tied tensors are {', '.join(strange)}")
    try:
        model.load_state_dict(file.tensors | {name: file.tensors[original] for name, original in aliases.items()})
    except TopologyError as error:
        raise TopologyError(f"model {path}: {error}") from error


def expected_tensors(
    model: SlottedNetwork, record: GrowthRecord, modules: Mapping[str, Mapping[str, nn.Module | None]]
) -> dict[str, Any]:
    """The state of ``model`` with the seeds of ``record``, by name. The values are those of now, or of new seeds.

    Args:
        modules: of ``Growth.rebuild``.
    """
    values = {f"host.{name}": value for name, value in model.host.state_dict().items()}
    for slot, parts in modules.items():
        cell = model.cell(slot)
        values |= {f"cells.{slot}.alpha": cell.alpha, f"cells.{slot}.operator_share": cell.operator_share}
        for part, module in parts.items():
            tensors = {} if module is None else module.state_dict()
            values |= {f"cells.{slot}.{part}.{name}": value for name, value in tensors.items()}
    return values


def _manifest(state: Mapping[str, Any]) -> SavedManifest:
    packed = state.get(EXTRA_STATE)
    if not isinstance(packed, Tensor):
        raise TopologyError(f"the state has no manifest ({EXTRA_STATE!r}); it was not made by a grown model")
    try:
        manifest = json.loads(bytes(packed.tolist()))
    except (ValueError, TypeError, RecursionError) as error:
        raise TopologyError(f"the manifest cannot be read: {error}") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != MANIFEST_VERSION or isinstance(version, bool):
        raise TopologyError(f"the manifest has version {version!r}, this release reads version {MANIFEST_VERSION}")
    return validated(SavedManifest, manifest, "the manifest", TopologyError)


def _record(manifest: SavedManifest) -> GrowthRecord:
    states: dict[str, SeedState | None] = {}
    for slot, tree in manifest.seeds.items():
        try:
            states[slot] = None if tree is None else seed_from_json(tree)
        except (KeyError, TypeError, ValueError) as error:
            raise TopologyError(f"the manifest is damaged: seed in {slot}: {error!r}") from error
    if not manifest.slots.keys() == states.keys() == manifest.germinations.keys():
        raise TopologyError("the manifest is damaged: slots, seeds and germinations name different slots")
    return GrowthRecord(states, dict(manifest.germinations), manifest.epoch, manifest.seed, dict(manifest.added))

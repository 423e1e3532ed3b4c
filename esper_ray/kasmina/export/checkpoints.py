"""Checkpoint of a grown model: tensors and a manifest from which the structure is rebuilt.

The manifest is JSON; in ``state_dict()`` it is stored as a tensor of bytes, so that all values there are
tensors. Files are safetensors; nothing is unpickled.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.kasmina.network.growth import GrowthRecord
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.actions import AlphaCurve, AlphaMode, BlendOperator, GerminationStyle
from esper_ray.leyline.blob import BlobFormat
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.stages import Stage

MANIFEST_VERSION = 1
EXTRA_STATE = "_extra_state"
Manifest = dict[str, Any]


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
            "topology": at.shape.topology.value,
            "channels": at.shape.channels,
            "causal": at.shape.causal,
        }
        for slot, at in model.attachments.items()
    }
    seeds = {slot: None if state is None else seed_to_json(state) for slot, state in record.states.items()}
    return {
        "version": MANIFEST_VERSION,
        "slots": slots,
        "seeds": seeds,
        "germinations": dict(record.germinations),
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
    """The state that :func:`seed_to_json` wrote.

    Raises:
        KeyError, TypeError: if a field is missing or unknown.
    """
    alpha = dict(tree["alpha"])
    alpha |= {"mode": AlphaMode[alpha["mode"]], "curve": AlphaCurve[alpha["curve"]]}
    fields = dict(tree) | {
        "style": GerminationStyle[tree["style"]],
        "stage": Stage[tree["stage"]],
        "previous_stage": Stage[tree["previous_stage"]],
        "outgoing": None if tree["outgoing"] is None else BlendOperator[tree["outgoing"]],
        "shut_by": tuple(tree["shut_by"]),
        "alpha": AlphaController(**alpha),
    }
    return SeedState(**fields)


def load_state(model: SlottedNetwork, state: Mapping[str, Any], load: Callable[..., Any]) -> Any:
    """Rebuild the seeds that ``state`` holds, then ``load`` its tensors strictly.

    Raises:
        TopologyError: naming every difference; ``model`` is as it was then.
    """
    manifest = _manifest(state)
    record = _record(manifest)
    differences = _slot_differences(manifest["slots"], model_manifest(model)["slots"])
    if differences:
        raise TopologyError(_difference_message(differences))
    try:
        modules = model.growth.rebuild(record)
    except ValueError as error:
        raise TopologyError(f"the seeds of the checkpoint cannot be built: {error}") from error
    differences = _tensor_differences(state, _expected_shapes(model, modules))
    if differences:
        raise TopologyError(_difference_message(differences))
    model.growth.adopt(record, modules)
    return load(state, strict=True)


def check_rebuilt(model: SlottedNetwork, packed: Any) -> None:
    """Check that ``model`` has the slots and seeds of a manifest.

    Raises:
        TopologyError: if they differ.
    """
    saved, present = _manifest({EXTRA_STATE: packed}), model_manifest(model)
    if json.loads(json.dumps(present)) != saved:
        raise TopologyError(
            "the seeds of the state differ from those of the model in kind or stage; a grown model that is part of "
            "another module is loaded by its own load_state_dict(), before that of the other"
        )


def save_model(model: SlottedNetwork, path: Path) -> None:
    """Write ``model`` to ``path`` atomically. Tied tensors are stored once.

    Raises:
        ValueError: if the host's state holds anything other than tensors.
    """
    tensors: dict[str, Tensor] = {}
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} of the host is a {type(tensor).__name__}; only tensors can be stored")
        place = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        original = first.setdefault(place, name) if tensor.numel() else name
        if original == name:
            views = tensor.untyped_storage().nbytes() != tensor.nbytes  # others may see the same memory
            tensors[name] = tensor.detach().clone() if views else tensor.detach()
            tensors[name] = tensors[name].contiguous().cpu()
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
    try:
        tied = {name: file.tensors[original] for name, original in file.content["aliases"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise TopologyError(f"model {path} is damaged: the names of its tied tensors are {error!r}") from error
    model.load_state_dict(file.tensors | tied)


def _manifest(state: Mapping[str, Any]) -> Manifest:
    packed = state.get(EXTRA_STATE)
    if not isinstance(packed, Tensor):
        raise TopologyError(f"the state has no manifest ({EXTRA_STATE!r}); it was not made by a grown model")
    try:
        manifest: Manifest = json.loads(bytes(packed.tolist()))
    except (ValueError, TypeError) as error:
        raise TopologyError(f"the manifest cannot be read: {error}") from error
    return manifest


def _record(manifest: Manifest) -> GrowthRecord:
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != MANIFEST_VERSION:
        raise TopologyError(f"the manifest has version {version!r}, this release reads version {MANIFEST_VERSION}")
    try:
        states = {slot: None if tree is None else seed_from_json(tree) for slot, tree in manifest["seeds"].items()}
        record = GrowthRecord(states, dict(manifest["germinations"]), manifest["epoch"], manifest["seed"])
        slots = manifest["slots"].keys()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TopologyError(f"the manifest is damaged: {error!r}") from error
    if not slots == record.states.keys() == record.germinations.keys():
        raise TopologyError("the manifest is damaged: slots, seeds and germinations name different slots")
    return record


def _slot_differences(saved: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    lines = [f"slot {slot} is in the checkpoint only" for slot in saved if slot not in present]
    lines += [f"slot {slot} is in the model only" for slot in present if slot not in saved]
    for slot in present:
        for key, value in present[slot].items():
            stored = saved.get(slot, {}).get(key, value)
            if stored != value:
                lines.append(f"slot {slot}: {key} is {stored!r} in the checkpoint, {value!r} in the model")
    return lines


def _expected_shapes(
    model: SlottedNetwork, modules: Mapping[str, Mapping[str, nn.Module | None]]
) -> dict[str, torch.Size | None]:
    shapes = {f"host.{name}": _shape(value) for name, value in model.host.state_dict().items()}
    for slot, parts in modules.items():
        shapes |= {f"cells.{slot}.{name}": torch.Size() for name in ("alpha", "operator_share")}
        for part, module in parts.items():
            tensors = {} if module is None else module.state_dict()
            shapes |= {f"cells.{slot}.{part}.{name}": _shape(value) for name, value in tensors.items()}
    return shapes


def _shape(value: Any) -> torch.Size | None:
    """Shape of a tensor, ``None`` for any other value in a module's state."""
    return value.shape if isinstance(value, Tensor) else None


def _tensor_differences(state: Mapping[str, Any], expected: Mapping[str, torch.Size | None]) -> list[str]:
    stored = {name: _shape(value) for name, value in state.items() if name != EXTRA_STATE}
    lines = [f"tensor {name} is in the checkpoint only" for name in stored if name not in expected]
    lines += [f"tensor {name} is in the model only" for name in expected if name not in stored]
    for name in expected.keys() & stored.keys():
        if expected[name] != stored[name]:
            saved, present = (None if shape is None else tuple(shape) for shape in (stored[name], expected[name]))
            lines.append(f"tensor {name} has shape {saved} in the checkpoint, {present} in the model")
    return sorted(lines)


def _difference_message(differences: list[str], most: int = 12) -> str:
    more = [f"and {len(differences) - most} more"] if len(differences) > most else []
    return "\n  ".join(["the checkpoint belongs to another model:", *differences[:most], *more])

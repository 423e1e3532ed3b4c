"""Differences between a checkpoint and a growing network, one line for each."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper_ray.kasmina.modules import fits_memory
from esper_ray.kasmina.network.records import GrowthRecord

EXTRA_STATE = "_extra_state"
"""Name of the manifest in the state of a network."""


def slot_differences(saved: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Lines about slots that only one of the two has, or that sit elsewhere."""
    lines = [f"slot {slot} is in the checkpoint only" for slot in saved if slot not in present]
    lines += [f"slot {slot} is in the model only" for slot in present if slot not in saved]
    for slot in present:
        for key, value in present[slot].items():
            stored = saved.get(slot, {}).get(key, value)
            if stored != value:
                lines.append(f"slot {slot}: {key} is {stored!r} in the checkpoint, {value!r} in the model")
    return lines


def _form(value: Any) -> tuple[tuple[int, ...], torch.dtype, torch.layout] | None:
    """Shape, type and layout of a tensor; ``None`` for other values in a module's state."""
    return (tuple(value.shape), value.dtype, value.layout) if isinstance(value, Tensor) else None


def tensor_differences(state: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Lines about tensors that are missing, strange, or of another form."""
    stored = {name: value for name, value in state.items() if name != EXTRA_STATE}
    lines = [f"tensor {name} is in the checkpoint only" for name in stored if name not in expected]
    lines += [f"tensor {name} is in the model only" for name in expected if name not in stored]
    for name in expected.keys() & stored.keys():
        forms = zip(
            ("shape", "type", "layout"),
            _form(stored[name]) or (None,) * 3,
            _form(expected[name]) or (None,) * 3,
            strict=True,
        )
        different = [(what, saved, present) for what, saved, present in forms if saved != present]
        lines += [
            f"tensor {name} has {what} {saved} in the checkpoint, {present} in the model"
            for what, saved, present in different
        ]
        if (
            not different
            and isinstance(expected[name], Tensor)
            and not fits_memory(expected[name], stored[name].to(expected[name].device))
        ):
            lines.append(
                f"tensor {name} has different values in the checkpoint where the model has one place in memory"
            )
    return sorted(lines)


def amplitude_differences(state: Mapping[str, Any], record: GrowthRecord, expected: Mapping[str, Any]) -> list[str]:
    """Lines about amplitudes that are not those of the manifest."""
    lines = []
    for slot, seed in record.states.items():
        amplitudes = (0.0, 1.0) if seed is None else (seed.alpha.alpha, seed.operator_share)
        for name, amplitude in zip(("alpha", "operator_share"), amplitudes, strict=True):
            key = f"cells.{slot}.{name}"
            stored = float(state[key])
            if stored != float(torch.tensor(amplitude, dtype=expected[key].dtype)):
                lines.append(f"tensor {key} is {stored:g} in the checkpoint, its manifest has {amplitude:g}")
    return lines


def difference_message(differences: list[str], most: int = 12) -> str:
    """Message with at most so many lines."""
    more = [f"and {len(differences) - most} more"] if len(differences) > most else []
    return "\n  ".join(["the checkpoint belongs to another model:", *differences[:most], *more])

"""Submodules that slots name, and those that cannot carry one whatever they yield."""

import sys
from collections.abc import Mapping

import torch
from torch import nn

from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.slots import ordered_slot_ids


def named_modules(host: nn.Module, slots: Mapping[str, str]) -> dict[str, nn.Module]:
    """The submodule of each slot.

    Raises:
        SlotIdError: if a slot id is malformed or there is none.
        ValueError: if a submodule does not exist, or carries two slots.
    """
    ids = ordered_slot_ids(slots)
    named = dict(host.named_modules(remove_duplicate=False))
    named.pop("")
    owners: dict[int, str] = {}
    for slot in ids:
        name = slots[slot]
        if name not in named:
            raise ValueError(f"slot {slot}: {unknown_name_message('submodule', name, list(named))}")
        occupant = owners.setdefault(id(named[name]), slot)
        if occupant != slot:
            raise ValueError(f"slots {occupant} and {slot} sit on the same submodule: {slots[occupant]!r}, {name!r}")
    return {slot: named[slots[slot]] for slot in ids}


def check_host(host: nn.Module) -> None:
    """Check that ``host`` itself is not compiled.

    Raises:
        ValueError: with its class.
    """
    kind = _compilation(host)
    if kind is not None:
        raise ValueError(
            f"{type(host).__name__} is {kind}, where a seed has no effect; grow it first, compile afterwards"
        )


def check_compilation(host: nn.Module, slots: Mapping[str, str]) -> None:
    """Check that the submodules of ``slots`` are not inside compiled code.

    Raises:
        ValueError: with the name of the compiled module.
    """
    for slot, name in slots.items():
        module, path = host, ""
        for part in ["", *name.split(".")]:
            if part:
                module, path = module.get_submodule(part), f"{path}.{part}".lstrip(".")
            kind = _compilation(module)
            if kind is not None:
                place = repr(path) if path else "the host"
                raise ValueError(
                    f"slot {slot}: submodule {name!r} is inside {place}, which is {kind}; a seed would have no effect "
                    "there; wrap first, compile afterwards"
                )


def _compilation(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by TorchScript"
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # without it nothing is compiled; its import takes seconds
    wrapped = compiler is not None and isinstance(module, compiler.OptimizedModule)
    if wrapped or module._compiled_call_impl is not None:
        return "compiled by torch.compile"
    return None

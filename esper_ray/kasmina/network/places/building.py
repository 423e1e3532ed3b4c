"""Ways to build a module in behind a submodule of a host.

The result consists of modules of the host and of torch alone. The submodule keeps its class, its attributes and the
names of its tensors wherever that is possible.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from esper_ray.kasmina.network.places.outputs import container_of, tensors_in

Way = Literal["append", "hook", "chain"]
"""How a module is built in.

``append``: at the end of an ``nn.Sequential``. ``hook``: as a child of the submodule and its forward hook.
``chain``: an ``nn.Sequential`` of the submodule and the module takes the place of the submodule.
"""
WAYS: tuple[Way, ...] = ("append", "hook", "chain")
NAME = "fossil"
"""Name of a module that is built in."""


class PlaceError(ValueError):
    """A submodule behind which nothing can be built in."""


class CopyError(PlaceError):
    """A host that cannot be copied."""


@dataclass(frozen=True, slots=True)
class SlotOutput:
    """A submodule of a host."""

    slot: str
    module: str
    """Its name."""
    output: Any
    """An output of it."""


def build_in(host: nn.Module, base: nn.Module, way: Way, addition: nn.Module, key: int | None = None) -> None:
    """Build ``addition`` into ``host`` behind its submodule ``base``.

    Args:
        addition: takes the output of ``base``; for ``hook`` the arguments of a forward hook.
        key: of the forward hook of ``base`` whose place the new one takes; default: a new one, which is the last.
    """
    if way == "append":
        base.add_module(_free_name(base), addition)
    elif way == "hook":
        base.add_module(_free_name(base), addition)
        if key is None:
            base.register_forward_hook(addition)
        else:
            base._forward_hooks[key] = addition
    else:
        chain = nn.Sequential(OrderedDict({"base": base, NAME: addition})).train(base.training)
        for parent in list(host.modules()):
            for name, child in list(parent._modules.items()):
                if child is base and parent is not chain:
                    parent._modules[name] = chain


def found_ways(
    host: nn.Module, places: list[SlotOutput], run: Callable[[nn.Module], Any], expected: Any
) -> dict[str, Way]:
    """Way to build in behind each of ``places``.

    It is tried on a copy that shares the tensors of ``host``.

    Args:
        places: the innermost first where they are nested.
        run: runs a host on the example, in evaluation mode and without gradient.
        expected: output of ``host``.

    Raises:
        PlaceError: if there is no way, or the host cannot be copied.
    """
    options = {place.slot: _options(host.get_submodule(place.module), place) for place in places}
    chosen = {slot: ways[0] for slot, ways in options.items()}
    problem = _problem(host, places, chosen, run, expected)
    if problem is None:
        return chosen
    for place in places:
        reasons = []
        for way in options[place.slot]:
            reason = _problem(host, [place], {place.slot: way}, run, expected)
            if reason is None:
                chosen[place.slot] = way
                break
            reasons.append(f"{way}: {reason}")
        else:
            kind = type(host.get_submodule(place.module)).__name__
            raise PlaceError(
                f"slot {place.slot}: plain() could not build a seed in behind {place.module!r} ({kind}): "
                f"{'; '.join(reasons)}; take another submodule"
            )
    problem = _problem(host, places, chosen, run, expected)
    if problem is not None:
        raise PlaceError(f"plain() could not build seeds in behind all slots at once: {problem}")
    return chosen


def shared_copy(host: nn.Module) -> nn.Module:
    """A copy of ``host`` with the same parameters and buffers.

    Raises:
        CopyError: if it cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in host.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                memo[id(tensor)] = tensor
    return copied(host, memo)


def copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep copy of ``module``; tensors that a pass has left in attributes become leaves.

    Raises:
        CopyError: if it cannot be copied.
    """
    detach_in_copies(module, memo)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # the copy methods of a user's classes can raise anything
        raise CopyError(
            f"plain() copies {type(module).__name__}, which fails: {error}; give it a __deepcopy__ method, or set what "
            "cannot be copied later"
        ) from error


def detach_in_copies(module: nn.Module, memo: dict[int, Any]) -> None:
    """Register leaves in ``memo`` for tensors that a pass has left in ``module``.

    ``weight_norm`` leaves its weight, a host may leave features. Neither can be copied with its history.
    """
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor | tuple | list | dict):
                for tensor in tensors_in(value):
                    if tensor.grad_fn is not None and id(tensor) not in memo:
                        memo[id(tensor)] = tensor.detach().clone()


class _StandIn(nn.Module):
    """A module that returns its last argument and counts its calls."""

    def __init__(self, arguments: int) -> None:
        super().__init__()
        self.arguments, self.calls = arguments, 0

    def forward(self, *args: Any) -> Any:
        if len(args) != self.arguments:
            raise TypeError(f"its children are called by others, with {len(args)} arguments")
        self.calls += 1
        return args[-1]


def _options(base: nn.Module, place: SlotOutput) -> list[Way]:
    """Ways that may do for ``base``, the best first."""
    is_tensor = container_of(place.output) == "tensor"
    sequential = type(base).forward is nn.Sequential.forward and "forward" not in vars(base)
    free = not base._forward_hooks and not base._forward_pre_hooks
    ways: list[Way] = []
    if sequential and free and is_tensor:
        ways.append("append")
    if not sequential:
        ways.append("hook")
    if is_tensor and place.module:
        ways.append("chain")
    return ways or ["hook"]


def _problem(
    host: nn.Module, places: list[SlotOutput], ways: Mapping[str, Way], run: Callable[[nn.Module], Any], expected: Any
) -> str | None:
    """What is wrong with a host with stand-ins; ``None`` if it computes what ``host`` does."""
    trial = shared_copy(host)
    stand_ins = {}
    bases = {place.slot: trial.get_submodule(place.module) for place in places}
    for place in places:
        way = ways[place.slot]
        stand_ins[place.slot] = _StandIn(3 if way == "hook" else 1)
        build_in(trial, bases[place.slot], way, stand_ins[place.slot])
    try:
        output = run(trial)
    except Exception as error:  # the code of a host can raise anything
        return f"{type(error).__name__}: {error}"
    for slot, stand_in in stand_ins.items():
        if stand_in.calls != 1:
            return f"{slot} is passed {stand_in.calls} times"
    if _equal(output, expected) or not _equal(run(host), expected):  # the host may be random
        return None
    return "the output changes"


def _equal(first: Any, second: Any) -> bool:
    pairs = list(zip(tensors_in(first), tensors_in(second), strict=False))
    return all(one.shape == other.shape and torch.equal(one, other) for one, other in pairs)


def _free_name(module: nn.Module) -> str:
    """``fossil``, with a number if ``module`` has that attribute."""
    name, number = NAME, 1
    while hasattr(module, name):
        number += 1
        name = f"{NAME}{number}"
    return name

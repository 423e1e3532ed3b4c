"""Plain options of an optimizer, and its state of layers that become wider."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.network.spans.folding import Replacement

ParameterState = dict[str, Any]
"""Optimizer state of one parameter, such as momentum."""

ADAM_MOMENTS = {"exp_avg": 0, "exp_avg_sq": 1, "max_exp_avg_sq": 1}
"""Moments of Adam, by the index of the decay rate in ``betas``."""
SQUARES = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg"})
"""Mean squares of gradients, of Adam and RMSprop, by whose root a step is divided."""


@torch.no_grad()
def joined_states(
    parameters: Mapping[nn.Parameter, tuple[nn.Parameter, Replacement]],
    states: Mapping[Any, ParameterState],
    options: Mapping[nn.Parameter, Mapping[str, Any]],
) -> dict[nn.Parameter, ParameterState]:
    """States of wider parameters.

    Tensors of a parameter's form are joined as the parameters are; where one side has none, zeros stand for it, and for
    mean squares of gradients the mean of the other side: with zeros the first steps would be several times too long. Of
    everything else, such as the number of steps, the old parameter's counts. Moments of Adam are corrected for their
    number of steps, which is the seed's before and the old parameter's after: they are scaled, so that what Adam
    divides stays as it was.

    Args:
        parameters: by old parameter: the new one, and what has changed.
        options: options of the group of each parameter.
    """
    joined = {}
    for old, (new, change) in parameters.items():
        state = states.get(old, {})
        other = states.get(change.other, {}) if isinstance(change.other, nn.Parameter) else {}
        if (state or other) and _has_form(state, old) and _has_form(other, change.other):
            joined[new] = _joined(state, other, old, change, options.get(old, {}))
    return joined


def _joined(
    state: ParameterState, other: ParameterState, old: nn.Parameter, change: Replacement, options: Mapping[str, Any]
) -> ParameterState:
    result: ParameterState = {}
    for name in {**state, **other}:
        mine, new = state.get(name), other.get(name)
        example = mine if mine is not None else new
        if isinstance(example, Tensor) and example.dim():
            usual = float(example.mean()) if name in SQUARES else 0.0
            base = torch.full_like(old, usual, dtype=example.dtype) if mine is None else mine
            added = change.filled(base, usual) if new is None else new * _scale(name, state, other, options)
            result[name] = change.joined(base, added)
        else:
            result[name] = example.clone() if isinstance(example, Tensor) else example
    return result


def _scale(name: str, state: ParameterState, other: ParameterState, options: Mapping[str, Any]) -> float:
    """Factor of the seed's moments under the old parameter's number of steps."""
    if name not in ADAM_MOMENTS or "betas" not in options or not state.get("step") or not other.get("step"):
        return 1.0
    decay = float(options["betas"][ADAM_MOMENTS[name]])
    return float((1.0 - decay ** float(state["step"])) / (1.0 - decay ** float(other["step"])))


def _has_form(state: ParameterState, parameter: Tensor | None) -> bool:
    """Whether every tensor of ``state`` is a number or has the shape of ``parameter``."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.dim()]
    return all(parameter is not None and tensor.shape == parameter.shape for tensor in tensors)


def plain_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are numbers, switches or tuples of numbers; a tensor counts as its number."""
    fixed = ("params", "name", "key", "part")
    values = {name: value.item() if isinstance(value, Tensor) else value for name, value in group.items()}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    kinds = (bool, int, float, str, list, type(None))
    return {name: value for name, value in plain.items() if name not in fixed and isinstance(value, kinds)}


def is_option(value: Any, present: Any) -> bool:
    """Whether ``value`` can take the place of the option ``present``: of the same type, finite."""
    if isinstance(value, list) and isinstance(present, list) and len(value) == len(present):
        return all(map(is_option, value, present))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (value, present))
    return math.isfinite(value) if numbers else type(value) is type(present) and not isinstance(value, list)

"""Steps between two layers that treat every channel alike and on its own.

A step is a layer, such as an activation or a batch normalisation, or a function of :mod:`torch`. Each maps channels
to channels: what it does to one does not depend on the others, so that it also does it to new ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.padding import _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _LPPoolNd,
    _MaxPoolNd,
)
from torch.utils._pytree import tree_leaves, tree_map

from esper_ray.kasmina.network.spans.resizing import has_own_forward, norm_problem, resized
from esper_ray.kasmina.network.spans.tracing import Call, Value

ELEMENTWISE_LAYERS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Mish, nn.RReLU, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink),
    *(nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold, _DropoutNd),
)
SPATIAL_LAYERS = (
    *(_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _LPPoolNd, _MaxPoolNd, nn.Upsample),
    *(_ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd),
)
"""Layers that act on positions, the same in each channel."""
ELEMENTWISE = frozenset(
    {
        *("abs", "add", "celu", "clamp", "clamp_max", "clamp_min", "clip", "clone", "contiguous", "cos", "div"),
        *("double", "elu", "erf", "exp", "expm1", "float", "gelu", "half", "bfloat16", "hardshrink", "hardsigmoid"),
        *("hardswish", "hardtanh", "leaky_relu", "log", "log1p", "log_sigmoid", "logsigmoid", "mish", "mul"),
        *("multiply", "neg", "negative", "positive", "pow", "reciprocal", "relu", "relu6", "rrelu", "rsqrt"),
        *("rsub", "selu", "sigmoid", "sign", "silu", "sin", "softplus", "softshrink", "softsign", "sqrt", "square"),
        *("sub", "subtract", "tanh", "tanhshrink", "threshold", "to", "true_divide", "type", "dropout"),
        *("alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "maximum", "minimum"),
    }
)
"""Functions and methods that act on each number, by name, in place or not."""
OPERATORS = frozenset(
    {
        *("__add__", "__radd__", "__iadd__", "__sub__", "__rsub__", "__isub__", "__mul__", "__rmul__", "__imul__"),
        *("__truediv__", "__itruediv__", "__rtruediv__", "__div__", "__rdiv__", "__idiv__", "__pow__", "__rpow__"),
        *("__ipow__", "__neg__", "__pos__", "__abs__"),
    }
)
SPATIAL = frozenset(
    [f"{kind}_pool{dims}d" for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max") for dims in (1, 2, 3)]
    + ["interpolate", "pad"]
)
REDUCTIONS = frozenset(["mean", "amax", "amin", "sum"])
SHAPES = frozenset(["flatten", "view", "reshape", "squeeze"])
INSPECTIONS = frozenset(
    {
        *("__get__", "__len__", "dim", "element_size", "get_device", "is_contiguous", "is_floating_point"),
        *("ndimension", "nelement", "numel", "size", "stride", "storage_offset", "is_complex"),
    }
)
"""Methods that read the form of a tensor alone, if they yield no tensor."""


RANDOM = frozenset(
    ["rrelu", *(f"{kind}dropout{dims}" for kind in ("", "alpha_", "feature_alpha_") for dims in ("", "1d", "2d", "3d"))]
)
"""Functions that draw random numbers."""


class NoStepError(ValueError):
    """A call that does not treat every channel alike and on its own. The message is the reason."""


@dataclass(frozen=True, slots=True)
class ChannelAxis:
    """Channels of a value: their dimension, and how many numbers in a row belong to each (flattened positions)."""

    dim: int
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class SpanStep:
    """One step, with the axis of what it reads and yields."""

    call: Call
    output: Value
    axis: ChannelAxis
    """Channels of what it yields."""
    flattens: bool = False
    """Whether it joins positions to channels, whatever the numbers in its arguments are."""
    read_repeat: int = 1
    """Numbers in a row that belong to one channel of what it reads."""


def step_of(call: Call, axes: Mapping[int, ChannelAxis], channels: int) -> SpanStep:
    """The step that ``call`` is.

    Args:
        axes: by number of a value: the axis of its channels.
        channels: their number.

    Raises:
        NoStepError: if it mixes channels, reads another tensor, or it is not known that it does not.
    """
    for value in call.reads:
        if value.number not in axes:
            raise NoStepError(f"{call.name} joins it with another tensor of shape {value.shape}, such as a shortcut")
    if any(isinstance(leaf, Tensor) for leaf in tree_leaves((call.args, call.kwargs))):
        raise NoStepError(f"{call.name} reads a constant tensor")
    if call.output is None:
        raise NoStepError(f"{call.name} reads it and yields no tensor")
    axis = axes[call.reads[0].number]
    if any(axes[value.number] != axis for value in call.reads):
        raise NoStepError(f"{call.name} joins values with channels in different dimensions")
    described = _layer(call, axis, channels) if call.module is not None else _function(call, axis)
    return SpanStep(call, call.output, *described, axis.repeat)


def inspects(call: Call) -> bool:
    """Whether ``call`` reads the form of a tensor alone."""
    return call.module is None and call.output is None and call.name.rpartition(".")[2] in INSPECTIONS


def _layer(call: Call, axis: ChannelAxis, channels: int) -> tuple[ChannelAxis, bool]:
    module = call.module
    assert module is not None
    (value,) = call.reads if len(call.reads) == 1 else (None,)
    if value is None:
        raise NoStepError(f"{call.name} ({type(module).__name__}) reads several values")
    name = f"{call.name} ({type(module).__name__})"
    if isinstance(module, ELEMENTWISE_LAYERS):
        return axis, False
    if isinstance(module, nn.Flatten):
        if (module.start_dim, module.end_dim) not in ((1, -1), (1, len(value.shape) - 1)):
            raise NoStepError(f"{name} flattens dimensions {module.start_dim} to {module.end_dim}, not 1 to the last")
        return _flattened(name, value, axis), True
    if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.LocalResponseNorm) or _joins_groups(module):
        raise NoStepError(f"{name} normalises over several channels, the new ones would change the others")
    if axis.dim != 1:
        raise NoStepError(f"{name} reads another dimension than the last one as channels")
    if isinstance(module, SPATIAL_LAYERS):
        if getattr(module, "return_indices", False):
            raise NoStepError(f"{name} yields indices too")
        return _positions_only(name, value, axis), False
    _check_norm(name, module, axis, channels)
    problem = norm_problem(module, value.shape) if isinstance(module, _BatchNorm) and has_own_forward(module) else None
    if problem is not None:
        raise NoStepError(f"{name} {problem}")
    return axis, False


def _joins_groups(module: nn.Module) -> bool:
    return isinstance(module, nn.GroupNorm) and module.num_groups != module.num_channels


def _check_norm(name: str, module: nn.Module, axis: ChannelAxis, channels: int) -> None:
    """Check that ``module`` has one entry for each channel, and mixes none."""
    width = channels * axis.repeat
    if isinstance(module, _BatchNorm | _InstanceNorm):
        size: int = module.num_features
    elif isinstance(module, nn.PReLU) and width > 1:
        size = module.num_parameters
        if size == 1:
            raise NoStepError(f"{name} has one slope for all channels, which new ones would share with the host")
    elif isinstance(module, nn.GroupNorm):
        size = module.num_channels if axis.repeat == 1 else -1
    elif isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels:
        size = module.in_channels if axis.repeat == 1 else -1
    else:
        raise NoStepError(f"{name} is not known to treat each channel on its own")
    if size != width:
        raise NoStepError(f"{name} has {size} channels, not {width}")


def _function(call: Call, axis: ChannelAxis) -> tuple[ChannelAxis, bool]:
    assert call.output is not None
    short = call.name.rpartition(".")[2]
    plain = short if short.startswith("__") else short.rstrip("_")
    value = call.reads[0]
    if plain in ELEMENTWISE or plain in OPERATORS:
        if len(call.output.shape) != len(value.shape) or any(
            len(read.shape) != len(value.shape) for read in call.reads
        ):
            raise NoStepError(f"{call.name} joins values of {len(value.shape)} and other dimensions")
        return axis, False
    if plain in SHAPES:
        if call.output.shape == value.shape:
            return axis, False
        if len(call.output.shape) == 2 and call.output.shape[0] == value.shape[0]:
            return _flattened(call.name, value, axis), True
        raise NoStepError(f"{call.name} turns {value.shape} into {call.output.shape}, which moves the channels")
    if plain in REDUCTIONS and axis == ChannelAxis(1):
        kept = (value.shape[0], value.shape[1])
        reduced = call.output.shape in (kept, (*kept, *[1] * (len(value.shape) - 2)))
        if len(value.shape) > 2 and reduced and _reduced(call, len(value.shape)):
            return axis, False
        raise NoStepError(f"{call.name} turns {value.shape} into {call.output.shape}, which reduces other dimensions")
    if plain in SPATIAL and axis.dim == 1:
        if call.output.shape[:2] != value.shape[:2]:
            raise NoStepError(f"{call.name} turns {value.shape} into {call.output.shape}, which changes the channels")
        return _positions_only(call.name, value, axis), False
    raise NoStepError(f"{call.name} is not known to treat each channel on its own")


def _reduced(call: Call, dims: int) -> bool:
    """Whether a reduction is over all positions, and neither examples nor channels."""
    given = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
    chosen = [given] if isinstance(given, int) else list(given or ())
    return sorted(dim % dims for dim in chosen) == list(range(2, dims))


def _positions_only(name: str, value: Value, axis: ChannelAxis) -> ChannelAxis:
    if len(value.shape) < 3 or axis != ChannelAxis(1):
        raise NoStepError(f"{name} has no dimensions of positions to work on in {value.shape}")
    return axis


def _flattened(name: str, value: Value, axis: ChannelAxis) -> ChannelAxis:
    if axis.dim != 1 or axis.repeat != 1:
        raise NoStepError(f"{name} joins channels that are not the second dimension of {value.shape}")
    repeat = 1
    for size in value.shape[2:]:
        repeat *= size
    return ChannelAxis(1, repeat)


class Between(nn.Module):
    """The steps of a span, for its own or for other channels: hidden features to what the consumer reads."""

    def __init__(self, steps: Sequence[SpanStep], start: Value, channels: int | None) -> None:
        """
        Args:
            start: output of the producer.
            channels: channels of copies; ``None`` for the layers of the host themselves.
        """
        super().__init__()
        self.layers = nn.ModuleDict()
        self.is_random = False
        """Whether a step draws random numbers in training."""
        self._start = start.number
        self._end = steps[-1].output.number if steps else start.number
        self._program: list[tuple[str, str, bool, Any, Any, int]] = []
        for step in steps:
            call, key = step.call, ""
            if call.module is not None:
                key = f"step{len(self.layers)}"
                repeat = step.read_repeat
                self.layers[key] = call.module if channels is None else resized(call.module, channels * repeat)
            name = call.name if key else _callable_name(call.name)
            self.is_random |= _draws(call)
            numbered = tree_map(_number, call.args), tree_map(_number, call.kwargs)
            self._program.append((key, name, step.flattens, *numbered, step.output.number))

    def forward(self, hidden: Tensor) -> Tensor:
        """The hidden features after all steps."""
        values = {self._start: hidden}

        def present(leaf: Any) -> Any:
            return values[leaf.number] if isinstance(leaf, _Reference) else leaf

        for key, name, flattens, args, kwargs, output in self._program:
            given, named = tree_map(present, args), tree_map(present, kwargs)
            if self.training and not key:
                given, named = _in_training(name, given, named)
            if key:
                values[output] = self.layers[key](*given, **named)
            elif flattens:
                values[output] = torch.flatten(given[0], 1)
            else:
                values[output] = _called(name, given, named)
        return values[self._end]


def _draws(call: Call) -> bool:
    """Whether a step draws random numbers in training."""
    if call.module is None:
        short = call.name.rpartition(".")[2].rstrip("_")
        share = call.kwargs.get("p", call.args[1] if len(call.args) > 1 else None)
        return short in RANDOM and (short == "rrelu" or share != 0.0)
    return isinstance(call.module, nn.RReLU) or (isinstance(call.module, _DropoutNd) and call.module.p > 0.0)


@dataclass(frozen=True, slots=True)
class _Reference:
    """A value in the program of :class:`Between`."""

    number: int


def _number(leaf: Any) -> Any:
    return _Reference(leaf.number) if isinstance(leaf, Value) else leaf


def _callable_name(name: str) -> str:
    """``name`` without its package: ``Tensor.relu``, ``functional.relu`` or ``relu``."""
    return ".".join(name.split(".")[-2:])


def _in_training(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a function in training: those of functions that draw random numbers say so.

    They were seen in a pass in evaluation mode.
    """
    short = name.rpartition(".")[2].rstrip("_")
    if short not in RANDOM:
        return args, kwargs
    place = 3 if short == "rrelu" else 2
    if len(args) > place:
        return (*args[:place], True, *args[place + 1 :]), kwargs
    return args, kwargs | {"train" if "train" in kwargs else "training": True}


def _called(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    owner, short = name.split(".")
    if owner == "Tensor":
        return getattr(torch.Tensor, short)(*args, **kwargs)
    return getattr(nn.functional if owner == "functional" else torch, short)(*args, **kwargs)

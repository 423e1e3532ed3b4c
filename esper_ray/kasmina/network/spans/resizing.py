"""Copies of a layer for another number of channels.

A test with them shows whether a subclass of a batch normalisation treats each channel on its own.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from esper_ray.kasmina.modules import seeded_initialisation

NORM_TENSORS = frozenset(["weight", "bias", "running_mean", "running_var", "num_batches_tracked"])
TESTED_SIDE = 8
"""Greatest number of positions in each dimension of the test."""
TESTED_ROWS = 3
TESTED_TOLERANCE = 1e-4
"""Greatest difference, as a share of the largest value."""


def is_per_channel(module: nn.Module) -> bool:
    """Whether ``module`` has tensors with an entry for each channel."""
    return next(iter([*module.parameters(), *module.buffers()]), None) is not None


def resized(module: nn.Module, width: int) -> nn.Module:
    """A copy of a layer for ``width`` channels. Tensors with an entry for each channel are fresh."""
    layer = copy.deepcopy(module)
    for name in ("num_features", "num_parameters", "num_channels", "num_groups"):
        if hasattr(layer, name):
            setattr(layer, name, width)
    if not is_per_channel(layer):
        return layer
    if isinstance(layer, _ConvNd):
        layer.in_channels = layer.out_channels = layer.groups = width
    for name, parameter in layer._parameters.items():
        if parameter is not None:
            layer._parameters[name] = nn.Parameter(parameter.detach().new_zeros(width, *parameter.shape[1:]))
    for name, buffer in layer._buffers.items():
        if buffer is not None and buffer.dim():
            layer._buffers[name] = buffer.new_zeros(width, *buffer.shape[1:])
    if isinstance(layer, nn.PReLU):
        nn.init.constant_(layer.weight, layer.init)
    else:
        layer.reset_parameters()  # type: ignore[operator]  # all the others of the list have it
    return layer


def has_own_forward(module: nn.Module) -> bool:
    """Whether a subclass of a layer of torch may compute something else: its code is not known."""
    known = type(module).__module__.startswith("torch.nn.") and "forward" not in vars(module)
    return not known or any(True for _ in module.children())


def norm_problem(norm: _BatchNorm, shape: Sequence[int]) -> str | None:
    """Reason why a subclass of a batch normalisation cannot be a step, or ``None``.

    Its forward pass may end with an activation. Some of its channels alone must give what they give among all,
    in training and evaluation mode. What draws random numbers does not.

    Args:
        shape: of what it reads, examples first.
    """
    if any(is_per_channel(child) for child in norm.children()):
        return "has parameters or buffers besides those of a batch normalisation"
    for name, tensor in {**norm._parameters, **norm._buffers}.items():
        if tensor is not None and (name not in NORM_TENSORS or (tensor.dim() and tensor.shape != (norm.num_features,))):
            return f"has the tensor {name} besides those of a batch normalisation"
    channels = torch.arange(norm.num_features)
    parts = (channels[::2], channels[1::2], channels[: -(-len(channels) // 2)])
    with seeded_initialisation(0), torch.no_grad():
        x = torch.randn(TESTED_ROWS, norm.num_features, *(min(size, TESTED_SIDE) for size in shape[2:]))
        for training in (False, True):
            mode = "training" if training else "evaluation"
            try:
                same = all(_same_alone(norm, x, part, training=training) for part in parts if len(part))
            except Exception as error:  # its code can raise anything
                return f"fails in {mode} mode on other channels: {error}"
            if not same:
                return f"does not treat each channel alike and on its own in {mode} mode"
    return None


def _same_alone(norm: _BatchNorm, x: Tensor, part: Tensor, *, training: bool) -> bool:
    """Whether the channels ``part`` alone give what they give among all, running statistics included."""
    whole = copy.deepcopy(norm).cpu().float().train(training)
    alone = resized(whole, len(part)).train(training)
    with torch.no_grad():
        for name, tensor in {**alone._parameters, **alone._buffers}.items():
            if tensor is not None:
                present = {**whole._parameters, **whole._buffers}[name]
                assert present is not None
                tensor.copy_(present[part] if present.dim() else present)
    pairs = [(whole(x.clone())[:, part], alone(x[:, part].clone()))]
    for name, buffer in whole._buffers.items():
        if buffer is not None and buffer.dim():
            other = alone._buffers[name]
            assert other is not None
            pairs.append((buffer[part], other))
    return all(_close(*pair) for pair in pairs)


def _close(one: Tensor, other: Tensor) -> bool:
    limit = TESTED_TOLERANCE * one.abs().max() + 1e-9
    return one.shape == other.shape and bool((one - other).abs().max() <= limit)

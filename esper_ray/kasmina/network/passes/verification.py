"""Comparison of joint passes with single ones.

The probes at attachment run a host once, on few rows. They do not show a layer whose output is still multiplied by
zero, one that mixes rows of large batches only, or one whose running statistics are dropped later. A joint pass of
several coalitions would be wrong then, without a sign of it.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from esper_ray.kasmina.blueprints import is_built_in
from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.kasmina.network.attachment import SlotHook
from esper_ray.kasmina.network.cell import SeedCell
from esper_ray.kasmina.network.newborn import preserved_rng
from esper_ray.kasmina.network.passes.rows import agreement
from esper_ray.kasmina.network.spans.cell import SpanHook
from esper_ray.kasmina.network.spans.steps import Between
from esper_ray.kasmina.network.spans.widening import Widening
from esper_ray.leyline.records import Members


class JointNetwork(Protocol):
    """A network that computes several coalitions in one pass."""

    host: nn.Module
    copies: int
    separate: tuple[Members, ...]
    unverified: tuple[Members, ...]
    warned: bool

    @property
    def slot_ids(self) -> tuple[str, ...]: ...

    @property
    def states(self) -> Mapping[str, SeedState | None]: ...

    def cell(self, slot: str) -> SeedCell: ...

    def forward(self, *args: Any, **kwargs: Any) -> Any: ...

    def single(self, members: Members, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor: ...


VERIFIED_ROWS = 32
"""Number of rows of a joint pass that are compared."""
BUILT_IN_HOSTS = "esper_ray.kasmina.hosts."
"""Beginning of the module names of hosts whose code is known."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Layers that treat rows alone in evaluation mode, with running statistics."""
ROW_WISE = frozenset(
    {
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm),
        *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Identity, nn.Dropout),
        *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Flatten),
        *(Widening, Between),
    }
)
"""Layers that treat rows alone, whatever their options and weights are."""


# Every measurement of several coalitions is verified, in its first pass, unless the network has known modules alone. It
# costs two small passes, since few rows show it: the result of a row in a joint pass depends on thousands of others if
# any layer mixes them, and in the single pass on 31. A rule that verifies at the first measurement of an episode, after
# births and every n-th epoch would miss what training changes in between. And it would need a memory, which a resumed
# episode does not have: its measurements would differ from those of an uninterrupted one. For the same reason neither
# the result nor the list of modules is remembered: a known module can lose its running statistics or get a hook.
def may_mix_rows(model: JointNetwork) -> bool:
    """Whether the network has modules that are not known to treat rows alone."""
    for slot, state in model.states.items():
        if state is not None and model.cell(slot).contributes and not _is_known(state, model.cell(slot)):
            return True
    return not all(map(_treats_rows_alone, model.host.modules()))


def _is_known(state: SeedState, cell: SeedCell) -> bool:
    """Whether a seed consists of known layers that treat rows alone."""
    if is_built_in(state.blueprint):
        return True
    return isinstance(cell.seed, Widening) and all(map(_treats_rows_alone, cell.seed.modules()))


def _treats_rows_alone(module: nn.Module) -> bool:
    kind = type(module)
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if any(not isinstance(hook, SlotHook | SpanHook) for hook in hooks):
        return False
    if "forward" in module.__dict__:  # replaced for this object
        return False
    if isinstance(module, _BatchNorm):
        return kind in BATCH_NORMS and not module.training and module.running_mean is not None
    return kind in ROW_WISE or kind.__module__.startswith(BUILT_IN_HOSTS)


def verified_output(model: JointNetwork, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Output of a joint pass if it equals single passes, else that of single passes.

    In the second case later passes within the same context are single ones too.
    """
    coalitions, model.unverified = model.unverified, ()
    originals = [_cloned(value) for value in args], {name: _cloned(value) for name, value in kwargs.items()}
    expected = _few_rows(model, coalitions, args, kwargs)
    output = model.forward(*args, **kwargs)  # the host may work in place on its arguments
    if _agrees(output, expected, len(coalitions)):
        return output
    if not model.warned:
        model.warned = True
        warnings.warn(
            "rows of a batch influence each other in this network, which did not show when its slots were attached; "
            "each coalition of seeds gets a pass of its own",
            RuntimeWarning,
            stacklevel=2,
        )
    for slot in model.slot_ids:
        model.cell(slot).fork = model.cell(slot).switch = None
    model.copies, model.separate = 1, coalitions
    return model.forward(*originals[0], **originals[1])


def _few_rows(
    model: JointNetwork, coalitions: tuple[Members, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """First rows of the first and the last coalition, from single passes.

    Two are computed because a row may influence later or earlier rows alone. The last coalition has the most seeds.
    """
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()]
    # several tensors need not have the batch first; then they are not cut
    rows = VERIFIED_ROWS if len(tensors) == 1 else None
    few = tuple(_first(value, rows) for value in args), {name: _first(value, rows) for name, value in kwargs.items()}
    device = tensors[0].device if tensors else torch.device("cpu")
    with torch.no_grad(), preserved_rng(device), _without_forks(model):
        return model.single(coalitions[0], *few), model.single(coalitions[-1], *few)


def _agrees(output: Any, expected: tuple[Tensor, Tensor], blocks: int) -> bool:
    """Whether the first and the last block of rows begin as expected."""
    if not isinstance(output, Tensor) or not output.dim() or len(output) % blocks:
        return False
    size, rows = len(output) // blocks, min(len(output) // blocks, len(expected[0]))
    starts = zip((0, len(output) - size), expected, strict=True)
    return bool(torch.stack([agreement(output[start : start + rows], few[:rows]) for start, few in starts]).all())


@contextmanager
def _without_forks(model: JointNetwork) -> Iterator[None]:
    """Context in which no batch forks."""
    before = [(cell, cell.fork, cell.switch) for cell in map(model.cell, model.slot_ids)]
    for cell, _, _ in before:
        cell.fork = cell.switch = None
    try:
        yield
    finally:
        for cell, fork, switch in before:
            cell.fork, cell.switch = fork, switch


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _first(value: Any, rows: int | None) -> Any:
    return value[:rows] if isinstance(value, Tensor) and value.dim() else value

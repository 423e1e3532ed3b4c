"""``torch.compile`` for networks whose structure changes: block by block, so that a birth compiles one seed.

Blocks of the same kind and shape share what is compiled, whichever slot, episode or network they belong to.
"""

import warnings
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn

from esper_ray.kasmina.model import MorphogeneticModel

RECOMPILE_LIMIT = 256
"""Shapes and modes that one kind of block may be compiled for."""

CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def compile_blocks(model: MorphogeneticModel, mode: str) -> None:
    """Compile the blocks of the host now, and every seed when it is first trained.

    Passes without gradient run as they are: they meet batches of many sizes and are few.

    Args:
        mode: as ``torch.compile`` knows it.
    """
    # torch looks at the gradients of a block's inputs when it compiles, and warns of that itself
    warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    slotted = {attachment.module for attachment in model.attachments.values()}
    for block in blocks(model.host, slotted):
        _compile(block, mode)
    model.growth.listen(_SeedCompiler(model, mode))


def blocks(host: nn.Module, slotted: set[str], prefix: str = "") -> Iterator[nn.Module]:
    """The largest submodules of ``host`` with parameters and without a slot inside, in the order of definition.

    Args:
        slotted: names of the submodules that carry a slot; such a one can be a block itself.
    """
    for name, child in host.named_children():
        path = f"{prefix}{name}"
        inside = any(other.startswith(f"{path}.") for other in slotted)
        if inside or isinstance(child, CONTAINERS):
            yield from blocks(child, slotted, f"{path}.")
        elif any(True for _ in child.parameters()):
            yield child


class _SeedCompiler:
    """Hears of every new seed."""

    def __init__(self, model: MorphogeneticModel, mode: str) -> None:
        self.model, self.mode = model, mode

    def arrange(self, groups: Any, resting: Any) -> None:
        """Compile the seeds that are not yet."""
        for slot in self.model.slot_ids:
            seed = self.model.cell(slot).seed
            if seed is not None:
                _compile(seed, self.mode)


class _Forward:
    """A compiled ``forward``, where there are gradients. A copy of the module gets its ordinary one back."""

    def __init__(self, module: nn.Module, mode: str) -> None:
        self.module, self.eager = module, module.forward
        self.compiled: Callable[..., Any] = torch.compile(module.forward, mode=mode, dynamic=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.compiled if torch.is_grad_enabled() else self.eager)(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        copied: nn.Module = memo[id(self.module)]
        return MethodType(type(self.module).forward, copied)


def _compile(module: nn.Module, mode: str) -> None:
    if "forward" not in module.__dict__:
        module.forward = _Forward(module, mode)

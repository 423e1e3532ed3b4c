"""Block-wise ``torch.compile`` for growing networks: a birth compiles one seed.

Blocks of the same kind and shape share compiled code across slots, episodes and networks.
"""

import warnings
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn

from esper_ray.kasmina.model import MorphogeneticModel

RECOMPILE_LIMIT = 256
"""Maximum number of compiled variants of one kind of block."""

CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def compile_blocks(model: MorphogeneticModel, mode: str) -> None:
    """Compile the blocks of the host now, and every seed when it is first trained.

    Passes without gradient run eagerly: they are few, with many batch sizes.

    Args:
        mode: of ``torch.compile``.
    """
    # torch reads the gradients of a block's inputs during compilation, and warns of its own access
    warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    slotted = {attachment.module for attachment in model.attachments.values()}
    slotted |= {at.region.producer.name for at in model.attachments.values() if at.region is not None}
    for block in blocks(model.host, slotted):
        _compile(block, mode)
    model.growth.subscribe(_SeedCompiler(model, mode))


def blocks(host: nn.Module, slotted: set[str], prefix: str = "") -> Iterator[nn.Module]:
    """The largest submodules of ``host`` with parameters and without inner slots.

    They are in the order of definition.

    Args:
        slotted: names of the submodules that carry a slot; each can be a block itself.
    """
    for name, child in host.named_children():
        path = f"{prefix}{name}"
        inside = any(name_with_slot.startswith(f"{path}.") for name_with_slot in slotted)
        if inside or isinstance(child, CONTAINERS):
            yield from blocks(child, slotted, f"{path}.")
        elif any(True for _ in child.parameters()):
            yield child


class _SeedCompiler:
    """Growth listener that compiles every new seed."""

    def __init__(self, model: MorphogeneticModel, mode: str) -> None:
        self.model, self.mode = model, mode

    def replace(self, parameters: Any) -> None:
        """Nothing: compiled code follows the layers of its block."""

    def arrange(self, groups: Any) -> None:
        """Compile the seeds that are not compiled yet."""
        for slot in self.model.slot_ids:
            seed = self.model.cell(slot).seed
            if seed is not None:
                _compile(seed, self.mode)


class _Forward:
    """A ``forward`` that is compiled where gradients are enabled. Copies are eager."""

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

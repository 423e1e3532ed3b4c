"""Any ``nn.Module`` with slots attached to its submodules.

A slot sits on the output of a named submodule, through a forward hook: the host's code and its
``state_dict`` keys stay as they are. The model holds the seeds; when they come and go is the
business of :mod:`esper_ray.kasmina.organism`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.cell import SeedCell
from esper_ray.leyline.config import unknown
from esper_ray.leyline.slots import ordered_slot_ids
from esper_ray.leyline.stages import Stage


class MorphogeneticModel(nn.Module):
    """A host and its slots.

    Build it with :meth:`wrap`. ``forward`` is the host's own.
    """

    def __init__(
        self, host: nn.Module, slots: Mapping[str, str], channels: Mapping[str, int], order: list[str]
    ) -> None:
        super().__init__()
        self.host = host
        self.cells = nn.ModuleDict({slot: SeedCell(channels[slot]) for slot in slots})
        self.execution_order = tuple(order)
        """Slots in the order in which a forward pass meets them."""
        self._branching: frozenset[str] = frozenset()
        for slot, name in slots.items():
            host.get_submodule(name).register_forward_hook(self._hook(slot))

    @classmethod
    def wrap(cls, host: nn.Module, slots: Mapping[str, str], example_input: Tensor) -> "MorphogeneticModel":
        """``host`` with slots on the outputs of its submodules.

        Args:
            host: any module; its code is not changed.
            slots: slot id to the name of a submodule, as in ``host.named_modules()``.
            example_input: (B, ...) input that one evaluation pass can be run on, to discover shapes.

        Raises:
            SlotIdError: if a slot id is malformed or there is none.
            ValueError: if a submodule does not exist, carries two slots, is never called, is called more
                than once, or returns something else than a (B, C, H, W) tensor.
        """
        ids = ordered_slot_ids(slots)
        names = [name for name, _ in host.named_modules() if name]
        for slot in ids:
            if slots[slot] not in names:
                raise ValueError(f"slot {slot}: {unknown('submodule', slots[slot], names)}")
        if len({slots[slot] for slot in ids}) < len(ids):
            raise ValueError(f"two slots sit on the same submodule: {dict(slots)}")
        order, channels = _discover(host, {slot: slots[slot] for slot in ids}, example_input)
        return cls(host, {slot: slots[slot] for slot in ids}, channels, order)

    @property
    def slot_ids(self) -> tuple[str, ...]:
        """The slots in row-major order."""
        return tuple(self.cells.keys())

    def cell(self, slot: str) -> SeedCell:
        """The cell of ``slot``.

        Raises:
            ValueError: if there is no such slot.
        """
        if slot not in self.cells:
            raise ValueError(unknown("slot", slot, list(self.slot_ids)))
        cell = self.cells[slot]
        assert isinstance(cell, SeedCell)
        return cell

    def forward(self, x: Tensor) -> Any:
        """The host's output, with every seed doing what its stage says."""
        return self.host(x)

    def incubation_excess(self) -> Tensor | None:
        """Sum of the trust-region excesses of seeds in TRAINING in the last forward pass; ``None`` without any."""
        excess: Tensor | None = None
        for slot in self.execution_order:
            cell = self.cell(slot)
            if cell.stage is Stage.TRAINING and cell.excess is not None:
                excess = cell.excess if excess is None else excess + cell.excess
                cell.excess = None
        return excess

    @contextmanager
    def branching(self, slots: frozenset[str]) -> Iterator[tuple[str, ...]]:
        """Within it, a forward pass yields the output of every coalition of ``slots`` at once.

        The batch of B rows is doubled at each of the slots: first all rows without its seed, then all
        rows with it. What lies before the first slot is computed once. Yields the slots in execution
        order; row block k of the output, of 2**n, has the i-th of them on iff bit i of k is set.

        Only for evaluation: layers must treat rows independently.
        """
        before, self._branching = self._branching, slots
        try:
            yield tuple(slot for slot in self.execution_order if slot in slots)
        finally:
            self._branching = before

    def _hook(self, slot: str) -> Any:
        def apply(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            cell = self.cell(slot)
            if slot in self._branching:
                return torch.cat([output, cell.blended(output)])
            result: Tensor = cell(output) if cell.seed is not None else output
            return result

        return apply


def _discover(host: nn.Module, slots: Mapping[str, str], example_input: Tensor) -> tuple[list[str], dict[str, int]]:
    """Execution order and channels of the slots, from one evaluation pass that changes nothing."""
    seen: list[tuple[str, Any]] = []
    handles = [
        host.get_submodule(name).register_forward_hook(lambda _m, _i, output, slot=slot: seen.append((slot, output)))
        for slot, name in slots.items()
    ]
    modes = {module: module.training for module in host.modules()}
    host.eval()
    try:
        with torch.no_grad():
            host(example_input)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    order = [slot for slot, _ in seen]
    for slot, name in slots.items():
        if order.count(slot) != 1:
            raise ValueError(f"slot {slot}: submodule {name!r} was called {order.count(slot)} times in a forward pass")
    channels = {}
    for slot, output in seen:
        if not isinstance(output, Tensor) or output.dim() != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"slot {slot}: submodule {slots[slot]!r} must return (B, C, H, W), got {shape}")
        channels[slot] = output.shape[1]
    return order, channels

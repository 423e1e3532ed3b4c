"""A host with slots on its submodules, the base type of the growing network's helpers."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from esper_ray.kasmina.lifecycle.reducer import Rules, SeedState
from esper_ray.kasmina.modules import count_parameters
from esper_ray.kasmina.network.attachment import Attachment, SlotHook, attach, check_unwrapped
from esper_ray.kasmina.network.cell import Incubation, SeedCell
from esper_ray.kasmina.network.growth import Growth
from esper_ray.kasmina.network.passes.branching import repeated
from esper_ray.kasmina.network.passes.verification import verified_output
from esper_ray.kasmina.network.places.building import detach_in_copies
from esper_ray.kasmina.network.places.caches import CacheGuard, takes_cache
from esper_ray.kasmina.network.records import GrowthOptions, SlotEvent
from esper_ray.kasmina.network.spans.cell import SpanCell, SpanHook, link_cells, new_cell
from esper_ray.kasmina.network.spans.finding import Span
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.commitment import committed_among
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.records import Members
from esper_ray.leyline.slots import ordered_slot_ids


class SlottedNetwork(nn.Module):
    """A host and its slots; ``forward`` is the host's own."""

    def __init__(
        self,
        host: nn.Module,
        attachments: list[Attachment],
        *,
        rules: Rules,
        options: GrowthOptions,
        incubation: Incubation,
        seed: int,
    ) -> None:
        super().__init__()
        self.host = host
        self.attachments = {attachment.slot: attachment for attachment in attachments}
        """Places of the slots, in forward order."""
        cells = {slot: new_cell(self.attachments[slot], incubation) for slot in ordered_slot_ids(self.attachments)}
        for slot, cell in cells.items():
            cell.host_cache = self.attachments[slot].host_cache
        link_cells(cells.values())
        self.cells = nn.ModuleDict(cells)
        self._host_parameters: int | None = None
        self.copies = 1
        """How often a pass repeats its batch; more than once only while all coalitions are measured."""
        self.separate: tuple[Members, ...] = ()
        """Coalitions that a pass computes one after another; empty unless rows of a batch influence each other."""
        self.switchable: tuple[str, ...] = ()
        """Slots whose seeds a pass of one coalition switches."""
        self.unverified: tuple[Members, ...] = ()
        """Coalitions of a joint pass that is to be compared with single ones; empty without such."""
        self.warned = False
        """Whether a warning of a joint pass with a wrong result has been given."""
        self.growth = Growth(host, cells, rules, options, seed)
        for slot, cell in cells.items():
            at = self.attachments[slot]
            host.get_submodule(at.module).register_forward_hook(SlotHook(cell, at.layout))
            if isinstance(cell, SpanCell):
                host.get_submodule(cell.region.producer.name).register_forward_pre_hook(SpanHook(cell))
        if takes_cache(host) and any(cell.shape.topology is Topology.SEQUENCES for cell in cells.values()):
            host.register_forward_pre_hook(CacheGuard(cells), with_kwargs=True)
        first = next(host.parameters(), None)
        for slot, cell in cells.items():  # type and device of new seeds follow those of their cells
            cell.to(device=None if first is None else first.device, dtype=self.attachments[slot].dtype)

    @classmethod
    def wrap(
        cls,
        host: nn.Module,
        slots: Mapping[str, str | Span],
        example_input: Any,
        *,
        rules: Rules | None = None,
        options: GrowthOptions | None = None,
        incubation: Incubation | None = None,
        seed: int = 0,
        causal: bool = True,
        layout: str | Mapping[str, str] | None = None,
    ) -> Self:
        """``host`` with slots on the outputs of its submodules.

        Args:
            host: any module; its code is not changed.
            slots: slot id (``r0c0``) to the name of a submodule, as in ``host.named_modules()``. It yields features,
                as a tensor or as the first entry of a tuple, a list or a ``ModelOutput``. Or to a span that seeds
                widen: an entry of :func:`~esper_ray.kasmina.find_spans`, or its name ``producer -> consumer``.
            example_input: input that one evaluation pass can be run on, to discover shapes and order: a tensor,
                a tuple of positional or a mapping of named arguments, batch first.
            rules: gates and clocks of the lifecycle.
            seed: seeds the initial weights of germinated modules.
            causal: whether tokens of sequences may see earlier tokens only. Say False for encoders.
            layout: order of the dimensions of the features, such as ``BHWC``, for all slots or by slot; see
                :class:`~esper_ray.kasmina.network.places.layouts.Layout`. By default it is found by runs of the host
                on other batches and sizes, and by the layers next to a slot.

        Raises:
            SlotIdError: if a slot id is malformed or there is none.
            SpanError: if there is no span between two layers, with the reason.
            ValueError: if a submodule does not exist, carries two slots, is compiled, is never called, is called
                more than once, or returns something else; if the layout of its features does not show; if
                :meth:`~esper_ray.kasmina.model.MorphogeneticModel.plain` could not build a seed in behind it; or if
                the host is wrapped already. The host is as it was then.
        """
        check_unwrapped(host)
        attachments = attach(host, slots, example_input, causal=causal, layout=layout)
        return cls(
            host,
            attachments,
            rules=rules or Rules(),
            options=options or GrowthOptions(),
            incubation=incubation or Incubation(),
            seed=seed,
        )

    def __getattr__(self, name: str) -> Any:
        """Attribute of torch's module, or a public one of the host, such as ``config``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            host = self.__dict__.get("_modules", {}).get("host")
            if host is None or name.startswith("_") or not hasattr(host, name):
                raise
            return getattr(host, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """An independent copy. Tensors that the last pass has left in the host are copied without their history."""
        detach_in_copies(self, memo)
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's output with every seed acting as its stage defines."""
        if self.separate:
            return torch.cat([self.single(members, args, kwargs) for members in self.separate])
        if self.unverified:
            return verified_output(self, args, kwargs)
        if self.copies > 1:
            args = tuple(repeated(value, self.copies) for value in args)
            kwargs = {name: repeated(value, self.copies) for name, value in kwargs.items()}
        return self.host(*args, **kwargs)

    def single(self, members: Members, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Output with ``members`` of the switchable seeds on, from a pass of its own."""
        for slot in self.switchable:
            self.cell(slot).switch = None if slot in members else (1, ())
        inputs = [repeated(value, 1) for value in args]  # copies: the host may work in place
        output = self.host(*inputs, **{name: repeated(value, 1) for name, value in kwargs.items()})
        if not isinstance(output, Tensor) or not output.dim():
            kind = "a number" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"coalitions need a model with one tensor of rows as output, got {kind}")
        return output

    def refresh_places(self) -> None:
        """Follow layers that have become wider in counts and shapes."""
        self._host_parameters = None
        for slot, at in self.attachments.items():
            cell = self.cell(slot)
            if (at.shape, at.example_shape) != (cell.shape, cell.example_shape):
                self.attachments[slot] = replace(at, shape=cell.shape, example_shape=cell.example_shape)

    @property
    def slot_ids(self) -> tuple[str, ...]:
        """The slots in row-major order."""
        return tuple(self.cells.keys())

    @property
    def execution_order(self) -> tuple[str, ...]:
        """The slots in forward order."""
        return tuple(self.attachments)

    @property
    def states(self) -> Mapping[str, SeedState | None]:
        """State of each slot's seed, ``None`` where the slot is empty."""
        return self.growth.states

    @property
    def events(self) -> list[SlotEvent]:
        """Events so far, oldest first."""
        return self.growth.log

    @property
    def host_parameters(self) -> int:
        """Structural parameter count of the host, with what was folded into it."""
        if self._host_parameters is None:
            self._host_parameters = count_parameters(self.host)
        return self._host_parameters

    def seed_parameters(self, slot: str) -> int:
        """Structural parameter count of the seed in ``slot``, 0 if it holds no module."""
        self.cell(slot)
        return self.growth.seed_parameters(slot)

    def cell(self, slot: str) -> SeedCell:
        """The cell of ``slot``.

        Raises:
            ValueError: if there is no such slot.
        """
        if slot not in self.cells:
            raise ValueError(unknown_name_message("slot", slot, list(self.slot_ids)))
        return cast(SeedCell, self.cells[slot])

    @property
    def committed_slots(self) -> frozenset[str]:
        """The slots whose seed is committed permanently."""
        return committed_among((slot, state.stage) for slot, state in self.states.items() if state is not None)

    @property
    def total_parameters(self) -> int:
        """Structural parameter count of host and seeds."""
        return self.host_parameters + sum(map(self.seed_parameters, self.slot_ids))

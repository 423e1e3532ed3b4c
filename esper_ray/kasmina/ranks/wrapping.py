"""Wrappers of whole models for several processes, and what they must know about seeds."""

from collections.abc import Iterator

from torch import nn

from esper_ray.kasmina.network.slotted import SlottedNetwork


class SeedNames:
    """Names of the seeds' parameters within a module, read when they are iterated.

    ``DistributedDataParallel`` waits in each backward pass for every parameter that it was built with. A seed may end,
    or learn from a pass of its own, so all seeds are left to the exchange of their model.
    """

    def __init__(self, module: nn.Module, others: tuple[str, ...] = ()) -> None:
        """
        Args:
            others: more names to leave out.
        """
        self._module, self._others = module, others

    def __iter__(self) -> Iterator[str]:
        """Names of parameters, and of the amplitudes, which every process computes itself."""
        yield from self._others
        for prefix, network in self._module.named_modules():
            if isinstance(network, SlottedNetwork):
                start = f"{prefix}.cells." if prefix else "cells."
                yield from (start + name for name, _ in network.cells.named_parameters())
                for slot in network.slot_ids:
                    yield from (f"{start}{slot}.alpha", f"{start}{slot}.operator_share")


def leave_out_seeds(module: nn.Module) -> None:
    """Have a later ``DistributedDataParallel(module)`` leave out the seeds of growing networks inside.

    A growing network that is wrapped itself needs no such call.
    """
    others = tuple(getattr(module, "_ddp_params_and_buffers_to_ignore", ()))
    if not isinstance(module, SlottedNetwork):
        vars(module)["_ddp_params_and_buffers_to_ignore"] = SeedNames(module, others)


def refuse_sharded(network: SlottedNetwork) -> None:
    """Refuse a network whose parameters are divided among processes.

    Raises:
        ValueError: with the name of a module or parameter of ``fully_shard``.
    """
    divided = [
        name or "the whole network"
        for name, module in network.named_modules()
        if any(base.__name__ == "FSDPModule" for base in type(module).__mro__)  # it makes whole tensors in a pass
    ]
    divided += [name for name, parameter in network.host.named_parameters() if hasattr(parameter, "device_mesh")]
    if divided:
        raise ValueError(
            f"{divided[0]} is divided among processes (fully_shard): a seed is a whole tensor in every process, and "
            "one optimizer cannot update both; keep whole parameters, with DistributedDataParallel"
        )

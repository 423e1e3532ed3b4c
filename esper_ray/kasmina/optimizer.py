"""One optimiser for the host and its seeds, whose parameter groups follow births, commitments and deaths."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

HOST_GROUP = "host"


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """Hyper-parameters of the host's group and of a live seed's group."""

    lr: float
    seed_lr: float
    momentum: float
    weight_decay: float


class GrowingSGD:
    """SGD with momentum over the group ``host`` and one group per slot with a live seed.

    Invariant: its parameters are exactly the trainable parameters of the model, each in one group.
    """

    def __init__(self, host: nn.Module, settings: GroupSettings) -> None:
        self.settings = settings
        self._sgd = torch.optim.SGD(
            [{"params": [p for p in host.parameters() if p.requires_grad], "name": HOST_GROUP}],
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            foreach=True,
        )

    def group(self, name: str) -> list[Tensor]:
        """Parameters of the group ``name``.

        Raises:
            KeyError: if there is no such group.
        """
        for group in self._sgd.param_groups:
            if group["name"] == name:
                params: list[Tensor] = group["params"]
                return params
        raise KeyError(f"optimiser has no group {name!r}, only {self.group_names}")

    @property
    def group_names(self) -> list[str]:
        """Names of the groups, ``host`` first."""
        return [group["name"] for group in self._sgd.param_groups]

    def parameters(self) -> Iterator[Tensor]:
        """All parameters, group by group."""
        for group in self._sgd.param_groups:
            yield from group["params"]

    def add_seed(self, slot: str, seed: nn.Module) -> None:
        """Start optimising ``seed`` in a group of its own, without weight decay."""
        if slot in self.group_names:
            raise ValueError(f"optimiser already has a group for slot {slot}")
        group = {"params": list(seed.parameters()), "name": slot, "lr": self.settings.seed_lr, "weight_decay": 0.0}
        self._sgd.add_param_group(group)

    def remove_seed(self, slot: str) -> None:
        """Forget the group of ``slot`` and the momentum of its parameters."""
        for parameter in self.group(slot):
            self._sgd.state.pop(parameter, None)
        self._drop_group(slot)

    def commit_seed(self, slot: str, freeze: bool) -> None:
        """Hand the parameters of ``slot`` to the host's group with their momentum, or freeze them for good."""
        if freeze:
            parameters = self.group(slot)
            self.remove_seed(slot)
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
            return
        self.group(HOST_GROUP).extend(self.group(slot))
        self._drop_group(slot)

    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        self._sgd.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._sgd.zero_grad(set_to_none=True)

    def momentum_of(self, parameter: Tensor) -> Tensor | None:
        """Momentum buffer of ``parameter``, ``None`` before its first step."""
        buffer: Tensor | None = self._sgd.state.get(parameter, {}).get("momentum_buffer")
        return buffer

    def set_momentum(self, parameter: Tensor, buffer: Tensor | None) -> None:
        """Replace the momentum buffer of ``parameter``."""
        if buffer is None:
            self._sgd.state.pop(parameter, None)
        else:
            self._sgd.state[parameter] = {"momentum_buffer": buffer}

    def regroup(self, groups: Mapping[str, list[nn.Parameter]]) -> None:
        """Replace all groups, dropping all momentum: the first step of restoring a snapshot."""
        self._sgd.state.clear()
        self._sgd.param_groups[0]["params"] = groups[HOST_GROUP]
        del self._sgd.param_groups[1:]
        for slot, parameters in groups.items():
            if slot != HOST_GROUP:
                self._sgd.add_param_group(
                    {"params": parameters, "name": slot, "lr": self.settings.seed_lr, "weight_decay": 0.0}
                )

    def _drop_group(self, slot: str) -> None:
        self._sgd.param_groups[:] = [group for group in self._sgd.param_groups if group["name"] != slot]

"""Optimiser of a host and its seeds, whose parameter groups follow the structure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.growth import HOST_GROUP

ParameterState = dict[str, Any]
"""Optimiser state of one parameter, such as momentum."""


class GrowingOptimizer:
    """A torch optimiser with the group ``host`` and one group per live seed.

    Invariant: its parameters are exactly the trainable parameters of the model, each in one group. A
    committed seed joins the host's group with its state; the state of a seed that fades, and does not
    learn meanwhile, is kept for it; that of a removed seed is dropped.
    """

    def __init__(
        self,
        model: MorphogeneticModel,
        optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        host: Mapping[str, Any],
        seeds: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            host: options of the host's group, for example ``{"lr": 0.1, "momentum": 0.9}``.
            seeds: what is different in the groups of live seeds, for example ``{"weight_decay": 0.0}``.

        Raises:
            ValueError: if nothing of the host can be trained.
        """
        self.model = model
        self._seed_options = dict(host) | dict(seeds or {})
        self._resting: dict[nn.Parameter, ParameterState] = {}
        self._left: dict[str, dict[str, Any]] = {}
        groups, _ = model.growth.arrangement()
        if not groups[HOST_GROUP]:
            raise ValueError("the host has no trainable parameters to optimise")
        self._optimizer = optimizer([{"params": list(groups[HOST_GROUP]), "name": HOST_GROUP}], **host)
        model.growth.subscribe(self)

    def arrange(self, groups: Mapping[str, Sequence[nn.Parameter]], resting: Sequence[nn.Parameter]) -> None:
        """Train ``groups`` from now on. Parameters keep their state across groups."""
        states = self._resting | dict(self._optimizer.state)
        present = {group["name"]: group for group in self._optimizer.param_groups}
        arranged = []
        for name, parameters in groups.items():
            group = present.get(name)
            if group is None and any(parameter in self._resting for parameter in parameters):
                group = self._left.get(name)  # learning rates that a schedule has changed stay so over a fade
            if group is None:
                self._optimizer.add_param_group({"params": list(parameters), "name": name} | self._seed_options)
                group = self._optimizer.param_groups.pop()
            arranged.append((group, list(parameters)))
        self._left = {name: group for name, group in (self._left | present).items() if name not in groups}
        for group, members in arranged:
            group["params"] = members
        self._optimizer.param_groups[:] = [group for group, _ in arranged]
        self._optimizer.state.clear()
        for parameter in self.parameters():
            if states.get(parameter):
                self._optimizer.state[parameter] = states[parameter]
        self._resting = {parameter: states.get(parameter, {}) for parameter in resting}

    @property
    def group_names(self) -> list[str]:
        """Names of the groups, ``host`` first."""
        return [group["name"] for group in self._optimizer.param_groups]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups themselves, for learning-rate schedules."""
        return self._optimizer.param_groups

    def group(self, name: str) -> list[nn.Parameter]:
        """Parameters of the group ``name``.

        Raises:
            KeyError: if there is no such group.
        """
        for group in self._optimizer.param_groups:
            if group["name"] == name:
                params: list[nn.Parameter] = group["params"]
                return params
        raise KeyError(f"optimiser has no group {name!r}, only {self.group_names}")

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters that are trained, group by group."""
        for group in self._optimizer.param_groups:
            yield from group["params"]

    def before_step(self, callback: Callable[[], None]) -> None:
        """Call ``look`` before every following step."""
        self._optimizer.register_step_pre_hook(lambda _optimizer, _args, _kwargs: callback())

    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        self._optimizer.step()

    def zero_grad(self) -> None:
        """Drop all gradients of the model, those of resting parameters too."""
        for parameter in self.model.parameters():
            parameter.grad = None

    def parameter_state(self, parameter: nn.Parameter) -> ParameterState:
        """Optimiser state of ``parameter``; empty before its first step."""
        state: ParameterState = self._resting.get(parameter) or self._optimizer.state.get(parameter, {})
        return state

    def state_by_name(self) -> dict[str, ParameterState]:
        """Copies of the optimiser states, by parameter name in the model."""
        states = {name: self.parameter_state(parameter) for name, parameter in self.model.named_parameters()}
        return {name: _copied(state) for name, state in states.items() if state}

    def load_state_by_name(self, states: Mapping[str, ParameterState]) -> None:
        """Replace all optimiser states by ``states``.

        Raises:
            KeyError: if the model has no parameter of some name; nothing is changed then.
        """
        named = dict(self.model.named_parameters())
        for name in states:
            if name not in named:
                raise KeyError(f"optimiser state for {name!r}, which the model does not have")
        resting = set(self._resting)
        self._optimizer.state.clear()
        self._resting = {parameter: {} for parameter in resting}
        for name, state in states.items():
            owner = self._resting if named[name] in resting else self._optimizer.state
            owner[named[name]] = _copied(state)


def _copied(state: ParameterState) -> ParameterState:
    return {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()}

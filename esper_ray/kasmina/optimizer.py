"""Optimizer of a host and its seeds, whose parameter groups follow the structure.

It is a :class:`torch.optim.Optimizer`, so schedulers, gradient scalers and state dicts work as with any other.
A scheduler keeps rates by the position of a group. So the groups of every slot exist from the beginning, empty, and a
newborn seed enters a group that has been scheduled all along.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer

from esper_ray.kasmina.measurement.gradients import GradientWatch, step_norms
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.optimizer_states import ParameterState, is_option, joined_states, plain_options
from esper_ray.kasmina.network.records import HOST_GROUP
from esper_ray.kasmina.network.spans.folding import Replacement
from esper_ray.kasmina.ranks.wrapping import refuse_sharded

OptionsOf = Callable[[str, nn.Parameter], Mapping[str, Any]]
"""Options of a parameter that differ from the others', by its name; ``optimizer`` names another class."""


class GrowingOptimizer(Optimizer):
    """An optimizer with a group ``host`` and one for the seed of each slot.

    Invariant: every parameter of host and seeds is in one group; those without a gradient rest, with their
    state. A committed seed joins the host's group with its state; the state of a removed seed is dropped.
    """

    def __init__(
        self,
        model: MorphogeneticModel,
        optimizer: type[Optimizer] = SGD,
        *,
        seeds: Mapping[str, Any] | None = None,
        groups: OptionsOf | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            optimizer: class that computes the updates.
            seeds: what is different for live seeds, for example ``{"weight_decay": 0.0}``.
            groups: what is different for a parameter, for example ``{"weight_decay": 0.0}`` for biases. Names are
                those of the host (``layer1.0.weight``), and ``<slot>.seed.<name>`` for seeds.
            options: options of ``optimizer``, for example ``lr=0.1``.

        Raises:
            ValueError: if nothing of the host can be trained, its parameters are sharded, or an option is not valid.
            TypeError: if ``optimizer`` has no such option.
        """
        refuse_sharded(model)
        arrangement = model.growth.arrangement()
        if not any(parameter.requires_grad for parameter in arrangement[HOST_GROUP]):
            raise ValueError("the host has no trainable parameters to optimize")
        self.model = model
        self._class, self._options, self._seeds, self._function = optimizer, options, dict(seeds or {}), groups
        self._parts: list[Optimizer] = []
        self.watches: list[GradientWatch] = [model.measurer.watch]
        """Sums that every step adds its gradient norms to; empty if the training loop measures gradients itself."""
        self._observed = False
        names, host = self._names(arrangement), dict[_Key, list[nn.Parameter]]()
        for parameter in arrangement[HOST_GROUP]:
            host.setdefault(self._key(names[parameter], parameter), []).append(parameter)
        first = [self._new_group(HOST_GROUP, key, members) for key, members in host.items()]
        super().__init__(first, dict(self._parts[0].defaults))
        for slot in model.slot_ids:
            for key in host:
                self._group(slot, key)
        model.growth.subscribe(self)
        model.exchange.start()

    # Groups

    def arrange(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        """Keep ``groups`` from now on. Parameters keep their state across groups."""
        members: dict[tuple[str, _Key], list[nn.Parameter]] = {}
        names = self._names(groups)
        for owner, parameters in groups.items():
            for parameter in parameters:
                key = self._key(names[parameter], parameter)
                members.setdefault((owner, key), []).append(parameter)
        for owner, key in members:
            self._group(owner, key)
        for group in self.param_groups:
            group["params"] = members.get((group["name"], group["key"]), [])
        for ended in self.state.keys() - names.keys():
            del self.state[ended]
        self._link()

    def replace(self, parameters: Mapping[nn.Parameter, tuple[nn.Parameter, Replacement]]) -> None:
        """Give parameters of widened layers their state.

        It is that of the old parameters, and of the seed's for the new channels. State of another form than the
        parameter's starts again.
        """
        options = {parameter: group for group in self.param_groups for parameter in group["params"]}
        for parameter, state in joined_states(parameters, self.state, options).items():
            self.state[parameter] = state

    @property
    def group_names(self) -> list[str]:
        """Names of the groups that train something, ``host`` first."""
        return list(dict.fromkeys(group["name"] for group in self.live_groups))

    @property
    def live_groups(self) -> list[dict[str, Any]]:
        """Those of the groups that train something."""
        return [group for group in self.param_groups if any(p.requires_grad for p in group["params"])]

    def group(self, name: str) -> list[nn.Parameter]:
        """Parameters that are trained in the groups called ``name``.

        Raises:
            KeyError: if there is no such group, or it trains nothing.
        """
        groups = [group["params"] for group in self.live_groups if group["name"] == name]
        if not groups:
            raise KeyError(f"optimizer has no group {name!r}, only {self.group_names}")
        return [parameter for group in groups for parameter in group if parameter.requires_grad]

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters that are trained, group by group."""
        for group in self.param_groups:
            yield from (parameter for parameter in group["params"] if parameter.requires_grad)

    # Training

    def clip(self, host: float | None = 1.0, seeds: float | None = 1.0) -> None:
        """Clip the gradients of host and of each live seed to an L2 norm.

        A step that follows counts with the norms before clipping in :meth:`MorphogeneticModel.measure`.

        Args:
            host: maximum norm of host and committed seeds together; ``None`` for no limit.
            seeds: maximum norm of each live seed.
        """
        self.model.exchange.average()
        self._observe(host, seeds)
        self._observed = True

    def _observe(self, host_limit: float | None = None, seed_limit: float | None = None) -> None:
        """Add the norms of the present gradients to the watches."""
        groups = {name: self.group(name) for name in self.group_names}
        ids = {slot: state.seed_id for slot, state in self.model.states.items() if state is not None}
        norms = step_norms(groups, ids, host_limit, seed_limit)
        for watch in self.watches:
            watch.add(norms)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Args:
            closure: computes loss and gradients again, for optimizers that need it.

        Returns:
            The loss of ``closure``; ``None`` without one.
        """
        self._follow_schedule()
        closure = self.model.exchange.before_update(closure)
        loss = None
        if closure is not None and len(self._parts) == 1:
            loss = self._parts[0].step(closure)
            self._watch()
            return loss
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._watch()
        for part in self._parts:
            part.step()
        return loss

    def _watch(self) -> None:
        """Observe the gradients of a step, unless :meth:`clip` has done so."""
        if self.watches and not self._observed:
            self._observe()
        self._observed = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients of the model, those of resting parameters too.

        Args:
            set_to_none: whether gradients are removed; else they are filled with zeros.
        """
        for parameter in self.model.parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.detach_().zero_()

    # State

    def parameter_state(self, parameter: nn.Parameter) -> ParameterState:
        """Optimizer state of ``parameter``; empty before its first step."""
        state: ParameterState = self.state.get(parameter, {})
        return state

    def state_by_name(self) -> dict[str, ParameterState]:
        """Copies of the optimizer states, by parameter name in the model."""
        states = {name: self.parameter_state(parameter) for name, parameter in self.model.named_parameters()}
        return {name: _copied(state) for name, state in states.items() if state}

    def load_state_by_name(self, states: Mapping[str, ParameterState]) -> None:
        """Replace all optimizer states by ``states``.

        Raises:
            KeyError: if the model has no parameter of some name; nothing is changed then.
        """
        named = dict(self.model.named_parameters())
        for name in states:
            if name not in named:
                raise KeyError(f"optimizer state for {name!r}, which the model does not have")
        self.state.clear()
        for name, state in states.items():
            self.state[named[name]] = _copied(state)

    def group_options(self) -> list[dict[str, Any]]:
        """Options of each group as plain values, with its name and key.

        The scheduled learning rate is one of them.
        """
        return [
            {"name": group["name"], "key": str(_shown(group["key"])), "options": plain_options(group)}
            for group in self.param_groups
        ]

    def load_group_options(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Set options of :meth:`group_options` in the groups of the same name and key.

        Raises:
            ValueError: if the groups differ; nothing is changed then.
        """
        groups = {(group["name"], str(_shown(group["key"]))): group for group in self.param_groups}
        options = {(entry["name"], entry["key"]): entry["options"] for entry in saved}
        if groups.keys() != options.keys():
            strange = sorted(groups.keys() ^ options.keys())[0]
            raise ValueError(f"the groups of the optimizer differ: {' '.join(strange)} is missing or not expected")
        for place, group in groups.items():
            for name, value in options[place].items():
                if not is_option(value, plain_options(group).get(name, value)):
                    raise ValueError(f"option {name} of group {' '.join(place)} cannot be {value!r:.60}")
        for place, group in groups.items():
            for name, value in options[place].items():
                if isinstance(group.get(name), Tensor):
                    group[name].fill_(value)
                else:
                    group[name] = tuple(value) if isinstance(value, list) else value

    @property
    def description(self) -> str:
        """Class and options in words, equal for equal optimizers."""
        options = ", ".join(f"{name}={value!r}" for name, value in sorted(self._options.items()))
        seeds = f"; seeds: {dict(sorted(self._seeds.items()))}" if self._seeds else ""
        return f"{self._class.__name__}({options}){seeds}"

    def state_dict(self) -> dict[str, Any]:
        """The state dict of torch, with plain values alone."""
        state = super().state_dict()
        for group in state["param_groups"]:
            group["key"] = _shown(group["key"])
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of :meth:`state_dict`. The model must have grown as the saved one had.

        Raises:
            ValueError: if the groups differ; nothing is changed then.
        """
        saved = {(group.get("name"), str(group.get("key"))): group for group in state_dict["param_groups"]}
        own = []
        for group in self.param_groups:
            place = group["name"], str(_shown(group["key"]))
            stored = saved.pop(place, {"params": []})
            if len(stored["params"]) != len(group["params"]):
                sizes = f"{len(group['params'])} parameters, {len(stored['params'])} in the state"
                raise ValueError(f"the state belongs to another structure: group {' '.join(place)} has {sizes}")
            own.append(group | stored | {name: group[name] for name in ("key", "part")})
        if left := [place for place, group in saved.items() if group["params"]]:
            raise ValueError(f"the state belongs to another structure: it has a group {left[0][0]} {left[0][1]}")
        super().load_state_dict({**state_dict, "param_groups": own})
        self._link()

    def __deepcopy__(self, memo: dict[int, Any]) -> "GrowingOptimizer":
        """An optimizer of the copied model, which follows its births. Hooks are not copied."""
        copied = GrowingOptimizer(
            copy.deepcopy(self.model, memo), self._class, seeds=self._seeds, groups=self._function, **self._options
        )
        memo[id(self)] = copied
        for group in self.param_groups:
            other = copied._group(group["name"], group["key"])
            fixed = ("params", "name", "key", "part")
            other |= {name: copy.deepcopy(value) for name, value in group.items() if name not in fixed}
            for parameter, twin in zip(group["params"], other["params"], strict=True):
                if parameter in self.state:
                    copied.state[twin] = copy.deepcopy(self.state[parameter], memo)
        return copied

    def __reduce__(self) -> Any:
        """Refuse to be pickled.

        Raises:
            TypeError: always, with what to save.
        """
        raise TypeError("a GrowingOptimizer is not pickled; save model.state_dict() and optimizer.state_dict()")

    # Inside

    def _names(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> dict[nn.Parameter, str]:
        """Names of the parameters in ``groups`` as users know them."""
        members = {parameter for parameters in groups.values() for parameter in parameters}
        named = {parameter: name for name, parameter in self.model.named_parameters() if parameter in members}
        return {parameter: name.removeprefix("host.").removeprefix("cells.") for parameter, name in named.items()}

    def _key(self, name: str, parameter: nn.Parameter) -> "_Key":
        return tuple(sorted((self._function(name, parameter) if self._function else {}).items()))

    def _new_group(self, owner: str, key: "_Key", members: Sequence[nn.Parameter]) -> dict[str, Any]:
        """Group with the options of ``owner`` and ``key``. ``part`` is the number of its optimizer."""
        special = dict(key) | (self._seeds if owner != HOST_GROUP else {})
        part = self._part(special.pop("optimizer", self._class), members)
        unknown = sorted(special.keys() - part.defaults.keys())
        if unknown:
            known = ", ".join(sorted(part.defaults))
            raise ValueError(f"{type(part).__name__} has no option {unknown[0]!r}; it has {known}")
        shared = {name: value for name, value in self._options.items() if name in part.defaults}
        own = {"name": owner, "key": key, "part": self._parts.index(part)}
        return dict(part.defaults) | shared | special | {"params": list(members)} | own

    def _part(self, optimizer: type[Optimizer], members: Sequence[nn.Parameter]) -> Optimizer:
        """The optimizer of this class, made on first use."""
        for part in self._parts:
            if type(part) is optimizer:
                return part
        options = self._options if optimizer is self._class else {}
        self._parts.append(optimizer([{"params": list(members)}], **options))
        return self._parts[-1]

    def _group(self, owner: str, key: "_Key") -> dict[str, Any]:
        """The group of ``owner`` with these options, made on first use.

        One that is made after a scheduler follows the rate of the first group.
        """
        for group in self.param_groups:
            if (group["name"], group["key"]) == (owner, key):
                return group
        group = self._new_group(owner, key, ())
        if self.param_groups and "initial_lr" in self.param_groups[0]:
            group |= {"initial_lr": group["lr"], "follows": True}
        self.param_groups.append(group)
        return group

    def _follow_schedule(self) -> None:
        first = self.param_groups[0]
        for group in self.param_groups:
            if group.get("follows") and first.get("initial_lr"):
                group["lr"] = group["initial_lr"] * (first["lr"] / first["initial_lr"])

    def _link(self) -> None:
        """Share groups and states with the optimizers that compute the updates."""
        for index, part in enumerate(self._parts):
            groups = [group for group in self.param_groups if group["part"] == index]
            if isinstance(part, LBFGS):
                self._link_whole(part, groups)
            else:
                part.param_groups = groups
            part.state = self.state

    def _link_whole(self, part: LBFGS, groups: Sequence[dict[str, Any]]) -> None:
        """L-BFGS sees one vector. Its history starts again when a birth or an end changes the length of that."""
        members = [parameter for group in groups for parameter in group["params"]]
        if [id(parameter) for parameter in members] != [id(parameter) for parameter in part._params]:
            for parameter in part._params:
                self.state.pop(parameter, None)
        whole = groups[0] if len(members) == len(groups[0]["params"]) else groups[0] | {"params": members}
        part.param_groups, part._params, part._numel_cache = [whole], members, None


_Key = tuple[tuple[str, Any], ...]


def _shown(key: _Key) -> dict[str, str]:
    return {name: value.__name__ if isinstance(value, type) else repr(value) for name, value in key}


def _copied(state: ParameterState) -> ParameterState:
    return {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()}

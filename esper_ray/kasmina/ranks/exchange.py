"""Exchange of gradients between the processes that train copies of one growing network.

``DistributedDataParallel`` averages the gradients of the parameters that exist when it is built. What is born later it
does not know. This exchange averages the rest: of every seed, and of the host too unless ``DistributedDataParallel``
does. It runs at the end of ``backward``, so that clipping sees averages, in ``incubate``, and, for gradients that
``no_sync`` has kept apart, before the optimizer's step.

Every exchange begins with the structure of each process. A seed that only some of them have is an error there, before
any gradient is mixed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper_ray.kasmina.collectives import average, broadcast, gathered, gathered_texts, processes
from esper_ray.kasmina.export.checkpoints import model_manifest
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.kasmina.network.spans.folding import Replacement
from esper_ray.kasmina.ranks.wrapping import refuse_sharded
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.stages import Stage

PLACES = ("the first pass", "the end of backward()", "incubate()", "optimizer.step()")
_FIRST_PASS, _BACKWARD, _INCUBATION, _STEP = range(4)


class RanksDifferError(UserError, RuntimeError):
    """Processes whose networks have grown differently. The message has the structure of each."""

    remedy = "Let one process decide, and execute the same commands in all of them; `esper_ray.grow` does both."


class GradientExchange:
    """Exchange of one model with its copies in the other processes. It rests without a process group."""

    def __init__(self, model: SlottedNetwork) -> None:
        self._model = model
        self._watched: set[nn.Parameter] = set()
        self._started = False
        self._pending = True
        self._queued = False
        self._deferred = False
        self._wrapper: ref[DistributedDataParallel] | None = None
        self._covered: frozenset[int] = frozenset()
        self._shared: dict[str, str | None] = {}
        self._fingerprint: tuple[tuple[Any, ...], int] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "GradientExchange":
        """A fresh exchange for the copied model."""
        return GradientExchange(memo.get(id(self._model), self._model))

    def __reduce__(self) -> Any:
        return GradientExchange, (self._model,)

    def start(self) -> None:
        """Watch the gradients of the model from now on. It has no effect without a process group."""
        if processes() > 1 and not self._started:
            self._started = True
            self._model.register_forward_pre_hook(self._entered)
            self._model.growth.subscribe(self)

    def share(self) -> None:
        """Start from the values of rank 0. It is collective, and has no effect without a process group.

        Raises:
            ValueError: if parameters are divided among processes.
            RanksDifferError: if the processes have different structures.
        """
        if processes() > 1:
            refuse_sharded(self._model)
            self._agree(_FIRST_PASS, ())
            self._share_newborns()

    def average(self) -> None:
        """Average what no exchange has averaged yet. Clip after it. It is collective in a process group."""
        if processes() > 1:
            self.start()
            if self._pending:
                self._exchange(_STEP)

    def before_update(self, closure: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """``closure`` with averaged gradients; without one they are averaged now. For each step of an optimizer."""
        if processes() == 1:
            return closure
        if closure is None:
            self._before_step()
            return None

        def averaged() -> Any:
            loss = closure()
            self._before_step()
            return loss

        return averaged

    def _before_step(self) -> None:
        self.average()
        if not self._covered:  # DistributedDataParallel shares them before each pass
            broadcast(list(self._model.buffers()))
        self._watch()
        self._pending = True

    def after_incubation(self) -> None:
        """Average the gradients of incubating seeds. It has no effect without a process group."""
        if processes() > 1:
            self.start()
            self._exchange(_INCUBATION)

    def arrange(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        """Watch the parameters of a new structure."""
        self._watch()

    def replace(self, parameters: Mapping[nn.Parameter, tuple[nn.Parameter, Replacement]]) -> None:
        """Nothing: the watch of the new parameters begins with :meth:`arrange`."""

    def check_not_covered(self, parameters: Iterable[nn.Parameter]) -> None:
        """Check that no ``DistributedDataParallel`` averages ``parameters``, which it could not when they are wider.

        Raises:
            ValueError: if it does; the message says what to do.
        """
        if self._wrapper is not None and self._wrapper() is not None and self._covered & set(map(id, parameters)):
            raise ValueError(
                "DistributedDataParallel knows the layers that would become wider; delete it, fold, and build it again"
            )

    # When

    def _watch(self) -> None:
        """Watch every parameter that this exchange may have to average."""
        present = {parameter for parameter in self._model.parameters() if parameter.requires_grad}
        for parameter in present - self._watched:
            parameter.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]  # torch's
        self._watched = present | {parameter for parameter in self._model.parameters() if parameter in self._watched}

    def _entered(self, model: nn.Module, _inputs: Any) -> None:
        """Note who averages the gradients of the pass that begins."""
        if torch.compiler.is_compiling() or not (model.training and torch.is_grad_enabled()):
            return
        self._queued = False
        wrapper = DistributedDataParallel._active_ddp_module
        self._deferred = wrapper is not None and not wrapper.require_backward_grad_sync
        if wrapper is not (self._wrapper and self._wrapper()):
            self._wrapper = None if wrapper is None else ref(wrapper)
            self._covered = frozenset() if wrapper is None else self._averaged_by(wrapper)
        if not self._shared:
            self.share()

    def _averaged_by(self, wrapper: DistributedDataParallel) -> frozenset[int]:
        """Identities of the host's parameters that ``wrapper`` averages."""
        known = set(map(id, wrapper._module_parameters))
        if not wrapper.find_unused_parameters:
            for name, parameter in self._model.cells.named_parameters():
                if id(parameter) in known:
                    raise ValueError(
                        f"DistributedDataParallel waits for gradients of cells.{name}, which may end before it; "
                        "call leave_out_seeds(module) before DistributedDataParallel(module)"
                    )
        return frozenset(id(p) for p in self._model.host.parameters() if p.requires_grad and id(p) in known)

    def _accumulated(self, parameter: Tensor) -> None:
        if self._queued or id(parameter) in self._covered or processes() == 1:
            return
        self._queued = True
        torch.autograd.Variable._execution_engine.queue_callback(self._backward_ended)

    def _backward_ended(self) -> None:
        self._queued = False
        if self._deferred:
            self._pending = True
        else:
            self._exchange(_BACKWARD)

    # What

    def _exchange(self, place: int) -> None:
        parameters = self._parameters(place)
        present = tuple(parameter.grad is not None for parameter in parameters)
        alike = self._agree(place, present)
        self._share_newborns()
        if not alike:
            self._complete(parameters, present)
        average([parameter.grad for parameter in parameters if parameter.grad is not None])
        self._pending = False

    def _agree(self, place: int, present: tuple[bool, ...]) -> bool:
        """Whether all processes have the same of the gradients ``present``.

        Raises:
            RanksDifferError: if their structures, places or numbers of gradients differ.
        """
        own = [self._structure(), place, len(present), hash(present)]
        everyone = gathered(own)
        if any(numbers[:3] != own[:3] for numbers in everyone):
            texts = gathered_texts(self._description())
            lines = [
                f"  rank {number}, in {PLACES[there]}, {count} gradients: {text}"
                for number, ((_, there, count, _), text) in enumerate(zip(everyone, texts, strict=True))
            ]
            raise RanksDifferError("\n".join(["the processes have grown different networks:", *lines]))
        return all(numbers[3] == own[3] for numbers in everyone)

    def _parameters(self, place: int) -> list[nn.Parameter]:
        """Parameters whose gradients are exchanged at ``place``."""
        model = self._model
        shadowed = [
            parameter
            for cell in map(model.cell, model.slot_ids)
            if cell.incubates and cell.incubation.method == "shadow"
            for parameter in cell.learnable()
        ]
        if place == _INCUBATION:
            return [parameter for parameter in shadowed if parameter.requires_grad]
        left_out = self._covered | (set(map(id, shadowed)) if place == _BACKWARD else set())
        return [p for p in model.parameters() if p.requires_grad and id(p) not in left_out]

    def _structure(self) -> int:
        """Number that is equal where slots, seeds and clocks are."""
        growth = self._model.growth
        key = growth.epoch, growth.seed, *self._model.states.values()
        if self._fingerprint is None or self._fingerprint[0] != key:
            text = json.dumps(model_manifest(self._model), sort_keys=True)
            digest = hashlib.sha256(text.encode()).digest()
            self._fingerprint = key, int.from_bytes(digest[:8], "little", signed=True)
        return self._fingerprint[1]

    def _share_newborns(self) -> None:
        """Start each seed, and at first the whole model, from the values of rank 0."""
        model = self._model
        seeds = {slot: None if state is None else state.seed_id for slot, state in model.states.items()}
        modules: list[nn.Module] = [model]
        if self._shared:
            modules = [model.cell(slot) for slot, seed in seeds.items() if seed not in (None, self._shared[slot])]
        self._shared = seeds
        broadcast([tensor for module in modules for tensor in (*module.parameters(), *module.buffers())])

    def _complete(self, parameters: list[nn.Parameter], present: tuple[bool, ...]) -> None:
        """Add zero gradients where another process has one."""
        everyone = gathered(list(present))
        for parameter, *flags in zip(parameters, *everyone, strict=True):
            if parameter.grad is None and any(flags):
                parameter.grad = torch.zeros_like(parameter)

    def _description(self) -> str:
        model = self._model
        seeds = [
            f"{slot} "
            + ("empty" if state is None else f"{state.seed_id} {state.blueprint} {Stage(state.stage).name}")
            + ("" if state is None or not state.alpha.alpha else f" at {state.alpha.alpha:.3g}")
            for slot, state in model.states.items()
        ]
        return f"epoch {model.growth.epoch}, seed {model.growth.seed}, " + ", ".join(seeds)

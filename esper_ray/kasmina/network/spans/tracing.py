"""Trace of one pass of a host: calls of layers and functions, and the values that they read and yield.

Submodules of :mod:`torch.nn` without children are single calls, and so are subclasses of batch normalisations.
Everything else shows the functions inside it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map

from esper_ray.kasmina.network.spans.checkpointing import Segment, SegmentWatch, watched_segments


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the pass, at one moment: an operation in place makes a new value."""

    number: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """Call of a layer or of a function."""

    name: str
    """Name of the layer in the host, or of the function as in ``torch.nn.functional.relu``."""
    module: nn.Module | None
    """The layer; ``None`` for a function."""
    args: tuple[Any, ...]
    """Positional arguments, with a :class:`Value` in the place of each tensor."""
    kwargs: dict[str, Any]
    reads: tuple[Value, ...]
    """Values among the arguments."""
    output: Value | None
    """``None`` unless the output is one tensor."""
    segments: tuple[Segment, ...] = ()
    """Checkpointed calls around it, the outermost first."""


@dataclass(slots=True)
class Trace:
    """Calls of one pass in their order."""

    calls: list[Call] = field(default_factory=list)
    output: list[Value] = field(default_factory=list)
    """Tensors that the host returned."""
    outputs: dict[str, list[Value]] = field(default_factory=dict)
    """Tensors that each submodule returned, in the order of its calls."""

    def calls_of(self, name: str) -> list[Call]:
        """Calls of the layer called ``name``."""
        return [call for call in self.calls if call.module is not None and call.name == name]


def traced(run: Callable[[], Any], host: nn.Module) -> Trace:
    """Trace of a pass.

    Args:
        run: runs ``host`` once, in evaluation mode and without gradient, but not in inference mode.
    """
    with watched_segments() as segments:
        recorder = _Recorder(segments)
        with recorder.watching(host), recorder:
            output = run()
    recorder.trace.output = [recorder.value(leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return recorder.trace


def is_layer(module: nn.Module) -> bool:
    """Whether ``module`` is one call of a trace."""
    if isinstance(module, _BatchNorm):  # a subclass may have an activation inside
        return True
    return type(module).__module__.startswith("torch.nn.") and not any(True for _ in module.children())


class _Recorder(TorchFunctionMode):
    """Records functions outside layers, and calls of layers."""

    def __init__(self, segments: SegmentWatch) -> None:
        super().__init__()
        self.trace = Trace()
        self._segments = segments
        self._inside = 0
        """Number of layers around the present function."""
        self._values: dict[int, tuple[Value, int, Tensor]] = {}
        """By identity of a tensor: its value, its version, and the tensor, so that no other takes its identity."""
        self._count = 0
        self._pending: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        """Arguments of the layers around the present function."""

    def value(self, tensor: Tensor) -> Value:
        """The value that ``tensor`` holds now.

        It is a new one after a change in place that no call explains.
        """
        entry = self._values.get(id(tensor))
        with torch._C.DisableTorchFunction():
            if entry is not None and entry[1] == tensor._version:
                return entry[0]
        return self._new(tensor)

    def _new(self, tensor: Tensor) -> Value:
        with torch._C.DisableTorchFunction():
            value = Value(self._count, tuple(tensor.shape))
            self._values[id(tensor)] = value, tensor._version, tensor
        self._count += 1
        return value

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        read = self._read(args, kwargs)
        output = func(*args, **kwargs)
        if any(isinstance(leaf, Value) for leaf in tree_leaves(read)):
            self._note(resolve_name(func) or repr(func), None, read, output)
        return output

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def shown(leaf: Any) -> Any:
            return self.value(leaf) if isinstance(leaf, Tensor) else leaf

        return tree_map(shown, args), tree_map(shown, kwargs)

    def _note(
        self,
        name: str,
        module: nn.Module | None,
        read: tuple[tuple[Any, ...], dict[str, Any]],
        output: Any,
    ) -> None:
        value = None
        if isinstance(output, Tensor):
            value = self._new(output)
        else:
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor):
                    self._new(leaf)
        reads = tuple(leaf for leaf in tree_leaves(read) if isinstance(leaf, Value))
        self.trace.calls.append(Call(name, module, *read, reads, value, self._segments.present))

    @contextmanager
    def watching(self, host: nn.Module) -> Iterator[None]:
        """Context in which calls of layers, and outputs of all submodules, are recorded."""
        handles = []
        for name, module in host.named_modules():
            if is_layer(module):
                handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True))
                handles.append(module.register_forward_hook(self._after(name), with_kwargs=True))
            elif name:
                handles.append(module.register_forward_hook(self._returned(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self._pending.append(self._read(args, kwargs))
        self._inside += 1

    def _after(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
            self._inside -= 1
            read = self._pending.pop()
            if not self._inside:
                self._note(name, module, read, output)
                self._record_output(name, output)

        return note

    def _returned(self, name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            if not self._inside:
                self._record_output(name, output)

        return note

    def _record_output(self, name: str, output: Any) -> None:
        values = [self.value(leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        self.trace.outputs.setdefault(name, []).extend(values)

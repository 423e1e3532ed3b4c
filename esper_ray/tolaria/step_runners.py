"""How the steps of an epoch are carried out: one after another in Python, or as a captured CUDA graph."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

OptimizerStep = Callable[[Tensor, Tensor, Tensor], None]
"""One optimiser step on rows (B,), draws (B, k) and learning rates (groups,) of one batch."""
Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does on the device, and returns what does it again."""

_CAPTURING = Lock()
"""Held during a capture: it begins by waiting for the device, which no other capture survives."""

WARM_UP = 3
"""Steps that are carried out before a graph is captured: they make the optimiser's state."""


class StepRunner(Protocol):
    """Carries out steps."""

    def run(self, key: Hashable, step: OptimizerStep, rows: Tensor, draws: Tensor, rates: Tensor) -> None:
        """Do one step.

        Args:
            key: changes whenever ``step`` would do something else than before, apart from its arguments.
        """


class EagerRunner:
    """Calls the step."""

    def run(self, key: Hashable, step: OptimizerStep, rows: Tensor, draws: Tensor, rates: Tensor) -> None:
        """See :class:`StepRunner`."""
        step(rows, draws, rates)


class CapturedRunner:
    """Calls the step a few times, then captures it and replays it until the key or the batch changes."""

    def __init__(self, capture: Capture | None = None) -> None:
        """
        Args:
            capture: how to capture; as a CUDA graph if it is left out.
        """
        self.captures = 0
        """Graphs captured so far."""
        self._capture = capture or capture_cuda_graph
        self._key: Hashable = None
        self._inputs: tuple[Tensor, ...] = ()
        self._steps = 0
        self._replay: Callable[[], None] | None = None

    def run(self, key: Hashable, step: OptimizerStep, rows: Tensor, draws: Tensor, rates: Tensor) -> None:
        """See :class:`StepRunner`."""
        inputs = (rows, draws, rates)
        whole = (key, *(tuple(tensor.shape) for tensor in inputs))
        if whole != self._key:
            self._key, self._steps, self._replay = whole, 0, None
            self._inputs = tuple(tensor.clone() for tensor in inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        if self._replay is None and self._steps >= WARM_UP:
            self._replay = self._capture(lambda: step(*self._inputs))
            self.captures += 1
        if self._replay is None:
            step(*self._inputs)
            self._steps += 1
        else:
            self._replay()


def capture_cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """``work`` as a CUDA graph. Capturing does not carry it out.

    Raises:
        RuntimeError: if it does something that cannot be captured, such as waiting for the device.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with _CAPTURING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work()
    replay: Callable[[], None] = graph.replay
    return replay

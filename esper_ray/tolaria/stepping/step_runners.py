"""Runners of an epoch's steps: eager Python, or a captured CUDA graph."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

OptimizerStep = Callable[[Tensor, Tensor, Tensor], None]
"""One optimizer step on rows (B,), draws (B, k) and learning rates (groups,) of one batch."""
Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Function that captures device work and returns its replay."""

_CAPTURING = Lock()
"""Lock of a capture, whose initial synchronisation would break any other capture."""

WARM_UP = 3
"""Number of steps before a capture; they create the optimizer's state."""


class StepRunner(Protocol):
    """Runner of training steps."""

    def run(self, key: Hashable, step: OptimizerStep, rows: Tensor, draws: Tensor, rates: Tensor) -> None:
        """Run one step.

        Args:
            key: changes with everything that ``step`` depends on besides its arguments.
        """


class EagerRunner:
    """Runner that calls the step directly."""

    def run(self, key: Hashable, step: OptimizerStep, rows: Tensor, draws: Tensor, rates: Tensor) -> None:
        """See :class:`StepRunner`."""
        step(rows, draws, rates)


class CapturedRunner:
    """Runner that captures the step after a warm-up and replays it."""

    def __init__(self, capture: Capture | None = None) -> None:
        """
        Args:
            capture: capture function; default: a CUDA graph.
        """
        self.captures = 0
        """Number of graphs captured so far."""
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
        for buffer, value in zip(self._inputs, inputs, strict=True):
            buffer.copy_(value)
        if self._replay is None and self._steps >= WARM_UP:
            self._replay = self._capture(lambda: step(*self._inputs))
            self.captures += 1
        if self._replay is None:
            step(*self._inputs)
            self._steps += 1
        else:
            self._replay()


def capture_cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Replay of ``work`` as a CUDA graph. The capture does not execute it.

    Raises:
        RuntimeError: if it contains an operation that cannot be captured, such as a synchronisation.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with _CAPTURING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work()
    replay: Callable[[], None] = graph.replay
    return replay

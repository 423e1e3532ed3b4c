"""Activation checkpointing around the layers of a span.

A checkpointed call computes its part of the pass once more in ``backward()``. If it holds the consumer of a span but
not the producer, the consumer is called alone then, and its seed needs what the producer has read. That is kept for
each checkpointed call as long as torch keeps the call.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils import checkpoint as checkpoints

SURROUNDINGS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")
"""Generator function of torch around a checkpointed call of the kind that is not reentrant: newer and older name."""


# Search: where checkpointed calls begin and end


@dataclass(frozen=True, slots=True)
class Segment:
    """One checkpointed call of a pass."""

    number: int
    reentrant: bool


class SegmentWatch:
    """Record of the checkpointed calls of a pass."""

    def __init__(self) -> None:
        self.present: tuple[Segment, ...] = ()
        """Those around the present call, the outermost first."""
        self._count = 0

    @contextmanager
    def inside(self, *, reentrant: bool) -> Iterator[None]:
        """Context of a checkpointed call."""
        before = self.present
        self.present = (*before, Segment(self._count, reentrant))
        self._count += 1
        try:
            yield
        finally:
            self.present = before


@contextmanager
def watched_segments() -> Iterator[SegmentWatch]:
    """Context in which a pass without gradient records its checkpointed calls.

    They are of both kinds. Without gradient nothing is computed twice, so that each calls its function only.
    """
    watch, reentrant = SegmentWatch(), checkpoints.CheckpointFunction
    apply = reentrant.__dict__.get("apply")
    name = next(name for name in SURROUNDINGS if hasattr(checkpoints, name))
    surround = getattr(checkpoints, name)

    def watched_apply(function: Callable[..., Any], _preserve: bool, *args: Any) -> Any:
        with watch.inside(reentrant=True):
            return function(*args)

    def watched_surround(*_args: Any, **_kwargs: Any) -> Iterator[None]:
        with watch.inside(reentrant=False):
            yield

    reentrant.apply = staticmethod(watched_apply)
    setattr(checkpoints, name, watched_surround)
    try:
        yield watch
    finally:
        setattr(checkpoints, name, surround)
        if apply is None:
            del reentrant.apply
        else:
            reentrant.apply = apply


def crossing_problem(producer: tuple[Segment, ...], consumer: tuple[Segment, ...]) -> str | None:
    """Reason why checkpointing forbids a span; ``None`` if it does not.

    Args:
        producer: checkpointed calls around the producer.
        consumer: those around the consumer.
    """
    shared = 0
    while shared < min(len(producer), len(consumer)) and producer[shared] == consumer[shared]:
        shared += 1
    left, entered = producer[shared:], consumer[shared:]
    if any(segment.reentrant for segment in (*left, *entered)):
        return (
            "reentrant activation checkpointing (use_reentrant=True) begins or ends, so that a seed would have wrong "
            "gradients; use_reentrant=False has right ones"
        )
    return "nested activation checkpointing begins" if len(entered) > 1 else None


# Passes: what a producer has read, for a consumer that is called once more


class KeptSources:
    """What the producer of a span has read, by checkpointed call. An entry lives as long as its call."""

    def __init__(self) -> None:
        self._entries = WeakKeyDictionary[Any, tuple[Tensor, int]]()

    def __len__(self) -> int:
        return len(self._entries)

    def __deepcopy__(self, memo: dict[int, Any]) -> "KeptSources":
        return KeptSources()

    def __reduce__(self) -> Any:
        return KeptSources, ()

    def keep(self, frame: Any, source: Tensor) -> None:
        """Keep the values of ``source`` for the checkpointed call ``frame``."""
        values = source.detach().requires_grad_(source.requires_grad)  # the same tensors are saved then
        self._entries[frame] = values, values._version

    def source_of(self, frame: Any) -> Tensor | None:
        """What was kept for ``frame``.

        Raises:
            RuntimeError: if it was changed in place since.
        """
        source, version = self._entries.get(frame, (None, 0))
        if source is not None and source._version != version:
            raise RuntimeError(
                "what the producer of a span had read was changed in place before a checkpointed call computed it again"
            )
        return source


def present_frame() -> tuple[Any, bool]:
    """The checkpointed call around this place of a pass; reentrant ones are not seen.

    Returns:
        torch's object of the call, or ``None``; and whether the call is computed once more in ``backward()``.
    """
    hooks = None if torch.compiler.is_compiling() else torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is None:
        return None, False
    variables = inspect.getclosurevars(inspect.unwrap(hooks[0])).nonlocals  # torch has no name for it
    if "target_frame_ref" in variables:
        return variables["target_frame_ref"](), True
    frame = variables.get("frame")
    return (frame, False) if isinstance(frame, checkpoints._CheckpointFrame) else (None, False)


def leaves_reentrant(node: torch.autograd.graph.Node | None) -> bool:
    """Whether a reentrant checkpointed call is in the graph that ends in ``node``."""
    rest, seen = [node], set[Any]()
    while rest:
        present = rest.pop()
        if present is None or present in seen:
            continue
        if present.name() == f"{checkpoints.CheckpointFunction.__name__}Backward":
            return True
        seen.add(present)
        rest += [before for before, _ in present.next_functions]
    return False

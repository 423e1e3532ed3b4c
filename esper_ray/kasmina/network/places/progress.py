"""How far a forward pass has come at each slot: layer calls, and parameters of the modules that have started."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class PassProgress:
    """Progress of a pass at one slot."""

    depth: float = 0.0
    """Layer calls that have ended, over those of the pass; in [0, 1]."""
    upstream_share: float = 0.0
    """Parameters of the modules that have started, over all parameters of the host; in [0, 1]."""


@dataclass(slots=True)
class ProgressWatch:
    """Counts of one pass, and their values at the slots."""

    calls: int = 0
    """Calls of modules without children, so far."""
    started: set[int] = field(default_factory=set)
    """Ids of the parameters of modules that have started."""
    parameters: int = 0
    at: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Calls and parameters when the submodule of a slot ended, by slot."""

    def start(self, module: nn.Module, _args: Any) -> None:
        """Note that ``module`` starts: its own parameters count from now on."""
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in self.started:
                self.started.add(id(parameter))
                self.parameters += parameter.numel()

    def end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Note that a layer has ended."""
        self.calls += 1

    def progress(self, host: nn.Module) -> dict[str, PassProgress]:
        """Progress at each slot that the pass reached."""
        total = sum(parameter.numel() for parameter in host.parameters())
        return {
            slot: PassProgress(min(1.0, calls / max(1, self.calls)), parameters / max(1, total))
            for slot, (calls, parameters) in self.at.items()
        }


@contextmanager
def watched_progress(host: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[ProgressWatch]:
    """Context in which one pass of ``host`` is watched.

    Args:
        modules: submodule of each slot.
    """
    watch = ProgressWatch()
    handles = []
    for module in host.modules():
        handles.append(module.register_forward_pre_hook(watch.start))
        if not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(watch.end))
    for slot, module in modules.items():

        def note(_module: nn.Module, _args: Any, _output: Any, slot: str = slot) -> None:
            watch.at.setdefault(slot, (watch.calls, watch.parameters))

        handles.append(module.register_forward_hook(note))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()

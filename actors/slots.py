"""Several environments in one process that play at the same time. No Ray in here.

On a GPU each has a CUDA stream of its own, so that small networks fill the device together; the data
are there once for all of them.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue

import torch

from actors.rollout import Assignment, EpisodeRunner
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.policy import Episode
from policies.tamiyo import LearnedPolicy


@dataclass(frozen=True, slots=True)
class _Slot:
    policy: LearnedPolicy
    runner: EpisodeRunner
    stream: "torch.cuda.Stream | None"

    def current(self) -> "AbstractContextManager[object]":
        """Within it, work goes to this slot's stream."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


class EnvironmentSlots:
    """Environments on one device, each with a copy of the policy. :meth:`play` may be called from several threads."""

    def __init__(self, config: RunConfig, device: str, count: int) -> None:
        self._slots = [self._slot(config, device) for _ in range(count)]
        self._free: SimpleQueue[_Slot] = SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)

    def adopt(self, weights: Mapping[str, torch.Tensor], epsilon: float) -> None:
        """Use these weights from now on. Not while somebody plays."""
        for slot in self._slots:
            with slot.current():
                slot.policy.load(dict(weights), epsilon)

    def play(self, assignment: Assignment) -> Episode:
        """One episode, from reset to its end, in the next free slot."""
        slot = self._free.get()
        try:
            with slot.current():
                return slot.runner.play(assignment)
        finally:
            self._free.put(slot)

    @staticmethod
    def _slot(config: RunConfig, device: str) -> _Slot:
        policy = LearnedPolicy(config.policy, device)
        runner, stream = EpisodeRunner(MorphogenesisEnv(config, device), policy), None
        if device.startswith("cuda"):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))  # which has data and weights to make
        return _Slot(policy, runner, stream)

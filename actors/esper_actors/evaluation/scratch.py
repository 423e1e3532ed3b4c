"""Networks that are trained without a policy: final topologies from scratch, wider hosts, and searches over topologies.

A search knows what a policy can choose from: slots and blueprints. It trains whole networks, and may spend a multiple
of the operations of one growth.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np
import torch

from esper_actors.rollout.runner import Interrupted
from esper_actors.training.workers import ShouldStop
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.legality import Limits
from esper_ray.runtime.host import EpisodeRuntime, PlantedSeed
from esper_ray.tolaria.assembly import ConfiguredHost, derived_seed
from esper_ray.tolaria.flops import FlopMeter

TOPOLOGY_ORDER = 201
"""Key of the random order of topologies in a search."""
REDUCTION = 3
"""Successive halving: one in so many networks is trained on."""
DRAWS = 100
"""Draws for a topology that has not come before."""
MOST_NETWORKS = 10_000
"""Most networks of a random search, beyond the first."""
RUNGS = 3
"""Lengths of training in successive halving, each ``REDUCTION`` times the one before."""
_SEARCH = re.compile(r"(random-search|asha)-([1-9]\d?)x")

Seeds = tuple[PlantedSeed, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """A search over topologies."""

    halving: bool
    """Whether networks that are behind are stopped early (ASHA); else all are trained to the end."""
    times: int
    """Operations that it may spend, in multiples of one growth."""

    @classmethod
    def parse(cls, name: str) -> "Search | None":
        """The search called ``name``, for example ``random-search-2x`` or ``asha-8x``; ``None`` for another name."""
        match = _SEARCH.fullmatch(name)
        return None if match is None else cls(match[1] == "asha", int(match[2]))


@dataclass(slots=True)
class ScratchTrial:
    """A network in a search."""

    runtime: EpisodeRuntime
    objectives_pp: dict[int, float] = field(default_factory=dict)
    """Objective after so many epochs, in percentage points."""


class ScratchTraining:
    """Training of networks whose topology does not change."""

    def __init__(self, config: RunConfig, env: MorphogenesisEnv, device: str, flops: FlopMeter) -> None:
        """
        Args:
            env: its data and limits are used, not its state.
            flops: counts the operations.
        """
        self.config, self.data, self.limits = config, env.data, env.limits
        self.device, self.flops = torch.device(device), flops
        self._costs: dict[Seeds, float] = {}

    def start(
        self, seed: int, seeds: Seeds = (), *, epochs: int | None = None, wide: RunConfig | None = None
    ) -> ScratchTrial:
        """A network at its first epoch.

        Args:
            seeds: parts of the network from its start.
            epochs: length of its training and of its schedule; default: that of an episode.
            wide: configuration with another host.
        """
        config = wide or self.config
        if epochs is not None:
            config = config.model_copy(update={"episode_length": epochs})
        runtime = EpisodeRuntime(config, self.data, self.device, ConfiguredHost.of(config), seed, self.flops)
        if seeds:
            runtime.plant(seeds)
        return ScratchTrial(runtime)

    def train(
        self, trial: ScratchTrial, should_stop: ShouldStop, *, until: int | None = None, operations: float = math.inf
    ) -> EpisodeRuntime:
        """Train a network.

        Args:
            until: number of epochs, in all; default: to its end.
            operations: count of the meter at which training ends.

        Raises:
            Interrupted: if a stop is requested between two epochs.
        """
        runtime = trial.runtime
        for _ in runtime.run_without_policy():
            if should_stop():
                raise Interrupted
            if runtime.epoch == until or self.flops.total >= operations:
                break
        return runtime

    def epochs_within(self, seed: int, seeds: Seeds, operations: float) -> int:
        """Whole epochs of a topology that cost about so many operations; at least one."""
        return max(1, round(operations / self._cost_of_epoch(seed, seeds)))

    def random_search(
        self, seed: int, operations: float, objective: Callable[[EpisodeRuntime], float], stop: ShouldStop
    ) -> EpisodeRuntime:
        """The best of random topologies, as many as ``operations`` pay for.

        Each is trained as long as an episode. The search ends before the first that would exceed the budget; if that is
        the very first one, it is trained for fewer epochs.

        Raises:
            Interrupted: if a stop is requested between two epochs.
        """
        new, length = topologies(self.limits, seed), self.config.episode_length

        def trained(seeds: Seeds, epochs: int) -> EpisodeRuntime:
            return self.train(self.start(seed, seeds, epochs=epochs), stop)

        first = next(new)
        left = operations - self._cost_of_epoch(seed, first) * length
        best = trained(first, length if left >= 0 else self.epochs_within(seed, first, operations))
        for seeds in islice(new, MOST_NETWORKS):
            left -= self._cost_of_epoch(seed, seeds) * length
            if left < 0:
                break
            best = max(best, trained(seeds, length), key=objective)
        return best

    def _cost_of_epoch(self, seed: int, seeds: Seeds) -> float:
        """Operations of one epoch of a topology."""
        if seeds not in self._costs:
            before = self.flops.total
            self.start(seed, seeds).runtime.train()
            self._costs[seeds], self.flops.total = self.flops.total - before, before
        return self._costs[seeds]

    def successive_halving(
        self, seed: int, operations: float, objective: Callable[[EpisodeRuntime], float], stop: ShouldStop
    ) -> EpisodeRuntime:
        """The best network of asynchronous successive halving, one network at a time.

        Networks have the schedule of a whole training. One is trained on as soon as it is among the best third of those
        that have come as far; else a new one starts. The budget may end in the middle of a training.

        Raises:
            Interrupted: if a stop is requested between two epochs.

        Source: Li et al., A system for massively parallel hyperparameter tuning (2020), algorithm 2.
        """
        length = self.config.episode_length
        rungs = [max(1, round(length / REDUCTION**k)) for k in range(RUNGS - 1, -1, -1)]
        trials: list[ScratchTrial] = []
        new = topologies(self.limits, seed)
        end = self.flops.total + operations
        while self.flops.total < end:
            trial = promoted(trials, rungs)
            if trial is None:
                trial = self.start(seed, next(new))
                trials.append(trial)
            following = next(rung for rung in rungs if rung not in trial.objectives_pp)
            self.train(trial, stop, until=following, operations=end)
            trial.objectives_pp[trial.runtime.epoch] = objective(trial.runtime)
        return max(trials, key=lambda trial: objective(trial.runtime)).runtime


def promoted(trials: Sequence[ScratchTrial], rungs: Sequence[int]) -> ScratchTrial | None:
    """The network that is trained on; ``None`` if a new one starts.

    It is the best from the highest rung that has one.
    """
    for rung, following in reversed(list(pairwise(rungs))):
        come = sorted(
            (trial for trial in trials if rung in trial.objectives_pp), key=lambda trial: -trial.objectives_pp[rung]
        )
        for trial in come[: len(come) // REDUCTION]:
            if following not in trial.objectives_pp:
                return trial
    return None


def topologies(limits: Limits, seed: int) -> Iterator[Seeds]:
    """Random topologies that limits allow, without end.

    None comes twice while new ones are found easily. Every slot holds each blueprint, or nothing, with the same
    probability.

    Args:
        seed: seed of the random order.
    """
    style = min(limits.styles)
    names = [limits.blueprint_name(b) for b in sorted(limits.blueprints) if b is not Blueprint.NOOP]
    rng = np.random.default_rng(derived_seed(seed, TOPOLOGY_ORDER))
    seen: set[Seeds] = set()
    while True:
        for _ in range(DRAWS):
            drawn = [(slot, int(rng.integers(len(names) + 1))) for slot in limits.slots]
            held = [(slot, index) for slot, index in drawn if index < len(names)]
            kept = sorted(rng.permutation(len(held))[: limits.max_seeds or None])
            seeds = tuple(PlantedSeed(held[index][0], names[held[index][1]], style) for index in kept)
            if seeds not in seen:
                break
        seen.add(seeds)
        yield seeds

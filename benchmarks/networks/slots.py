"""Cost of slots: empty ones over the bare host, blended seeds over a hand-written network.

The host is that of ``cifar_baseline``; a pass is forward and backward on one batch, one thread.
"""

from collections.abc import Mapping
from copy import deepcopy
from statistics import median
from time import perf_counter
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.report import Bar, Measurements, paired_seconds
from esper_ray.kasmina import GateRules, GrowingOptimizer, MorphogeneticModel, Rules, seeded_initialisation
from esper_ray.kasmina.hosts import CNN_VARIANTS, HostSpec, build_host
from esper_ray.kasmina.hosts.cnn import CNNHost
from esper_ray.leyline.records import SeedMeasurements

BATCH = 128
SLOTS = ("r0c0", "r0c1", "r0c2")
PAIRS = 60
TRANSACTIONS = 50
WORTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=1.0)


class ByHand(nn.Module):
    """Host with a seed after each block, in ordinary PyTorch."""

    def __init__(self, host: CNNHost, seeds: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.host = host
        self.seeds = nn.ModuleDict({str(index): seed for index, seed in seeds.items()})

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.host.blocks):
            x = block(x)
            x = x + self.seeds[str(index)](x)
            if index < len(self.host.pools):
                x = self.host.pools[index](x)
        return cast(Tensor, self.host.head(x.mean(dim=(2, 3))))


class Pass:
    """Forward and backward of a network on one batch."""

    def __init__(self, network: nn.Module) -> None:
        generator = torch.Generator().manual_seed(0)
        self.network = network.train()
        self.images = torch.randn(BATCH, 3, 32, 32, generator=generator)
        self.labels = torch.randint(0, 10, (BATCH,), generator=generator)

    def __call__(self) -> None:
        for parameter in self.network.parameters():
            parameter.grad = None
        cross_entropy(self.network(self.images), self.labels).backward()


def _host() -> HostSpec:
    with seeded_initialisation(0):
        return build_host(CNN_VARIANTS["cifar_baseline"], (3, 32, 32), 10)


def _model() -> MorphogeneticModel:
    spec = _host()
    rules = Rules(GateRules(min_training_epochs=0))
    slots = {slot: spec.slot_modules[slot] for slot in SLOTS}
    return MorphogeneticModel.wrap(spec.module, slots, torch.zeros(2, 3, 32, 32), rules=rules)


def _blended() -> MorphogeneticModel:
    """Three seeds at full amplitude, their output scales away from zero."""
    model = _model()
    for slot in SLOTS:
        model.germinate(slot, "conv_light", style="linear_add", tempo=1)
        model.advance(slot, WORTHY)
        model.advance(slot, WORTHY)
        with torch.no_grad():
            cast(Tensor, cast(nn.Module, model.cell(slot).seed).scale).fill_(0.1)
    model.tick()
    return model


def transaction_ms() -> float:
    """Median milliseconds of one germination and one removal, the optimizer's share included."""
    times = []
    for _ in range(TRANSACTIONS):
        model = _model()
        GrowingOptimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9)
        began = perf_counter()
        model.germinate("r0c1", "conv_light")
        model.prune("r0c1")
        times.append(1e3 * (perf_counter() - began))
    return median(times)


def measure() -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    blended = _blended()
    seeds = {index: deepcopy(cast(nn.Module, blended.cell(slot).seed)) for index, slot in enumerate(SLOTS)}
    by_hand = ByHand(cast(CNNHost, _host().module), seeds)
    empty_s, bare_s, empty = paired_seconds(Pass(_model()), Pass(_host().module), PAIRS)
    blended_s, hand_s, grown = paired_seconds(Pass(blended), Pass(by_hand), PAIRS)
    figures = {
        "bare_host_ms": 1e3 * bare_s,
        "empty_slots_ms": 1e3 * empty_s,
        "empty_slots_over_bare_host": empty,
        "by_hand_ms": 1e3 * hand_s,
        "blended_seeds_ms": 1e3 * blended_s,
        "blended_seeds_over_by_hand": grown,
        "germinate_and_prune_ms": transaction_ms(),
    }
    bars = {"empty_slots_over_bare_host": Bar(1.03), "blended_seeds_over_by_hand": Bar(1.10)}
    return Measurements("slots", figures, bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

"""What growth in width costs: births, folds, folded networks, and growth at a ceiling.

A network that was widened and folded is compared with one that is built wide: seconds of a training step, and bytes of
weights, buffers, optimizer state and of what a forward pass keeps for its backward pass. Births and folds are compared
with a training step of the host. At its ceiling, an MLP with 2 x 256 units on digits, the host has hardly anything to
gain: the default policy without a target is compared in floating-point operations of training with the host alone.
"""

from collections.abc import Callable
from copy import deepcopy
from statistics import mean
from time import perf_counter

import torch
from torch import Tensor, nn

from benchmarks.networks.width import grown, step_flops
from benchmarks.networks.width_cases import (
    CONTRIBUTES,
    WIDTH_BATCH,
    WIDTH_PAIRS,
    Case,
    accuracy,
    digits,
    fresh,
    from_scratch,
    interval,
    trained,
)
from benchmarks.report import Bar, Measurements, paired_seconds
from esper_ray.kasmina import GateRules, GrowingOptimizer, MorphogeneticModel, Rules
from esper_ray.kasmina.modules import seeded_initialisation

CHANNELS = 8


def ceiling_mlp() -> nn.Module:
    """An MLP with 2 x 256 units, which learns the digits without help."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


CEILING = Case(ceiling_mlp, digits, 30, 0, 3e-3)


def image_host() -> nn.Module:
    """Two convolutions of 32 and 64 channels."""
    first = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    second = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*first, *second)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    """One training step."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def bytes_of(network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> int:
    """Bytes of weights, buffers and optimizer state, and of what a forward pass keeps."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(network(batch[0]), batch[1])
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    held = [*network.parameters(), *network.buffers(), *states]
    for tensor in held:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    assert loss.requires_grad
    return sum(tensor.numel() * tensor.element_size() for tensor in held) + sum(kept.values())


def timed(action: Callable[[], object]) -> float:
    """Seconds of ``action``."""
    began = perf_counter()
    action()
    return perf_counter() - began


def folded() -> dict[str, float]:
    """Costs of a folded network over one built wide, and of birth and fold."""
    with seeded_initialisation(0):
        host = image_host()
    batch = torch.randn(WIDTH_BATCH, 3, 32, 32), torch.randint(10, (WIDTH_BATCH,))
    alone = deepcopy(host)
    model = MorphogeneticModel.wrap(host, {"r0c0": "0 -> 3"}, batch[0][:2], rules=Rules(GateRules()))
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.01, momentum=0.9)
    its = torch.optim.SGD(alone.parameters(), lr=0.01, momentum=0.9)
    host_step = min(timed(lambda: step(alone, its, batch)) for _ in range(15))
    births, folds = [], []
    for _ in range(3):
        births.append(timed(lambda: model.germinate("r0c0", "widen", channels=CHANNELS, tempo=0)))
        model.fossilize("r0c0", CONTRIBUTES)
        step(model, optimizer, batch)
        folds.append(timed(lambda: model.fold("r0c0")))
    wide = from_scratch(model.plain(), 0)
    its = torch.optim.SGD(wide.parameters(), lr=0.01, momentum=0.9)
    _, _, seconds = paired_seconds(lambda: step(model, optimizer, batch), lambda: step(wide, its, batch), 15)
    return {
        "folded_step_over_wide": seconds,
        "folded_memory_over_wide": bytes_of(model, optimizer, batch) / bytes_of(wide, its, batch),
        "birth_over_step": min(births) / host_step,
        "fold_over_step": min(folds) / host_step,
    }


def ceiling(seeds: int) -> dict[str, float]:
    """Operations and accuracy of growth at a ceiling, over the host alone."""
    operations, gains = [], []
    for seed in range(seeds):
        session, flops = grown(CEILING, seed, parameters=None)
        host = fresh(CEILING, seed)
        operations.append(flops / step_flops(host, CEILING) / CEILING.epochs)
        alone = trained(host, CEILING, seed, CEILING.epochs)
        gains.append(accuracy(session.plain(), CEILING.examples().test) - alone)
    center, half = interval(gains)
    return {
        "ceiling_operations_over_host": mean(operations),
        "ceiling_operations_over_host_most": max(operations),
        "ceiling_over_alone_pp": center,
        "ceiling_over_alone_lower_pp": center - half,
    }


def measure(seeds: int = WIDTH_PAIRS) -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    bars = {
        "folded_step_over_wide": Bar(1.02),
        "folded_memory_over_wide": Bar(1.02),
        "birth_over_step": Bar(5.0),
        "fold_over_step": Bar(10.0),
        "ceiling_operations_over_host": Bar(1.1),
    }
    return Measurements("widening_cost", folded() | ceiling(seeds), bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

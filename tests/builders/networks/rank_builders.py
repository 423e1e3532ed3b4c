"""Two processes of one group on the CPU, which train a small growing network on their halves of each batch."""

import hashlib
import multiprocessing
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from esper_ray.kasmina.lifecycle.gates import GateRules
from esper_ray.kasmina.lifecycle.reducer import Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.leyline.records import SeedMeasurements

WORLD = 2
SECONDS = 120
"""Longest time that a process waits for the other."""
WORTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=2.0)
READY = Rules(GateRules(min_training_epochs=0), embargo_ticks=1)
Scenario = Callable[[int], Any]


class Layers(nn.Module):
    """Three layers, two of which get slots."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


class Outer(nn.Module):
    """A module of a user's that holds a growing network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.scale = network, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * self.scale


def make_model(seed: int = 0) -> MorphogeneticModel:
    with seeded_initialisation(seed):
        host = Layers()
    return MorphogeneticModel.wrap(host, {"r0c0": "first", "r0c1": "second"}, torch.zeros(2, 6), rules=READY)


def make_span_model(seed: int = 0) -> MorphogeneticModel:
    """The same host with a slot on each of its spans."""
    with seeded_initialisation(seed):
        host = Layers()
    places = {"r0c0": "first -> second", "r0c1": "second -> head"}
    return MorphogeneticModel.wrap(host, places, torch.zeros(2, 6), rules=READY)


def make_optimizer(model: MorphogeneticModel) -> GrowingOptimizer:
    return GrowingOptimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9)


def batch(step: int, rank: int | None) -> tuple[Tensor, Tensor]:
    """Eight examples; the half of ``rank``, all of them for ``None``."""
    generator = torch.Generator().manual_seed(100 + step)
    x, y = torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)
    rows = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
    return x[rows], y[rows]


def train_step(
    model: MorphogeneticModel,
    optimizer: GrowingOptimizer,
    step: int,
    rank: int | None,
    forward: nn.Module | None = None,
    parts: int = 1,
    clip: bool = True,
) -> None:
    """A user's step: forward, backward, incubation, clipping, update.

    Args:
        forward: module that is called; default: the model.
        parts: number of parts of the batch whose gradients are accumulated.
    """
    call = forward or model
    model.train()
    x, y = batch(step, rank)
    optimizer.zero_grad()
    for index, (inputs, labels) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True)):
        last = index == parts - 1
        waiting = nullcontext() if last or not isinstance(call, DistributedDataParallel) else call.no_sync()
        with waiting:
            (cross_entropy(call(inputs), labels) / parts).backward()
    model.incubate(lambda: cross_entropy(call(x), y))
    if clip:
        nn.utils.clip_grad_norm_(optimizer.parameters(), 0.5)
    optimizer.step()


def live(model: MorphogeneticModel, train: Callable[[int], None]) -> Iterator[None]:
    """A whole life in each slot, with two steps in each stage; the second seed is pruned while it is blended."""
    step = 0
    for command in (
        lambda: None,
        lambda: model.germinate("r0c0", "mlp_small", style="linear_add", tempo=2),
        lambda: model.advance("r0c0"),
        lambda: model.germinate("r0c1", "lora", style="gated_gate", tempo=1),
        lambda: (model.advance("r0c0", WORTHY), model.advance("r0c1")),
        lambda: model.advance("r0c1", WORTHY),
        lambda: model.advance("r0c0", WORTHY),
        lambda: (model.fossilize("r0c0", WORTHY), model.prune("r0c1")),
        *[lambda: None] * 2,
        lambda: model.germinate("r0c1", "norm"),
    ):
        command()
        for _ in range(2):
            train(step)
            step += 1
        model.epoch_elapsed()
        yield


def widen(model: MorphogeneticModel, train: Callable[[int], None], fold: Callable[[], None]) -> None:
    """A seed on the first span is committed and folded; the span is widened again, beside a live one on the second."""
    commands = (
        lambda: model.germinate("r0c0", "widen", channels=4, style="linear_add", tempo=1),
        lambda: model.advance("r0c0"),
        lambda: model.advance("r0c0", WORTHY),
        lambda: model.advance("r0c0", WORTHY),
        lambda: (model.fossilize("r0c0", WORTHY), fold()),
        lambda: (model.germinate("r0c0", "widen", channels=2), model.germinate("r0c1", "widen", tempo=0)),
        lambda: model.advance("r0c0"),
    )
    for number, command in enumerate(commands):
        command()
        for index in range(2):
            train(2 * number + index)
        model.epoch_elapsed()


def digest(module: nn.Module) -> str:
    """SHA-256 of all parameters."""
    data = b"".join(parameter.detach().numpy().tobytes() for parameter in module.parameters())
    return hashlib.sha256(data).hexdigest()


def values(module: nn.Module) -> list[list[float]]:
    return [parameter.detach().flatten().tolist() for parameter in module.parameters()]


@contextmanager
def process_group(rank: int, world: int, path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=world, timeout=timedelta(seconds=SECONDS)
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _work(rank: int, folder: Path, scenarios: dict[str, Scenario], results: Any) -> None:
    torch.set_num_threads(1)
    for name, scenario in scenarios.items():
        try:
            with process_group(rank, WORLD, folder / name):
                results.put((name, rank, scenario(rank)))
        except Exception as error:
            results.put((name, rank, f"{type(error).__name__}: {error}"))


def in_two_processes(folder: Path, scenarios: dict[str, Scenario]) -> dict[str, list[Any]]:
    """Results of each scenario by rank; of one that raised, the exception as text."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "rank_scenarios"])  # imported once for both
    results = context.Queue()
    workers = [context.Process(target=_work, args=(rank, folder, scenarios, results)) for rank in range(WORLD)]
    for worker in workers:
        worker.start()
    answers: dict[str, dict[int, Any]] = {name: {} for name in scenarios}
    try:
        for _ in range(WORLD * len(scenarios)):
            name, rank, answer = results.get(timeout=SECONDS + 30)
            answers[name][rank] = answer
    except queue.Empty:
        raise TimeoutError(f"two processes gave no answer within {SECONDS} s, only {answers}") from None
    finally:
        for worker in workers:
            worker.join(5)
            worker.kill()
    return {name: [by_rank[rank] for rank in range(WORLD)] for name, by_rank in answers.items()}

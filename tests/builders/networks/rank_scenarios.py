"""Training in one process of two; each function runs in both of them and returns what the test compares."""

from typing import Any

import torch
from rank_builders import (
    READY,
    WORTHY,
    Layers,
    Outer,
    digest,
    live,
    make_model,
    make_optimizer,
    make_span_model,
    train_step,
    values,
    widen,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from trainer_builders import examples, session

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.ranks.wrapping import leave_out_seeds


def _life(rank: int, wrapped: bool, parts: int = 1) -> dict[str, Any]:
    model = make_model(seed=0 if wrapped else rank)  # without DistributedDataParallel the exchange starts from rank 0
    optimizer = make_optimizer(model)
    forward = DistributedDataParallel(model) if wrapped else None
    digests = [
        digest(model)
        for _ in live(model, lambda step: train_step(model, optimizer, step, rank, forward=forward, parts=parts))
    ]
    stages = [str(event.event) for event in model.events]
    return {"digests": digests, "values": values(model), "stages": stages}


def life_under_ddp(rank: int) -> dict[str, Any]:
    return _life(rank, wrapped=True)


def life_by_hand(rank: int) -> dict[str, Any]:
    return _life(rank, wrapped=False)


def life_with_accumulated_gradients(rank: int) -> dict[str, Any]:
    return _life(rank, wrapped=True, parts=2)


def _widening(rank: int, wrapped: bool) -> dict[str, Any]:
    model = make_span_model(seed=0 if wrapped else rank)
    optimizer = make_optimizer(model)
    forward = {"module": DistributedDataParallel(model) if wrapped else None}
    refusals = []

    def fold() -> None:
        if wrapped:
            try:
                model.fold("r0c0")
            except ValueError as error:
                refusals.append(str(error))
            forward.pop("module")
        assert model.fold("r0c0")
        forward["module"] = DistributedDataParallel(model) if wrapped else None

    widen(model, lambda step: train_step(model, optimizer, step, rank, forward=forward["module"]), fold)
    return {"digest": digest(model), "values": values(model), "refusals": refusals}


def widened_under_ddp(rank: int) -> dict[str, Any]:
    return _widening(rank, wrapped=True)


def widened_by_hand(rank: int) -> dict[str, Any]:
    return _widening(rank, wrapped=False)


def blended_and_incubating() -> MorphogeneticModel:
    """A model with a blended seed and an incubating one."""
    model = make_model()
    model.germinate("r0c0", "mlp_small", style="linear_add", tempo=1)
    for _ in range(2):
        model.advance("r0c0", WORTHY)
    model.germinate("r0c1", "lora")
    model.advance("r0c1")
    model.tick()
    return model


def wrapped_after_births(rank: int) -> dict[str, Any]:
    """Seeds that exist when the model is wrapped, one of which is pruned later."""
    model = blended_and_incubating()
    optimizer, forward = make_optimizer(model), DistributedDataParallel(model)
    for step in range(4):
        if step == 2:
            model.prune("r0c1")
        train_step(model, optimizer, step, rank, forward=forward)
    return {"digest": digest(model), "values": values(model)}


def wrapped_within_another_module(rank: int) -> dict[str, Any]:
    model = blended_and_incubating()
    outer, optimizer = Outer(model), make_optimizer(model)
    leave_out_seeds(outer)
    forward = DistributedDataParallel(outer)
    for step in range(3):
        train_step(model, optimizer, step, rank, forward=forward)
    return {"digest": digest(model), "values": values(model)}


def wrapped_within_another_module_unprepared(rank: int) -> str:
    model = blended_and_incubating()
    make_optimizer(model)
    forward = DistributedDataParallel(Outer(model))
    forward(torch.zeros(2, 6))
    return "no error"


def different_newborn_weights(rank: int) -> str:
    """Newborn weights that depend on the process, as those from a gradient of its data do."""
    model = make_model()
    optimizer, forward = make_optimizer(model), DistributedDataParallel(model)
    train_step(model, optimizer, 0, rank, forward=forward)
    model.germinate("r0c0", "mlp_small")
    model.advance("r0c0")
    with torch.no_grad():
        for parameter in model.cell("r0c0").learnable():
            parameter.add_(0.01 * rank)
    train_step(model, optimizer, 1, rank, forward=forward)
    return digest(model)


def unfrozen_after_wrapping(rank: int) -> str:
    """A parameter of the host that DistributedDataParallel does not know."""
    model = make_model()
    model.host.second.requires_grad_(False)
    optimizer, forward = make_optimizer(model), DistributedDataParallel(model)
    for step in range(3):
        if step == 1:
            model.host.second.requires_grad_(True)
        train_step(model, optimizer, step, rank, forward=forward)
    return digest(model)


def _born_in_one(rank: int, wrapped: bool) -> str:
    model = make_model()
    optimizer = make_optimizer(model)
    forward = DistributedDataParallel(model) if wrapped else None
    for step in range(4):
        if step == 2 and rank == 0:
            model.germinate("r0c0", "lora")
            model.advance("r0c0")
        train_step(model, optimizer, step, rank, forward=forward)
    return "no error"


def born_in_one_process_under_ddp(rank: int) -> str:
    return _born_in_one(rank, wrapped=True)


def born_in_one_process_by_hand(rank: int) -> str:
    return _born_in_one(rank, wrapped=False)


def _session(rank: int, own_held_out: bool) -> dict[str, Any]:
    growing = session(slice(32 * rank, 32 * rank + 32) if own_held_out else slice(None))
    growing.forward = DistributedDataParallel(growing.model)
    x, y = examples()
    for _ in growing:
        for rows in torch.arange(len(x)).split(32):
            growing.train_step((x[rows[rank::2]], y[rows[rank::2]]))
    return {
        "digest": digest(growing.model),
        "operations": [step.operation for step in growing.history],
        "accuracy": growing.measured.accuracy_pp,
        "examples": growing.measured.examples,
    }


def session_with_one_held_out_set(rank: int) -> dict[str, Any]:
    return _session(rank, own_held_out=False)


def session_with_own_held_out_examples(rank: int) -> dict[str, Any]:
    return _session(rank, own_held_out=True)


def sharded_after_the_optimizer(rank: int) -> str:
    model = MorphogeneticModel.wrap(Layers(), {"r0c0": "first"}, torch.zeros(2, 6), rules=READY)
    GrowingOptimizer(model, torch.optim.SGD, lr=0.1)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    model(torch.zeros(2, 6))
    return "no error"


def sharded(rank: int) -> str:
    model = MorphogeneticModel.wrap(Layers(), {"r0c0": "first"}, torch.zeros(2, 6), rules=READY)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    GrowingOptimizer(model, torch.optim.SGD, lr=0.1)
    return "no error"


SCENARIOS = {
    function.__name__: function
    for function in (
        life_under_ddp,
        life_by_hand,
        life_with_accumulated_gradients,
        widened_under_ddp,
        widened_by_hand,
        wrapped_after_births,
        wrapped_within_another_module,
        wrapped_within_another_module_unprepared,
        different_newborn_weights,
        unfrozen_after_wrapping,
        born_in_one_process_under_ddp,
        born_in_one_process_by_hand,
        session_with_one_held_out_set,
        session_with_own_held_out_examples,
        sharded,
        sharded_after_the_optimizer,
    )
}

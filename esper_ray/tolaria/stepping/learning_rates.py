"""Learning rates of a host and its seeds in each step of an epoch."""

from collections.abc import Iterable

import torch
from torch import Tensor

from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.kasmina.network.records import HOST_GROUP
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.stepping.schedules import products, schedule_factors, warmup_factors
from esper_ray.tolaria.training import Rates

LEAST_SHARE = 0.1
"""Smallest factor of a rate that follows the size of weights."""


def learning_rates(config: RunConfig, organism: Organism, epoch: int) -> Rates:
    """Learning rate of each optimizer group in each step of ``epoch``. Epochs are counted from 0.

    Live seeds follow ``training.newborn_schedule``; committed ones are part of the host's group. ``rescaled`` follows
    Yuan et al. (2023, "Accelerated Training via Incrementally Growing Neural Networks using Variance Transfer and
    Learning Rate Adaptation"), with root mean squares in the place of norms.
    """
    training, steps = config.training, config.training.steps_per_epoch
    cosine = training.schedule == "cosine"
    shared = schedule_factors(
        epoch, steps, epochs=config.episode_length, warmup_epochs=training.warmup_epochs, cosine=cosine
    )
    rates: dict[str, list[float]] = {}
    for name in organism.optimizer.group_names:
        state = organism.model.states.get(name)
        if name == HOST_GROUP or state is None:
            rates[name] = products(shared, [1.0] * steps, training.lr)
        elif training.newborn_schedule == "restart":
            length, warmup = config.episode_length - epoch + state.age, training.seed_warmup_epochs
            own = schedule_factors(state.age, steps, epochs=length, warmup_epochs=warmup, cosine=cosine)
            rates[name] = products(own, [1.0] * steps, training.seed_lr)
        else:
            scale = training.seed_lr * (size_share(organism, name) if training.newborn_schedule == "rescaled" else 1.0)
            rates[name] = products(shared, _rise(state, steps, training.seed_warmup_epochs), scale)
    return rates


def size_share(organism: Organism, slot: str) -> float:
    """Root mean square of a seed's weights over that of the host's, in [0.1, 1]."""
    host = _root_mean_square(organism.optimizer.group(HOST_GROUP))
    seed = _root_mean_square(organism.optimizer.group(slot))
    return min(1.0, max(LEAST_SHARE, seed / host)) if host > 0 else 1.0


@torch.no_grad()
def _root_mean_square(parameters: Iterable[Tensor]) -> float:
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    count = sum(weight.numel() for weight in weights)
    squares = sum((float(weight.double().square().sum()) for weight in weights), 0.0)
    return float((squares / count) ** 0.5) if count else 0.0


def _rise(state: SeedState, steps: int, warmup_epochs: int) -> list[float]:
    """Warm-up factors of a seed that does not blend in yet."""
    if state.stage not in (Stage.GERMINATED, Stage.TRAINING):
        return [1.0] * steps
    age = state.ticks_in_stage if state.stage is Stage.TRAINING else 0
    return warmup_factors(age, steps, warmup_epochs)

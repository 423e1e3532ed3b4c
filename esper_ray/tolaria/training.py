"""One epoch of training a host and its seeds, with one device synchronisation at its end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from esper_ray.kasmina.growth import HOST_GROUP
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.organism import Organism
from esper_ray.tolaria.data import Dataset

VANISHING_NORM = 1e-7
EXPLODING_NORM = 10.0
TINY = 1e-8


@dataclass(frozen=True, slots=True)
class GradientStatistics:
    """Gradients of one seed over an epoch, before clipping."""

    norm: float
    """Mean L2 norm."""
    ratio: float
    """Root mean square gradient of the seed over that of the host."""
    health: float
    """1 - 0.5 * share of vanishing tensors - 0.8 * share of exploding ones, at least 0."""
    vanishing: bool
    exploding: bool
    finite: bool


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What an epoch of training showed."""

    loss: float
    """Mean training loss in nats; not finite if training broke down."""
    accuracy_pp: float
    gradients: Mapping[str, GradientStatistics] = field(default_factory=dict)
    """By slot, for seeds that had gradients."""


@dataclass(frozen=True, slots=True)
class EpochSettings:
    """What :func:`train_epoch` needs besides model and data."""

    host_grad_clip: float
    seed_grad_clip: float
    incubation_share: float
    """Share of each batch that seeds behind the host learn on in a pass of their own."""


def train_epoch(organism: Organism, data: Dataset, batches: Tensor, settings: EpochSettings) -> EpochResult:
    """Train on ``batches``, the host and each seed clipped by themselves.

    Args:
        batches: (steps, batch) int64 rows of the training split.
    """
    model, optimizer = organism.model, organism.optimizer
    model.train()
    rows = batches.to(data.train.labels.device)
    images, labels = data.normalised(data.train.images[rows.reshape(-1)]), data.train.labels[rows]
    images = images.reshape(*rows.shape, *images.shape[1:])
    host = optimizer.group(HOST_GROUP)
    seeds = {slot: optimizer.group(slot) for slot in optimizer.group_names if slot != HOST_GROUP}
    incubated = math.ceil(settings.incubation_share * rows.shape[1])
    totals = torch.zeros(3, device=rows.device)
    norms = {slot: torch.zeros(len(group) + 1, device=rows.device) for slot, group in seeds.items()}
    for x, y in zip(images, labels, strict=True):
        logits = model(x)
        loss = cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        model.incubate(partial(_mean_loss, model, x[:incubated], y[:incubated]))
        host_norm = clip_grad_norm_(host, settings.host_grad_clip, foreach=True)
        for slot, group in seeds.items():
            norms[slot] += _clip_seed(group, settings.seed_grad_clip)
        optimizer.step()
        with torch.no_grad():
            correct = (logits.argmax(dim=1) == y).sum()
            totals += torch.stack([loss.detach(), correct.float(), host_norm])
    return _collect(totals, norms, seeds, sum(p.numel() for p in host), rows)


def training_loss(model: MorphogeneticModel, data: Dataset, rows: Tensor) -> Tensor:
    """Mean cross-entropy in nats on ``rows`` of the training split, with gradient."""
    rows = rows.to(data.train.labels.device)
    return _mean_loss(model, data.normalised(data.train.images[rows]), data.train.labels[rows])


def _mean_loss(model: MorphogeneticModel, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(model(images), labels)


def _clip_seed(group: Sequence[Tensor], limit: float) -> Tensor:
    """Clip the gradients of one seed to the L2 norm ``limit``; the norm of each tensor before, and of all."""
    if any(parameter.grad is None for parameter in group):
        return torch.full((len(group) + 1,), torch.nan, device=group[0].device)
    gradients = [parameter.grad for parameter in group if parameter.grad is not None]
    norms = torch.stack([gradient.norm() for gradient in gradients])
    total = norms.norm()
    torch._foreach_mul_(gradients, (limit / (total + 1e-6)).clamp(max=1.0))
    return torch.cat([norms, total[None]])


def _collect(
    totals: Tensor, norms: Mapping[str, Tensor], seeds: Mapping[str, Sequence[Tensor]], host_size: int, rows: Tensor
) -> EpochResult:
    steps, batch = rows.shape
    loss, correct, host_norm, *rest = torch.cat([totals, *norms.values()]).tolist()
    host_rms = host_norm / steps / math.sqrt(host_size)
    gradients, at = {}, 0
    for slot, group in seeds.items():
        *tensors, total = [norm / steps for norm in rest[at : at + len(group) + 1]]
        at += len(group) + 1
        if any(parameter.grad is not None for parameter in group):
            gradients[slot] = _statistics(tensors, total, sum(p.numel() for p in group), host_rms)
    return EpochResult(loss / steps, 100.0 * correct / (steps * batch), gradients)


def _statistics(norms: list[float], total: float, size: int, host_rms: float) -> GradientStatistics:
    finite = all(math.isfinite(norm) for norm in norms)
    vanishing = sum(norm < VANISHING_NORM for norm in norms)
    exploding = sum(not norm <= EXPLODING_NORM for norm in norms)
    health = 1.0 - 0.5 * vanishing / len(norms) - 0.8 * exploding / len(norms)
    return GradientStatistics(
        norm=total if finite else math.inf,
        ratio=total / math.sqrt(size) / (host_rms + TINY) if finite else math.inf,
        health=max(0.0, health) if finite else 0.0,
        vanishing=vanishing > 0,
        exploding=exploding > 0,
        finite=finite,
    )

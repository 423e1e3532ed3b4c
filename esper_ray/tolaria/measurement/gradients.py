"""Gradient statistics of host and seeds over an epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper_ray.kasmina.network.growth import HOST_GROUP
from esper_ray.kasmina.organism import Organism

VANISHING_NORM = 1e-7
EXPLODING_NORM = 10.0
TINY = 1e-8


@dataclass(frozen=True, slots=True)
class GradientStatistics:
    """Gradient statistics of one seed over an epoch, before clipping."""

    norm: float
    """Mean L2 norm."""
    ratio: float
    """Root mean square gradient of the seed over that of the host."""
    health: float
    """1 - 0.5 * share of vanishing tensors - 0.8 * share of exploding ones, at least 0."""
    vanishing: bool
    exploding: bool
    finite: bool


def clipped_norms(group: Sequence[Tensor], limit: float | None) -> Tensor:
    """Clip the gradients of one seed to the L2 norm ``limit``.

    Returns the norm of each tensor before, and of all; NaN where a tensor has no gradient.
    """
    if any(parameter.grad is None for parameter in group):
        return torch.full((len(group) + 1,), torch.nan, device=group[0].device)
    gradients = [parameter.grad for parameter in group if parameter.grad is not None]
    norms = torch.stack([gradient.norm() for gradient in gradients])
    total = norms.norm()
    if limit is not None:
        torch._foreach_mul_(gradients, (limit / (total + 1e-6)).clamp(max=1.0))
    return torch.cat([norms, total[None]])


def host_gradient_rms(norm: float, host: Sequence[Tensor]) -> float:
    """Root mean square gradient of the host from its mean norm."""
    return norm / math.sqrt(sum(parameter.numel() for parameter in host))


def gradient_statistics(norms: Sequence[float], total: float, size: int, host_rms: float) -> GradientStatistics:
    """Gradient statistics from the mean norms of a seed's tensors over an epoch.

    Args:
        total: mean norm of all tensors together.
        size: number of elements.
    """
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


class GradientWatch:
    """Observer of gradients in an external training loop, before every optimiser step."""

    def __init__(self, organism: Organism) -> None:
        self._optimizer = organism.optimizer
        self._sums: dict[str, Tensor] = {}
        self.steps = 0
        """Steps since the last :meth:`collect`."""
        organism.optimizer.before_step(self._observe)

    def collect(self) -> dict[str, GradientStatistics]:
        """Statistics of each seed with gradients since the last call; resets the sums."""
        sums, steps = {name: (total / self.steps).tolist() for name, total in self._sums.items()}, self.steps
        self._sums, self.steps = {}, 0
        if not steps:
            return {}
        host_rms = host_gradient_rms(sums.pop(HOST_GROUP, [0.0])[0], self._optimizer.group(HOST_GROUP))
        return {
            slot: gradient_statistics(tensors, total, sum(p.numel() for p in self._optimizer.group(slot)), host_rms)
            for slot, (*tensors, total) in sums.items()
        }

    def _observe(self) -> None:
        self.steps += 1
        for name in self._optimizer.group_names:
            group = self._optimizer.group(name)
            with_gradient = [parameter for parameter in group if parameter.grad is not None]
            if not with_gradient or (len(with_gradient) < len(group) and name != HOST_GROUP):
                continue
            norms = clipped_norms(with_gradient, None)
            norms = norms[-1:] if name == HOST_GROUP else norms  # parts of a host may rest in some steps
            self._sums[name] = self._sums[name] + norms if name in self._sums else norms

"""Gradient statistics of host and seeds over the steps of an epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from esper_ray.kasmina.network.records import HOST_GROUP

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
    """Clip the gradients of one seed together to the L2 norm ``limit``.

    Tensors without a gradient take no part: a gate network rests while its seed is trained straight through, and
    a blueprint may have a parameter that its body does not use.

    Returns:
        (2, n + 1): the norm of each tensor before, and of all together; and 1 where there was a gradient. Both are
        0 where there was none.
    """
    gradients = [parameter.grad for parameter in group if parameter.grad is not None]
    if not gradients:
        return torch.zeros((2, len(group) + 1), device=group[0].device)
    norms = torch.stack([gradient.norm() for gradient in gradients])
    total = norms.norm()
    if limit is not None:
        torch._foreach_mul_(gradients, (limit / (total + 1e-6)).clamp(max=1.0))
    present = torch.ones_like(norms)
    if len(gradients) < len(group):
        norms, present = _spread(norms, group), _spread(present, group)
    return torch.stack([torch.cat([norms, total[None]]), torch.cat([present, torch.ones_like(total)[None]])])


def _spread(values: Tensor, group: Sequence[Tensor]) -> Tensor:
    """``values`` at the places of the tensors with a gradient, 0 elsewhere."""
    remaining, zero = iter(values.unbind()), torch.zeros_like(values[0])
    return torch.stack([zero if parameter.grad is None else next(remaining) for parameter in group])


def host_gradient_rms(norm: float, elements: int) -> float:
    """Root mean square gradient of the host from its mean norm.

    Args:
        elements: number of elements with a gradient; 0 if there was none.
    """
    return norm / math.sqrt(elements) if elements else 0.0


def elements_with_gradient(group: Sequence[Tensor]) -> int:
    """Number of elements in the tensors of ``group`` that have a gradient."""
    return sum(parameter.numel() for parameter in group if parameter.grad is not None)


def epoch_statistics(
    sums: Sequence[float], steps: Sequence[float], sizes: Sequence[int], host_rms: float
) -> GradientStatistics | None:
    """Gradient statistics of a seed from sums over an epoch; ``None`` without a gradient.

    Args:
        sums: (n + 1,) summed norms of each tensor, and of all, from :func:`clipped_norms`.
        steps: (n + 1,) number of steps with a gradient.
        sizes: (n,) elements of each tensor.
    """
    *tensors, total = [value / count if count else None for value, count in zip(sums, steps, strict=True)]
    if total is None:
        return None
    size = sum(size for size, norm in zip(sizes, tensors, strict=True) if norm is not None)
    return gradient_statistics([norm for norm in tensors if norm is not None], total, size, host_rms)


def gradient_statistics(norms: Sequence[float], total: float, size: int, host_rms: float) -> GradientStatistics:
    """Gradient statistics from the mean norms of a seed's tensors over an epoch.

    Args:
        norms: of the tensors that had a gradient.
        total: mean norm of all of them together.
        size: number of their elements.
    """
    finite = math.isfinite(total) and all(math.isfinite(norm) for norm in norms)
    vanishing = sum(norm < VANISHING_NORM for norm in norms)
    exploding = sum(not norm <= EXPLODING_NORM for norm in norms)
    health = 1.0 - 0.5 * vanishing / len(norms) - 0.8 * exploding / len(norms)
    return GradientStatistics(
        norm=total if finite else math.inf,
        ratio=total / math.sqrt(size) / (host_rms + TINY) if finite and math.isfinite(host_rms) else math.inf,
        health=max(0.0, health) if finite else 0.0,
        vanishing=vanishing > 0,
        exploding=exploding > 0 or not finite,
        finite=finite,
    )


class GradientWatch:
    """Sums of gradient norms over optimizer steps, since they were last collected."""

    def __init__(self) -> None:
        self.steps = 0
        """Optimizer steps since the last :meth:`collect`."""
        self.sums: dict[str, Tensor] = {}
        """(2, n + 1) sums as from :func:`clipped_norms` by slot; the last column of the host."""
        self.seeds: dict[str, tuple[str, list[int]]] = {}
        """Identity and tensor sizes of each seed with sums."""
        self.host_elements = 0
        """Number of the host's elements with a gradient, as last seen."""

    def add(self, step: "StepNorms") -> None:
        """Add one optimizer step. The sums of a slot restart when its seed or its tensors change."""
        self.steps += 1
        self.host_elements = step.host_elements or self.host_elements
        for name, norms in step.norms.items():
            seed = step.seeds.get(name)
            if name in self.sums and (seed is None or self.seeds[name] == seed):
                self.sums[name] = self.sums[name] + norms
            else:
                self.sums[name] = norms
            if seed is not None:
                self.seeds[name] = seed

    def collect(self) -> dict[str, GradientStatistics]:
        """Statistics of each seed with gradients since the last call; the sums restart."""
        sums = {name: total.tolist() for name, total in self.sums.items()}
        seeds, self.sums, self.seeds, self.steps = self.seeds, {}, {}, 0
        (*_, norm), (*_, steps) = sums.pop(HOST_GROUP, ([0.0], [0.0]))
        host_rms = host_gradient_rms(norm / steps if steps else 0.0, self.host_elements)
        statistics = {
            slot: epoch_statistics(norms[0], norms[1], seeds[slot][1], host_rms) for slot, norms in sums.items()
        }
        return {slot: seed for slot, seed in statistics.items() if seed is not None}


@dataclass(frozen=True, slots=True)
class StepNorms:
    """Gradient norms of one optimizer step, before clipping."""

    norms: Mapping[str, Tensor]
    """By group: (2, n + 1) as from :func:`clipped_norms` for seeds; (2, 1), all parameters together, for the host."""
    seeds: Mapping[str, tuple[str, list[int]]]
    """Identity and tensor sizes of the seed of each slot."""
    host_elements: int
    """Number of the host's elements with a gradient."""


def step_norms(
    groups: Mapping[str, Sequence[Tensor]],
    seed_ids: Mapping[str, str],
    host_limit: float | None = None,
    seed_limit: float | None = None,
) -> StepNorms:
    """Norms of the gradients of host and live seeds. They are clipped if limits are given.

    Without a live seed and without a limit nothing is computed.

    Args:
        groups: trained parameters of ``host`` and of each live seed, by slot.
        seed_ids: identity of the seed in each slot.
        host_limit: maximum L2 norm of the host's gradient; ``None`` for no limit.
        seed_limit: maximum L2 norm of the gradient of each seed.
    """
    slots = [name for name in groups if name != HOST_GROUP]
    host = [parameter for parameter in groups.get(HOST_GROUP, ()) if parameter.grad is not None]
    norms: dict[str, Tensor] = {}
    if host and (slots or host_limit is not None):
        gradients = [parameter.grad for parameter in host if parameter.grad is not None]
        total = get_total_norm(gradients)
        if host_limit is not None:
            clip_grads_with_norm_(host, host_limit, total)
        norms[HOST_GROUP] = torch.stack([total, torch.ones_like(total)])[:, None]
    norms |= {slot: clipped_norms(groups[slot], seed_limit) for slot in slots}
    seeds = {slot: (seed_ids[slot], [parameter.numel() for parameter in groups[slot]]) for slot in slots}
    return StepNorms(norms, seeds, elements_with_gradient(host) if slots else 0)

"""Trainer of a host and its seeds, with one device synchronisation per epoch."""

import math
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from esper_ray.kasmina.measurement.gradients import (
    GradientStatistics,
    clipped_norms,
    elements_with_gradient,
    epoch_statistics,
    host_gradient_rms,
)
from esper_ray.kasmina.network.records import HOST_GROUP
from esper_ray.kasmina.organism import Organism
from esper_ray.tolaria.data import Dataset, EpochPlan
from esper_ray.tolaria.data.dataset import moved
from esper_ray.tolaria.stepping.step_runners import CapturedRunner, EagerRunner, StepRunner

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Rates = Mapping[str, Sequence[float]]
"""Learning rate of each optimizer group in each step of an epoch."""


@dataclass(frozen=True, slots=True)
class EpochResult:
    """Result of one training epoch."""

    loss: float
    """Mean training loss in nats; not finite if training diverged."""
    accuracy_pp: float
    gradients: Mapping[str, GradientStatistics] = field(default_factory=dict)
    """By slot, for seeds that had gradients."""


@dataclass(frozen=True, slots=True)
class EpochSettings:
    """Settings of training besides model and data."""

    host_grad_clip: float
    seed_grad_clip: float
    incubation_share: float
    """Share of each batch in the shadow pass of incubating seeds."""
    precision: str = "float32"
    """Precision of the forward pass, one of :data:`PRECISIONS`."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums on the device over an epoch, for one network structure."""

    totals: Tensor
    """(3,): losses, right predictions, gradient norms of the host."""
    norms: Mapping[str, Tensor]
    """By slot: (2, n + 1) gradient norms of each tensor of its seed, and of all; and steps with a gradient."""

    def clear(self) -> None:
        for tensor in (self.totals, *self.norms.values()):
            tensor.zero_()


class Trainer:
    """Trainer of one organism."""

    def __init__(
        self, organism: Organism, data: Dataset[Any], settings: EpochSettings, runner: StepRunner | None = None
    ) -> None:
        """
        Args:
            runner: runner of the steps; default: eager.
        """
        self.organism, self.data, self.settings = organism, data, settings
        organism.optimizer.watches = []  # this trainer sums the norms itself, within captured graphs too
        self.runner = runner or EagerRunner()
        self._structure: Hashable = None
        self._parameters: list[nn.Parameter] = []
        self._host: list[Tensor] = []
        self._seeds: dict[str, list[Tensor]] = {}
        self._sums = _Sums(torch.empty(0), {})

    def train(self, plan: EpochPlan, rates: Rates | None = None) -> EpochResult:
        """Train on the batches of ``plan``, with separate clipping of host and seeds.

        Args:
            rates: learning rates of this epoch, for each group of the optimizer; default: unchanged.
        """
        self.organism.model.train()
        self._follow()
        self._sums.clear()
        captured = isinstance(self.runner, CapturedRunner)
        table = self._rate_table(rates, plan)
        on_device = moved(table.float(), plan.rows.device) if captured else table
        for step in range(len(plan.rows)):
            if not captured:
                self._set_rates(table[step].tolist())
            self.runner.run(self._structure, self._step, plan.rows[step], plan.draws[step], on_device[step])
        return self._collect(len(plan.rows), plan.rows.shape[1])

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats, with gradient."""
        return self._losses(inputs, targets)[1]

    def training_loss(self, rows: Tensor) -> Tensor:
        """:meth:`loss` on ``rows`` of the training split, not augmented."""
        draws = self.data.draw(torch.Generator().manual_seed(0), 1, len(rows))[0]
        return self.loss(*self.data.training_batch(rows, draws.to(rows.device)))

    def _losses(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with self._autocast(inputs.device.type):
            logits = self.organism.model(inputs)
            return logits, cross_entropy(logits.flatten(0, -2), targets.flatten())

    def _autocast(self, device: str) -> AbstractContextManager[None]:
        dtype = PRECISIONS[self.settings.precision]
        if dtype is torch.float32:
            return nullcontext()
        return torch.autocast(device, dtype=dtype, cache_enabled=False)  # a cache would outlive passes without gradient

    def _follow(self) -> None:
        """Rebuild the sums after a change of structure."""
        organism = self.organism
        structure = organism.model.growth.structure()
        if structure == self._structure:
            return
        device = organism.device
        self._structure = structure
        self._parameters = list(organism.model.parameters())
        self._host = list(organism.optimizer.group(HOST_GROUP))
        names = organism.optimizer.group_names
        self._seeds = {slot: list(organism.optimizer.group(slot)) for slot in names if slot != HOST_GROUP}
        norms = {slot: torch.zeros((2, len(group) + 1), device=device) for slot, group in self._seeds.items()}
        self._sums = _Sums(torch.zeros(3, device=device), norms)

    def _step(self, rows: Tensor, draws: Tensor, rates: Tensor) -> None:
        model, optimizer = self.organism.model, self.organism.optimizer
        if isinstance(self.runner, CapturedRunner):
            self._set_rates(list(rates.unbind()))
        inputs, targets = self.data.training_batch(rows, draws)
        logits, loss = self._losses(inputs, targets)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        if self._seeds:
            part = math.ceil(self.settings.incubation_share * len(rows))
            model.incubate(partial(self.loss, inputs[:part], targets[:part]))
        host_norm = clip_grad_norm_(self._host, self.settings.host_grad_clip, foreach=True)
        for slot, group in self._seeds.items():
            self._sums.norms[slot].add_(clipped_norms(group, self.settings.seed_grad_clip))
        optimizer.step()
        with torch.no_grad():
            right = (logits.argmax(dim=-1) == targets).float().mean()
            self._sums.totals.add_(torch.stack([loss.detach().float(), right, host_norm]))

    def _rate_table(self, rates: Rates | None, plan: EpochPlan) -> Tensor:
        """(steps, groups) float64 learning rates, in the order of the optimizer's groups."""
        groups = self.organism.optimizer.live_groups
        steps = len(plan.rows)
        columns = [[float(g["lr"])] * steps if rates is None else list(rates[g["name"]]) for g in groups]
        return torch.tensor(columns, dtype=torch.float64).T.contiguous()

    def _set_rates(self, rates: Sequence[float | Tensor]) -> None:
        for group, rate in zip(self.organism.optimizer.live_groups, rates, strict=True):
            group["lr"] = rate

    def _collect(self, steps: int, batch: int) -> EpochResult:
        sums = self._sums
        values = torch.cat([sums.totals, *(norms.flatten() for norms in sums.norms.values())]).tolist()
        (loss, right, host_norm), at = values[:3], 3
        host_rms = host_gradient_rms(host_norm / steps, elements_with_gradient(self._host))
        gradients = {}
        for slot, group in self._seeds.items():
            middle, end = at + len(group) + 1, at + 2 * (len(group) + 1)
            sizes = [parameter.numel() for parameter in group]
            statistics = epoch_statistics(values[at:middle], values[middle:end], sizes, host_rms)
            at = end
            if statistics is not None:
                gradients[slot] = statistics
        return EpochResult(loss / steps, 100.0 * right / steps, gradients)

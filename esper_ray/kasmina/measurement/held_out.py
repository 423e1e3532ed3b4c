"""Held-out examples of a user, for measurements of a growing model, never for its training."""

import hashlib
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from esper_ray.kasmina.collectives import broadcast, columns_of_all, gathered, mean_over_processes, processes, rank
from esper_ray.kasmina.measurement.batches import Batch, batches_of, joined
from esper_ray.kasmina.measurement.coalition_pass import Evaluated
from esper_ray.kasmina.measurement.objective import (
    Judged,
    Objective,
    is_classification,
    logits_of,
    own_part,
    score_from_loss,
)
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.passes.switching import switched
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.records import Members

HELD_OUT_EXAMPLES = 2000
"""Default maximum number of held-out examples."""
CHUNK = 512
"""Maximum number of examples per forward pass, before the batch forks."""
CHUNK_OUTPUTS, CHUNK_INPUTS = 2**25, 2**24
"""Maximum number of output and input elements of a forward pass."""
OWN_LOSS_CHUNK = 16
"""Examples per forward pass of a model that computes its own loss; each pass then has one score."""


class HeldOut:
    """Held-out examples in memory, with the objective of the model.

    In a process group it is evaluated in every process. Each evaluates its own examples, or a share of them if
    all have the same; results are those of all.
    """

    def __init__(
        self, data: Any, model: nn.Module, objective: Objective | None = None, limit: int = HELD_OUT_EXAMPLES
    ) -> None:
        """
        Args:
            data: a pair (inputs, targets), a mapping, a Dataset, or an iterable of batches such as a DataLoader.
            model: the model without slots or with them; it is run on two examples.
            limit: maximum number of examples, from the first.

        Raises:
            ValueError: if there are no examples, inputs and targets differ in number, inputs are not finite, or the
                model and the objective cannot work on them.
        """
        if limit < 1:
            raise ValueError(f"examples must be at least 1, got {limit}")
        self.objective = objective or Objective()
        first = next(model.parameters(), None)
        self._batches = joined(
            _first(batches_of(data, model), limit, torch.device("cpu") if first is None else first.device)
        )
        self.examples = sum(batch.rows for batch in self._batches)
        if not self.examples:
            raise ValueError("measurements need at least 1 held-out example, got 0; is the loader empty?")
        for batch in self._batches:
            _check_finite(batch)
        self._divided = False
        self.first_loss: float | None = None
        """Mean loss at the first measurement; the unit of scores that follow from a loss."""
        self._fit(model)

    def _divide(self) -> None:
        """Keep the share of this process, if all processes have the same examples. It is collective."""
        if self._divided:
            return
        self._divided = True
        code = int(self.fingerprint[:15], 16)
        if any(other != code for (other,) in gathered([code])):
            return
        own, count = rank(), processes()
        parts = [(batch, batch.rows * own // count, batch.rows * (own + 1) // count) for batch in self._batches]
        self._batches = [batch.part(start, stop) for batch, start, stop in parts if stop > start]
        self.examples = sum(batch.rows for batch in self._batches)
        if not self.examples:
            raise ValueError(f"measurements in {count} processes need at least {count} held-out examples per batch")

    @property
    def example(self) -> Batch:
        """Two examples."""
        return self._batches[0].part(0, 2)

    @property
    def random_guess_loss(self) -> float:
        """Cross-entropy in nats of a uniform prediction.

        The first measured loss, for other models than classifiers.
        """
        return float(np.log(self.classes)) if self.classes else self.first_loss or 1.0

    @property
    def chance_pp(self) -> float:
        """Score of a uniform prediction in percentage points; 0 for other models than classifiers."""
        return 100.0 / self.classes if self.classes else 0.0

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over types, shapes and values of all examples, in hexadecimal."""
        digest = hashlib.sha256()
        for batch in self._batches:
            leaves, structure = tree_flatten((batch.args, dict(batch.kwargs), batch.targets))
            digest.update(f"{structure}".encode())
            for leaf in leaves:
                if isinstance(leaf, Tensor):
                    array = leaf.detach().cpu().contiguous()
                    digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
                    digest.update(array.view(torch.uint8).numpy().tobytes() if array.numel() else b"")
                else:
                    digest.update(repr(leaf).encode())
        return digest.hexdigest()

    def evaluate(self, model: SlottedNetwork, players: Members, coalitions: Collection[Members]) -> Evaluated:
        """Results of each of ``coalitions``.

        They are computed jointly where the output is one tensor, else each in a pass of its own.

        Raises:
            ValueError: if the objective gives no scalar loss, or no scores in [0, 1].
        """
        if processes() > 1:
            self._divide()
            broadcast(list(model.buffers()))  # those of rank 0, which a checkpoint holds
        groups = [list(coalitions)] if self._joint else [[coalition] for coalition in coalitions]
        sums: dict[Members, _Sums] = {}
        for group in groups:
            with switched(model, players, group) as members:
                sums |= zip(members, self._passes(model, len(members)), strict=True)
        loss = mean_over_processes(sums[players].loss(), self.examples)
        if self.first_loss is None:
            self.first_loss = loss if np.isfinite(loss) else None
        scores = torch.stack([torch.cat(part.scores) for part in sums.values()]).float()
        if any(part.from_loss for part in sums.values()):
            scores = score_from_loss(scores, self.first_loss or 1.0)
        return Evaluated(loss, tuple(sums), columns_of_all(scores.cpu().numpy()))

    def _passes(self, model: SlottedNetwork, blocks: int) -> list["_Sums"]:
        """Results of each block of rows."""
        sums = [_Sums() for _ in range(blocks)]
        for batch in self._batches:
            size = self._chunk(batch, blocks)
            for start in range(0, batch.rows, size):
                part = batch.part(start, start + size)
                output = part.run(model)
                outputs = output.unflatten(0, (blocks, -1)) if self._joint else [output]
                for block, single in zip(sums, outputs, strict=True):
                    block.add(self.objective.judge(single, part.targets, part.rows))
        return sums

    def _chunk(self, batch: Batch, blocks: int) -> int:
        """Examples per pass."""
        if self._own_loss:
            return OWN_LOSS_CHUNK
        inputs = sum(tensor.numel() for tensor in batch.inputs) // batch.rows
        return max(1, min(CHUNK, CHUNK_OUTPUTS // (blocks * self._outputs), CHUNK_INPUTS // max(1, inputs)))

    def _fit(self, model: nn.Module) -> None:
        """Run model and objective on two examples of every shape."""
        self.classes, self._outputs, self._joint, self._own_loss = 0, 1, True, False
        for batch in self._batches:
            part = batch.part(0, 2)
            try:
                with torch.no_grad(), evaluation_mode(model):
                    output = part.run(model)
            except Exception as error:  # a model can raise anything on inputs that it does not expect
                raise ValueError(
                    f"{type(model).__name__} cannot run on held-out inputs of shape {part.shapes}: {error}"
                ) from error
            self._joint = self._joint and _is_joint(part, output)
            self._check_classes(output, batch)
            try:
                judged = self.objective.judge(output, part.targets, part.rows)
            except ValueError as error:
                raise ValueError(
                    f"{type(model).__name__} on held-out inputs of shape {part.shapes}: {error}"
                ) from error
            self._own_loss = judged.from_loss and self.objective.loss is None
            if isinstance(output, Tensor):
                self._outputs = max(self._outputs, output.numel() // part.rows)

    def _check_classes(self, output: Any, batch: Batch) -> None:
        """Set the number of classes, if the model is a classifier with the default loss."""
        logits = logits_of(output)
        if self.objective.loss is not None or not is_classification(logits, batch.targets[:2]):
            return
        classes = logits.shape[-1]
        low, high = int(batch.targets.min()), int(batch.targets.max())
        if own_part(output, "loss") is None and not 0 <= low <= high < classes:
            raise ValueError(f"targets must lie in 0..{classes - 1}, the classes of the model; got {low}..{high}")
        self.classes = 0 if self.objective.score is not None else classes


class _Sums:
    """Losses and scores of one coalition."""

    def __init__(self) -> None:
        self.losses: list[tuple[Tensor, int]] = []
        self.scores: list[Tensor] = []
        self.from_loss = False

    def add(self, judged: Judged) -> None:
        self.losses.append((judged.losses, judged.weight))
        self.scores.append(judged.scores)
        self.from_loss = judged.from_loss

    def loss(self) -> float:
        """Mean loss."""
        if all(weight == 1 for _, weight in self.losses):
            return float(torch.cat([losses for losses, _ in self.losses]).mean())
        total = sum(weight * len(losses) for losses, weight in self.losses)
        return float(torch.stack([losses.sum() * weight for losses, weight in self.losses]).sum()) / total


def _first(batches: Iterator[Batch], limit: int, device: torch.device) -> Iterator[Batch]:
    """The first ``limit`` examples, on ``device``."""
    left = limit
    for batch in batches:
        if batch.rows:
            yield batch.part(0, left).to(device)
        left -= batch.rows
        if left <= 0:
            return


def _check_finite(batch: Batch) -> None:
    for tensor in batch.inputs:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"held-out inputs must be finite, got {tensor[~tensor.isfinite()][0].item()}")


def _is_joint(batch: Batch, output: Any) -> bool:
    """Whether passes of several coalitions can be computed at once: rows in, one tensor of rows out."""
    rows = batch.rows
    return (
        isinstance(output, Tensor)
        and output.dim() > 0
        and len(output) == rows
        and all(tensor.dim() and len(tensor) == rows for tensor in batch.inputs)
    )

"""Objective of a model: the loss that trains it, and the score of each example."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

LossFunction = Callable[[Any, Any], Tensor]
"""Loss from the output of a model and the targets: a scalar, the mean over the batch."""
ScoreFunction = Callable[[Any, Any], Tensor]
"""Score from output and targets: one number in [0, 1] for each example, higher is better."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Results of a batch."""

    losses: Tensor
    """Losses whose mean, with their weights, is that of the batch."""
    weight: int
    """Weight of each of the losses."""
    scores: Tensor
    """(B,) scores in [0, 1]; losses if ``from_loss``."""
    from_loss: bool


@dataclass(frozen=True, slots=True)
class Objective:
    """Loss and score of a model. Without functions they are those of a classifier, or the model's own loss.

    Without ``score`` a classifier's is the share of right predictions. Any other model's follows from the loss of an
    example, ``1 / (1 + loss / first)``, with the mean loss at the first measurement as ``first``.
    """

    loss: LossFunction | None = None
    score: ScoreFunction | None = None

    def training_loss(self, output: Any, targets: Any) -> Tensor:
        """Mean loss of a batch, a scalar with gradient.

        Raises:
            ValueError: if no loss is known for this output, or the loss is not a scalar.
        """
        if self.loss is not None:
            return _scalar(self.loss(output, targets), "loss")
        own, logits = own_part(output, "loss"), logits_of(output)
        if own is not None:
            return _scalar(own, "the model's own loss")
        if is_classification(logits, targets):
            return cross_entropy(logits.flatten(0, -2), targets.flatten())
        raise ValueError(
            f"no loss is known for an output of {shown(output)} and targets of {shown(targets)}: a classifier yields "
            f"floating-point logits of shape (*targets, classes) for int64 targets; else pass loss=, a function of "
            "output and targets"
        )

    def judge(self, output: Any, targets: Any, rows: int) -> Judged:
        """Losses and scores of a batch of ``rows`` examples.

        Raises:
            ValueError: as :meth:`training_loss`, or if the scores are not one number in [0, 1] for each example.
        """
        logits = logits_of(output)
        classifies, own = is_classification(logits, targets), own_part(output, "loss") is not None
        if self.loss is None and classifies and not own:
            losses, weight = cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none"), 1
        else:
            losses, weight = self.training_loss(output, targets)[None], rows
        if self.score is not None:
            return Judged(losses, weight, _checked_scores(self.score(output, targets), rows), from_loss=False)
        if classifies and (targets.dim() == 1 or not own):  # labels of tokens may be shifted by the model
            right = (logits.argmax(dim=-1) == targets).float()
            return Judged(losses, weight, right.flatten(1).mean(dim=1) if right.dim() > 1 else right, from_loss=False)
        return Judged(losses, weight, self._row_losses(output, targets, rows), from_loss=True)

    def _row_losses(self, output: Any, targets: Any, rows: int) -> Tensor:
        """(rows,) loss of each example alone; (1,) if the model computes its loss itself."""
        if self.loss is None:
            return self.training_loss(output, targets)[None]

        def row(values: Any, index: int) -> Any:
            return tree_map(
                lambda v: v[index : index + 1] if isinstance(v, Tensor) and v.dim() and len(v) == rows else v, values
            )

        return torch.stack([self.training_loss(row(output, i), row(targets, i)) for i in range(rows)])


def is_classification(output: Any, targets: Any) -> bool:
    """Whether ``output`` holds logits of shape (*targets.shape, classes) for whole-number targets."""
    return (
        isinstance(output, Tensor)
        and isinstance(targets, Tensor)
        and targets.dtype is torch.int64
        and output.is_floating_point()
        and output.dim() == targets.dim() + 1
        and output.shape[:-1] == targets.shape
    )


def shown(value: Any) -> str:
    """Type and shape of a value in words, for messages."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {', '.join(map(str, value))}"
    return f"type {type(value).__name__}"


def score_from_loss(losses: Tensor, first: float) -> Tensor:
    """Scores in [0, 1], ``1 / (1 + loss / first)``.

    A loss that is not finite has the score 0.

    Raises:
        ValueError: if a loss is negative.
    """
    lowest = float(losses.nan_to_num(nan=0.0).min())
    if lowest < 0.0:
        raise ValueError(f"a loss of {lowest:.4g} gives no score, since it is below zero; pass score=")
    scores = 1.0 / (1.0 + losses / max(first, torch.finfo(torch.float32).tiny))
    return scores.nan_to_num(nan=0.0)


def own_part(output: Any, name: str) -> Tensor | None:
    """Entry or attribute ``name`` of an output of several parts, such as those of transformers."""
    if isinstance(output, Tensor):
        return None
    value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    return value if isinstance(value, Tensor) else None


def logits_of(output: Any) -> Any:
    """The entry ``logits`` of an output of several parts, else the output."""
    logits = own_part(output, "logits")
    return output if logits is None else logits


def _scalar(loss: Any, name: str) -> Tensor:
    if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point scalar tensor, got {shown(loss)}; reduce it over the batch with mean()"
        )
    return loss


def _checked_scores(scores: Any, rows: int) -> Tensor:
    if not isinstance(scores, Tensor) or not scores.dim() or len(scores) != rows:
        raise ValueError(f"score must return one number for each of {rows} examples, got {shown(scores)}")
    flat = scores.detach().float().reshape(rows, -1).mean(dim=1)
    if not bool(((flat >= 0.0) & (flat <= 1.0)).all()):
        raise ValueError(f"scores must lie in [0, 1], got {float(flat.min()):.4g} to {float(flat.max()):.4g}")
    return flat

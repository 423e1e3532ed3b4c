"""The distribution over factored actions: operation first, then slot, then the arguments in use.

``p(a) = p(op) p(slot | op) prod_h p(a_h | op, slot)`` over the heads h that the operation reads; a head
that it does not read adds nothing to the log-probability or the entropy. The tables hold every
condition at once, so acting and updating share one object and one arithmetic.

Shapes: N rows, S slots, K operations that read a head, A choices of a head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from esper_ray.leyline.actions import (
    ARGUMENT_HEADS,
    HEADS,
    OPS_OF_HEAD,
    LifecycleOp,
    head_sizes,
)

MASKED = -1e9
"""Log-probability of what cannot be chosen."""


@dataclass(frozen=True, slots=True)
class MaskTensors:
    """Legal choices of N states."""

    slot_by_op: Tensor
    """(N, 6, S) bool."""
    arguments: dict[str, Tensor]
    """(N, A) bool for each argument head."""

    @classmethod
    def from_vectors(cls, vectors: Tensor, slots: int) -> "MaskTensors":
        """From rows of ``Masks.vector``, (N, L).

        Raises:
            ValueError: if their length does not fit ``slots``.
        """
        sizes = head_sizes(slots)
        widths = [sizes["op"] * slots, *(sizes[head] for head in ARGUMENT_HEADS)]
        if vectors.shape[-1] != sum(widths):
            raise ValueError(f"mask vectors of {slots} slots have {sum(widths)} entries, got {vectors.shape[-1]}")
        by_op, *rest = torch.split(vectors.bool(), widths, dim=-1)
        arguments = dict(zip(ARGUMENT_HEADS, rest, strict=True))
        return cls(by_op.reshape(-1, sizes["op"], slots), arguments)

    @property
    def op(self) -> Tensor:
        """(N, 6) operations that are legal on some slot."""
        return self.slot_by_op.any(dim=-1)


@dataclass(frozen=True, slots=True)
class ActionLogits:
    """Unmasked scores of every choice under every condition."""

    op: Tensor
    """(N, 6)"""
    slot: Tensor
    """(N, 6, S)"""
    arguments: dict[str, Tensor]
    """(N, K, S, A) for each argument head; K as in ``OPS_OF_HEAD``."""


class ActionDistribution:
    """N distributions over factored actions."""

    def __init__(self, logits: ActionLogits, masks: MaskTensors, epsilon: float = 0.0) -> None:
        """
        Args:
            epsilon: share of a uniform choice among what is legal, mixed into every head. Gradients reach
                every logit whatever it is, which a clamp of small probabilities would not allow.

        Raises:
            ValueError: if some row has no legal operation, or ``epsilon`` is outside [0, 1].
        """
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
        if not bool(masks.op.any(dim=-1).all()):
            raise ValueError("a state without any legal operation; WAIT is always legal, so the masks are wrong")
        self.masks = masks
        self.op = _log_probs(logits.op, masks.op, epsilon)
        self.slot = _log_probs(logits.slot, masks.slot_by_op, epsilon)
        self.arguments = {
            head: _log_probs(scores, masks.arguments[head][:, None, None, :].expand_as(scores), epsilon)
            for head, scores in logits.arguments.items()
        }

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(N, 8) actions, one draw each. Heads that are not read hold 0."""
        return self._choose(lambda log_probs: torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(-1))

    def mode(self) -> Tensor:
        """(N, 8) the likeliest operation, then the likeliest slot, then the likeliest arguments."""
        return self._choose(lambda log_probs: log_probs.argmax(dim=-1))

    def log_probs(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (N, 8) ``actions``: of the operation, and of slot and arguments given it; (N,) each."""
        rows = torch.arange(len(actions), device=actions.device)
        op, slot = actions[:, 0], actions[:, 1]
        acts = op != LifecycleOp.WAIT
        arguments = torch.where(acts, self.slot[rows, op, slot], 0.0)
        for head in ARGUMENT_HEADS:
            place, reads = self._place(head, op)
            chosen = self.arguments[head][rows, place, slot, actions[:, HEADS.index(head)]]
            arguments = arguments + torch.where(reads, chosen, 0.0)
        return self.op[rows, op], arguments

    def entropy(self) -> Tensor:
        """(N,) exact entropy in nats, by the chain rule: H(op) + E[H(slot | op)] + E[H(arguments | op, slot)]."""
        op = self.op.exp()
        total = _entropy(self.op) + (op[:, 1:] * _entropy(self.slot)[:, 1:]).sum(dim=-1)
        joint = op[:, :, None] * self.slot.exp()
        for head in ARGUMENT_HEADS:
            reading = list(OPS_OF_HEAD[head])
            total = total + (joint[:, reading] * _entropy(self.arguments[head])).sum(dim=(1, 2))
        return total

    def kl(self, other: "ActionDistribution") -> Tensor:
        """(N,) exact divergence KL(self || other) in nats, by the chain rule."""
        op = self.op.exp()
        total = _kl(self.op, other.op) + (op[:, 1:] * _kl(self.slot, other.slot)[:, 1:]).sum(dim=-1)
        joint = op[:, :, None] * self.slot.exp()
        for head in ARGUMENT_HEADS:
            reading = list(OPS_OF_HEAD[head])
            total = total + (joint[:, reading] * _kl(self.arguments[head], other.arguments[head])).sum(dim=(1, 2))
        return total

    def head_entropies(self, actions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """For each head: (N,) entropy under the condition taken, and (N,) whether it was read with a real choice."""
        rows = torch.arange(len(actions), device=actions.device)
        op, slot = actions[:, 0], actions[:, 1]
        found = {"op": (_entropy(self.op), self.masks.op.sum(dim=-1) > 1)}
        slots_open = self.masks.slot_by_op[rows, op].sum(dim=-1) > 1
        found["slot"] = (_entropy(self.slot[rows, op]), (op != LifecycleOp.WAIT) & slots_open)
        for head in ARGUMENT_HEADS:
            place, reads = self._place(head, op)
            open_ = self.masks.arguments[head].sum(dim=-1) > 1
            found[head] = (_entropy(self.arguments[head][rows, place, slot]), reads & open_)
        return found

    def _choose(self, pick: Callable[[Tensor], Tensor]) -> Tensor:
        rows = torch.arange(len(self.op), device=self.op.device)
        op = pick(self.op)
        slot = pick(self.slot[rows, op])
        columns = [op, torch.where(op != LifecycleOp.WAIT, slot, 0)]
        for head in ARGUMENT_HEADS:
            place, reads = self._place(head, op)
            choice = pick(self.arguments[head][rows, place, slot])
            columns.append(torch.where(reads, choice, 0))
        return torch.stack(columns, dim=1)

    def _place(self, head: str, op: Tensor) -> tuple[Tensor, Tensor]:
        """Index of each row's operation among those that read ``head`` (0 where it does not), and whether it does."""
        matches = op[:, None] == torch.tensor(OPS_OF_HEAD[head], device=op.device)
        return matches.int().argmax(dim=1), matches.any(dim=1)


def _log_probs(scores: Tensor, legal: Tensor, epsilon: float) -> Tensor:
    """Masked log-softmax over the last dimension in float32, mixed with a uniform choice.

    A row without any legal choice belongs to a condition that cannot occur; it is left uniform so that
    its tables stay finite, and its probability of being reached is 0.
    """
    possible = torch.where(legal.any(dim=-1, keepdim=True), legal, True)
    log_probs = scores.float().masked_fill(~possible, MASKED).log_softmax(dim=-1)
    if epsilon > 0.0:
        uniform = -possible.sum(dim=-1, keepdim=True).float().log() + math.log(epsilon)
        if epsilon == 1.0:
            log_probs = uniform.expand_as(log_probs)
        else:
            log_probs = torch.logaddexp(log_probs + math.log1p(-epsilon), uniform.expand_as(log_probs))
    return log_probs.masked_fill(~possible, MASKED)


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def _kl(log_probs: Tensor, others: Tensor) -> Tensor:
    return (log_probs.exp() * (log_probs - others)).sum(dim=-1)

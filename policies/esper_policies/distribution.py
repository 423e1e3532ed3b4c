"""The distribution over factored actions: operation, then slot, then arguments.

``p(a) = p(op) p(slot | op) prod_h p(a_h | op, slot)`` over the heads h that the operation reads; a head
that it does not read adds nothing to the log-probability or the entropy. The tables hold every
condition at once, so that acting and updating share one class; a single choice computes only the rows that it reads.

Shapes: N rows, S slots, K operations that read a head, A choices of a head.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from esper_ray.leyline.actions import (
    ARGUMENT_HEADS,
    HEADS,
    HEADS_OF_OP,
    OPS_OF_HEAD,
    LifecycleOp,
    head_sizes,
)
from esper_ray.leyline.legality import mask_vector_size

MASKED = -1e9
"""Log-probability of an illegal choice."""


@dataclass(frozen=True)
class MaskTensors:
    """The masks of legal choices in N states."""

    flat: Tensor
    """(N, L) bool, laid out as in ``Masks.vector``."""
    slots: int

    @classmethod
    def from_vectors(cls, vectors: Tensor, slots: int) -> "MaskTensors":
        """Masks from rows of ``Masks.vector``, (N, L).

        Raises:
            ValueError: if the length of a row does not fit ``slots``.
        """
        expected = mask_vector_size(slots)
        if vectors.shape[-1] != expected:
            raise ValueError(f"mask vectors of {slots} slots have {expected} entries, got {vectors.shape[-1]}")
        return cls(vectors.bool(), slots)

    @cached_property
    def slot_by_op(self) -> Tensor:
        """(N, 6, S)"""
        return self.flat[:, : len(LifecycleOp) * self.slots].reshape(-1, len(LifecycleOp), self.slots)

    @cached_property
    def op(self) -> Tensor:
        """(N, 6) operations that are legal on some slot."""
        return self.slot_by_op.any(dim=-1)

    @cached_property
    def arguments(self) -> dict[str, Tensor]:
        """(N, A) for each argument head."""
        sizes = head_sizes(self.slots)
        rest = self.flat[:, len(LifecycleOp) * self.slots :]
        parts = torch.split(rest, [sizes[head] for head in ARGUMENT_HEADS], dim=-1)
        return dict(zip(ARGUMENT_HEADS, parts, strict=True))


@dataclass(frozen=True, slots=True)
class ActionLogits:
    """The unmasked scores of every choice under every condition."""

    op: Tensor
    """(N, 6)"""
    slot: Tensor
    """(N, 6, S)"""
    arguments: Mapping[str, Tensor]
    """(N, K, S, A) for each argument head; K as in ``OPS_OF_HEAD``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One action of each distribution, with its log-probabilities."""

    actions: Tensor
    """(N, 8); heads that are not read hold 0."""
    log_prob_op: Tensor
    """(N,)"""
    log_prob_arguments: Tensor
    """(N,) of slot and arguments given the operation."""


class ActionDistribution:
    """N distributions over factored actions."""

    def __init__(self, logits: ActionLogits, masks: MaskTensors, epsilon: float = 0.0) -> None:
        """
        Args:
            epsilon: share of a uniform choice among legal ones, mixed into every head. Unlike a clamp of small
                probabilities, it lets gradients reach every logit.

        Raises:
            ValueError: if some row has no legal operation, or ``epsilon`` is outside [0, 1].
        """
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon must lie in [0, 1], got {epsilon}")
        if not bool(masks.op.any(dim=-1).all()):
            raise ValueError("a state without any legal operation; WAIT is always legal, so the masks are wrong")
        self.masks = masks
        self._logits, self._epsilon = logits, epsilon
        self.op = _log_probs(logits.op, masks.op, epsilon)
        if torch.is_grad_enabled():  # else the first access would decide whether the tables have gradients
            _ = self.slot, self.arguments

    @cached_property
    def slot(self) -> Tensor:
        """(N, 6, S) log-probabilities under every operation."""
        return _log_probs(self._logits.slot, self.masks.slot_by_op, self._epsilon)

    @cached_property
    def arguments(self) -> dict[str, Tensor]:
        """(N, K, S, A) log-probabilities of each argument head.

        There is one for every operation that reads the head and every slot.
        """
        return {
            head: _log_probs(scores, self.masks.arguments[head][:, None, None, :].expand_as(scores), self._epsilon)
            for head, scores in self._logits.arguments.items()
        }

    def sample(self, generator: torch.Generator | None = None) -> Choice:
        """One sample of every distribution."""
        sizes = head_sizes(self._logits.slot.shape[-1])
        noise = [torch.empty(len(self.op), size, device=self.op.device) for size in sizes.values()]
        return self._choose([empty.exponential_(generator=generator) for empty in noise])

    def mode(self) -> Choice:
        """The greedy choice: the most probable operation, then slot, then arguments."""
        return self._choose([None] * len(HEADS))

    def log_probs(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (N, 8) ``actions`` by part; (N,) each.

        The parts are the operation, and slot and arguments given the operation.
        """
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
        """(N,) exact entropy in nats, by the chain rule. It is H(op) + E[H(slot | op)] + E[H(arguments | op, slot)]."""
        op = self.op.exp()
        total = _entropy(self.op) + (op[:, 1:] * _entropy(self.slot)[:, 1:]).sum(dim=-1)
        joint = op[:, :, None] * self.slot.exp()
        for head in ARGUMENT_HEADS:
            reading = list(OPS_OF_HEAD[head])
            total = total + (joint[:, reading] * _entropy(self.arguments[head])).sum(dim=(1, 2))
        return total

    def evenness(self) -> Tensor:
        """(N,) sum over heads of the expected entropy over that of a uniform legal choice.

        Every head with a choice counts 1 where it is even, however many choices it has. How often a head is read is a
        weight without gradient: an operation gains nothing by reading many heads.
        """
        with torch.no_grad():
            op = self.op.exp()
            joint = op[:, :, None] * self.slot.exp()
        legal_slots = self.masks.slot_by_op.sum(dim=-1)
        total = _evenness(self.op, self.masks.op.sum(dim=-1))
        total = total + (op[:, 1:] * _evenness(self.slot, legal_slots)[:, 1:]).sum(dim=-1)
        for head in ARGUMENT_HEADS:
            reading = list(OPS_OF_HEAD[head])
            legal = self.masks.arguments[head].sum(dim=-1)[:, None, None]
            total = total + (joint[:, reading] * _evenness(self.arguments[head], legal)).sum(dim=(1, 2))
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
        """Conditional entropy of each head, and whether it was read with a choice; (N,) each.

        The condition is the part of the action taken before.
        """
        rows = torch.arange(len(actions), device=actions.device)
        op, slot = actions[:, 0], actions[:, 1]
        entropies = {"op": (_entropy(self.op), self.masks.op.sum(dim=-1) > 1)}
        has_slot_choice = self.masks.slot_by_op[rows, op].sum(dim=-1) > 1
        entropies["slot"] = (_entropy(self.slot[rows, op]), (op != LifecycleOp.WAIT) & has_slot_choice)
        for head in ARGUMENT_HEADS:
            place, reads = self._place(head, op)
            has_choice = self.masks.arguments[head].sum(dim=-1) > 1
            entropies[head] = (_entropy(self.arguments[head][rows, place, slot]), reads & has_choice)
        return entropies

    def used_heads(self, actions: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Choice, probability, entropy and number of legal choices of each used head.

        The condition is the part of the action taken before; (1,) each.

        Args:
            actions: (1, 8), the action of a single distribution.
        """
        indices = actions[0].tolist()
        op = LifecycleOp(indices[0])
        used = {}
        for place, head in enumerate(HEADS):
            if head != "op" and head not in HEADS_OF_OP[op]:
                continue
            table = self.op if head == "op" else self._row(head, op, indices[1])
            legal = (table > MASKED / 2).sum(dim=-1)
            used[head] = (actions[:, place].float(), table[:, indices[place]].exp(), _entropy(table), legal.float())
        return used

    def _choose(self, noise: Sequence[Tensor | None]) -> Choice:
        """
        Args:
            noise: (N, choices) exponential draws for each head; the most probable choice where it is ``None``.
        """
        op = _pick(self.op, noise[0])
        if len(op) == 1:
            return self._choose_single(LifecycleOp(int(op)), noise)
        rows = torch.arange(len(op), device=op.device)
        slot = _pick(self.slot[rows, op], noise[1])
        columns = [op, torch.where(op != LifecycleOp.WAIT, slot, 0)]
        for head, head_noise in zip(ARGUMENT_HEADS, noise[2:], strict=True):
            place, reads = self._place(head, op)
            choice = _pick(self.arguments[head][rows, place, slot], head_noise)
            columns.append(torch.where(reads, choice, 0))
        actions = torch.stack(columns, dim=1)
        return Choice(actions, *self.log_probs(actions))

    def _choose_single(self, op: LifecycleOp, noise: Sequence[Tensor | None]) -> Choice:
        """The choice of a single distribution after ``op``, from the table rows that ``op`` reads."""
        indices, log_prob = [int(op)] + [0] * (len(HEADS) - 1), torch.zeros_like(self.op[:, op])
        for place, head in enumerate(HEADS):
            if head != "op" and head in HEADS_OF_OP[op]:
                table = self._row(head, op, indices[1])
                indices[place] = int(_pick(table, noise[place]))
                log_prob = log_prob + table[:, indices[place]]
        return Choice(torch.tensor([indices], device=self.op.device), self.op[:, op], log_prob)

    def _row(self, head: str, op: LifecycleOp, slot: int) -> Tensor:
        """(N, choices) log-probabilities of ``head`` under one operation and slot."""
        if head == "slot":
            return _log_probs(self._logits.slot[:, op], self.masks.slot_by_op[:, op], self._epsilon)
        scores = self._logits.arguments[head][:, OPS_OF_HEAD[head].index(op), slot]
        return _log_probs(scores, self.masks.arguments[head], self._epsilon)

    def _place(self, head: str, op: Tensor) -> tuple[Tensor, Tensor]:
        """Index of each row's operation among the readers of ``head``, and whether it is one.

        The index is 0 where it is none.
        """
        matches = op[:, None] == torch.tensor(OPS_OF_HEAD[head], device=op.device)
        return matches.int().argmax(dim=1), matches.any(dim=1)


def _pick(log_probs: Tensor, noise: Tensor | None) -> Tensor:
    """Index of the most probable choice; with exponential noise, of a sample.

    The exponential race of ``torch.multinomial`` without its checks: the same noise gives the same samples.
    """
    return (log_probs if noise is None else log_probs.exp() / noise).argmax(dim=-1)


def _log_probs(scores: Tensor, legal: Tensor, epsilon: float) -> Tensor:
    """Masked log-softmax over the last dimension in at least float32, mixed with a uniform choice.

    A row without any legal choice belongs to a condition that cannot occur; it is left uniform so that
    its tables stay finite, and its probability of being reached is 0.
    """
    hidden = legal.any(dim=-1, keepdim=True) & ~legal
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    log_probs = scores.masked_fill(hidden, MASKED).log_softmax(dim=-1)
    if epsilon > 0.0:
        uniform = math.log(epsilon) - (~hidden).sum(dim=-1, keepdim=True, dtype=log_probs.dtype).log()
        if epsilon == 1.0:
            log_probs = uniform.expand_as(log_probs)
        else:
            log_probs = torch.logaddexp(log_probs + math.log1p(-epsilon), uniform)
    return log_probs.masked_fill(hidden, MASKED)


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def _evenness(log_probs: Tensor, legal: Tensor) -> Tensor:
    """Entropy over that of an even choice; 0 where there is no choice."""
    return torch.where(legal > 1, _entropy(log_probs) / legal.clamp_min(2).log(), 0.0)


def _kl(log_probs: Tensor, others: Tensor) -> Tensor:
    return (log_probs.exp() * (log_probs - others)).sum(dim=-1)

"""Masks, logits and views for the tests of policies, and the joint distribution by hand."""

import math
from itertools import product
from typing import Any

import numpy as np
import torch

from esper_policies.distribution import ActionDistribution, ActionLogits, MaskTensors
from esper_ray.leyline.actions import (
    ARGUMENT_HEADS,
    HEADS,
    OPS_OF_HEAD,
    AlphaMode,
    BlendOperator,
    Blueprint,
    GerminationStyle,
    head_sizes,
)
from esper_ray.leyline.legality import Limits, Masks, legality
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import HostSignals, SeedMeasurements, SlotReport
from esper_ray.leyline.stages import Stage

READS = {
    0: (),
    1: ("slot", "blueprint", "style", "tempo", "alpha_target"),
    2: ("slot", "style", "alpha_target", "alpha_speed", "alpha_curve"),
    3: ("slot", "alpha_speed", "alpha_curve"),
    4: ("slot",),
    5: ("slot",),
}
"""Heads that each operation reads in addition to ``op``, listed by hand."""

TINY = {
    "episode_length": 5,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 50,
}
FAST_LIVES = TINY | {
    "episode_length": 24,
    "growth.auto_forward": [],
    "growth.min_training_epochs": 1,
    "growth.embargo_ticks": 1,
    "growth.min_gradient_health": 0.0,
}
SMALL_POLICY = {"policy.memory_size": 16, "policy.feature_size": 16}


def random_masks(seed: int, slots: int) -> Masks:
    """Masks with operations without a slot, forbidden WAIT and single choices."""
    rng = np.random.default_rng(seed)
    by_op = rng.random((6, slots)) < 0.6
    by_op[0] = rng.random() < 0.8
    by_op[int(rng.integers(1, 6)), int(rng.integers(slots))] = True
    arguments = {}
    for head in ARGUMENT_HEADS:
        legal = rng.random(head_sizes(slots)[head]) < 0.6
        legal[int(rng.integers(len(legal)))] = True
        arguments[head] = legal
    return Masks(by_op, arguments)


def all_legal(slots: int) -> Masks:
    return Masks(np.ones((6, slots), bool), {h: np.ones(head_sizes(slots)[h], bool) for h in ARGUMENT_HEADS})


def mask_tensors(masks: Masks, slots: int, rows: int = 1) -> MaskTensors:
    return MaskTensors.from_vectors(torch.from_numpy(masks.vector())[None].expand(rows, -1), slots)


def random_logits(seed: int, slots: int, spread: float = 1.5, *, learn: bool = False) -> ActionLogits:
    """Logits of one state; if ``learn``, every table is a leaf with a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def table(*shape: int) -> torch.Tensor:
        return (spread * torch.randn(1, *shape, generator=generator)).requires_grad_(learn)

    sizes = head_sizes(slots)
    arguments = {head: table(len(OPS_OF_HEAD[head]), slots, sizes[head]) for head in ARGUMENT_HEADS}
    return ActionLogits(table(6), table(6, slots), arguments)


def repeated(logits: ActionLogits, rows: int) -> ActionLogits:
    arguments = {head: scores.expand(rows, -1, -1, -1) for head, scores in logits.arguments.items()}
    return ActionLogits(logits.op.expand(rows, -1), logits.slot.expand(rows, -1, -1), arguments)


def distribution_of(
    logits: ActionLogits, masks: Masks, slots: int, rows: int = 1, epsilon: float = 0.0
) -> ActionDistribution:
    return ActionDistribution(repeated(logits, rows), mask_tensors(masks, slots, rows), epsilon)


def conditional(scores: torch.Tensor, legal: Any, epsilon: float) -> list[float]:
    """Softmax over the legal choices mixed with a uniform distribution, in plain Python floats."""
    weights = [math.exp(s) if ok else 0.0 for s, ok in zip(scores.tolist(), legal, strict=True)]
    uniform = [float(ok) / sum(map(bool, legal)) for ok in legal]
    return [(1 - epsilon) * w / sum(weights) + epsilon * u for w, u in zip(weights, uniform, strict=True)]


def joint_by_hand(logits: ActionLogits, masks: Masks, epsilon: float = 0.0) -> dict[tuple[int, ...], float]:
    """Probability of every legal action as a product of conditionals; heads that are not read are 0."""
    joint: dict[tuple[int, ...], float] = {}
    op_probs = conditional(logits.op[0], masks.slot_by_op.any(axis=1), epsilon)
    for op, p_op in enumerate(op_probs):
        if p_op == 0.0:
            continue
        if op == 0:
            joint[(0,) * 8] = p_op
            continue
        for slot, p_slot in enumerate(conditional(logits.slot[0, op], masks.slot_by_op[op], epsilon)):
            if p_slot > 0.0:
                joint |= _arguments_by_hand(logits, masks, epsilon, (op, slot), p_op * p_slot)
    return joint


def _arguments_by_hand(
    logits: ActionLogits, masks: Masks, epsilon: float, at: tuple[int, int], mass: float
) -> dict[tuple[int, ...], float]:
    op, slot = at
    columns = []
    for head in ARGUMENT_HEADS:
        if head not in READS[op]:
            columns.append([(0, 1.0)])
            continue
        place = [o for o in range(6) if head in READS[o]].index(op)
        probs = conditional(logits.arguments[head][0, place, slot], masks.arguments[head], epsilon)
        columns.append([(i, p) for i, p in enumerate(probs) if p > 0.0])
    return {(op, slot, *(i for i, _ in choice)): mass * math.prod(p for _, p in choice) for choice in product(*columns)}


def every_canonical_action(slots: int) -> torch.Tensor:
    """All joint actions, legal or not, with 0 in the heads that are not read."""
    sizes = head_sizes(slots)
    rows = [(0,) * 8]
    for op in range(1, 6):
        ranges = [range(sizes[head]) if head in READS[op] else range(1) for head in HEADS[1:]]
        rows += [(op, *rest) for rest in product(*ranges)]
    return torch.tensor(rows)


def report(stage: Stage = Stage.TRAINING, slot: str = "r0c0", **changes: Any) -> SlotReport:
    """A seed at rest; keys that are not a field of the report belong to its measurements."""
    measured = {k: changes.pop(k) for k in list(changes) if k in SeedMeasurements.__slots__}
    fields: dict[str, Any] = {
        "slot_id": slot,
        "seed_id": f"{slot}-1",
        "blueprint": Blueprint.CONV_LIGHT,
        "stage": stage,
        "previous_stage": Stage.DORMANT,
        "ticks_in_stage": 3,
        "age": 9,
        "alpha": 1.0 if stage is Stage.HOLDING else 0.0,
        "alpha_mode": AlphaMode.HOLD,
        "alpha_target": 1.0,
        "alpha_velocity": 0.0,
        "ramp_total": 0,
        "ramp_done": 0,
        "operator": BlendOperator.ADD,
        "tempo": 3,
        "parameters": 24,
        "measured": SeedMeasurements(**measured),
    }
    return SlotReport(**(fields | changes))


def limits(slots: int, **changes: Any) -> Limits:
    fields: dict[str, Any] = {
        "slots": tuple(f"r0c{i}" for i in range(slots)),
        "blueprints": frozenset({Blueprint.CONV_LIGHT, Blueprint.NORM, Blueprint.DEPTHWISE, Blueprint.BOTTLENECK}),
        "styles": frozenset({GerminationStyle.LINEAR_ADD, GerminationStyle.SIGMOID_ADD}),
    }
    return Limits(**(fields | changes))


def view_of(
    *reports: SlotReport | None,
    epoch: int = 10,
    allowed: Limits | None = None,
    accuracies_pp: tuple[float, ...] = (55.0, 60.0),
) -> View:
    """View of a policy on slots with ``reports``."""
    signals = HostSignals(
        epoch=epoch,
        max_epochs=40,
        val_loss=1.5,
        val_accuracy_pp=accuracies_pp[-1],
        loss_history=(1.6, 1.5),
        accuracy_history_pp=accuracies_pp,
        last_op=0,
        last_success=True,
    )
    allowed = allowed or limits(len(reports))
    return View.build(signals, reports, legality(reports, allowed), allowed.places)

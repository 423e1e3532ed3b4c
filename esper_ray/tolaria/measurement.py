"""One pass over held-out images: loss, accuracy, and the accuracy of every coalition of seeds.

All coalitions see the same images at live amplitudes, so differences between them are paired.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.leyline.records import Coalition, Measurement
from esper_ray.tolaria.data import Dataset, Split

CHUNK = 512
"""Images per forward pass, before the batch branches."""
MAX_PLAYERS = 4
"""Most seeds whose coalitions are all measured."""


@torch.no_grad()
def measure(model: MorphogeneticModel, data: Dataset, split: Split) -> Measurement:
    """Measure ``model`` on ``split``. The model is left as it was.

    Players are the slots whose seeds change the output. What lies before the first of them is computed
    once; the batch then branches at each.

    Raises:
        ValueError: if there are more than :data:`MAX_PLAYERS` players.
    """
    players = frozenset(slot for slot in model.slot_ids if model.cell(slot).contributes)
    if len(players) > MAX_PLAYERS:
        raise ValueError(f"at most {MAX_PLAYERS} seeds can be measured exactly, got {len(players)}")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with model.branching(players) as order:
            losses, correct = _evaluate(model, data, split, 2 ** len(order))
    finally:
        for module, mode in modes:
            module.training = mode
    return _summarise(losses, correct, order, tuple(slot for slot in model.slot_ids if slot in players))


def _evaluate(model: MorphogeneticModel, data: Dataset, split: Split, blocks: int) -> tuple[Tensor, Tensor]:
    """(N,) losses of the full coalition and (blocks, N) correctness of all of them."""
    losses, correct = [], []
    for start in range(0, len(split), CHUNK):
        labels = split.labels[start : start + CHUNK]
        logits = model(data.normalised(split.images[start : start + CHUNK]))
        logits = logits.reshape(blocks, len(labels), -1)
        losses.append(cross_entropy(logits[-1], labels, reduction="none"))
        correct.append(logits.argmax(dim=2) == labels)
    return torch.cat(losses), torch.cat(correct, dim=1)


def _summarise(losses: Tensor, correct: Tensor, order: tuple[str, ...], players: tuple[str, ...]) -> Measurement:
    images = correct.shape[1]
    full = len(correct) - 1
    without = [full & ~(1 << i) for i in range(len(order))]
    deviations = [(correct[full].float() - correct[k].float()).std(correction=0) for k in without]
    numbers = torch.stack([losses.mean(), *correct.sum(dim=1).to(losses.dtype), *deviations]).tolist()
    loss, counts, spreads = numbers[0], numbers[1 : full + 2], numbers[full + 2 :]
    accuracies = [100.0 * count / images for count in counts]
    members = [frozenset(slot for i, slot in enumerate(order) if k >> i & 1) for k in range(full + 1)]
    return Measurement(
        loss=loss,
        accuracy_pp=accuracies[full],
        images=images,
        players=players,
        coalitions=tuple(map(Coalition, members, accuracies)) if players else (),
        errors_pp={slot: 100.0 * spread / images**0.5 for slot, spread in zip(order, spreads, strict=True)},
    )

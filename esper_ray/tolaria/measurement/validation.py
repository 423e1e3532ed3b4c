"""Validation pass: loss, accuracy, and the accuracies of seed coalitions.

All coalitions see the same examples at live amplitudes, so differences between them are paired.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.leyline.records import Coalition, Measurement
from esper_ray.tolaria.measurement.coalition_sampling import Chosen, chosen_coalitions

CoalitionChoice = Callable[[tuple[str, ...]], Chosen]
"""Function from the players, in row-major order, to the measured coalitions, the full one included."""

CHUNK = 512
"""Maximum number of examples per forward pass, before the batch forks."""
CHUNK_LOGITS = 2**25
"""Maximum number of output elements of a forward pass."""


class Examples(Protocol):
    """Interface of a data set for measurement."""

    classes: int

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    def prepared(self, split: Any, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples ``start`` to ``stop`` of ``split``."""


@torch.no_grad()
def measure(
    model: MorphogeneticModel,
    data: Examples,
    split: Any,
    choose: CoalitionChoice = chosen_coalitions,
    examples: int = 0,
) -> Measurement:
    """Measure ``model`` on ``split``. The model is not changed.

    Players are the slots whose seeds change the output. Shared prefixes of coalitions are computed once:
    see :meth:`~esper_ray.kasmina.model.MorphogeneticModel.branching`. There is one device synchronisation, and one more
    where the first pass of an unknown host with several coalitions is compared with single ones.

    Args:
        choose: selects the coalitions of the players.
        examples: number of examples, from the first; 0 for all.
    """
    players = tuple(slot for slot in model.slot_ids if model.cell(slot).contributes)
    all_players = frozenset(players)
    limit = min(examples or len(split), len(split))
    selection = choose(players)
    with evaluation_mode(model), model.branching(all_players, selection.coalitions) as members:
        loss, scores = _evaluate(model, data, split, limit, members.index(all_players), len(members))
    by_members = dict(zip(members, scores, strict=True))
    full = by_members[all_players]
    ordered = sorted(members, key=lambda coalition: (len(coalition), [players.index(p) for p in sorted(coalition)]))
    return Measurement(
        loss=loss,
        accuracy_pp=_percent(full),
        examples=limit,
        players=players,
        coalitions=tuple(Coalition(c, _percent(by_members[c]), by_members[c]) for c in ordered) if players else (),
        orders=selection.orders,
    )


def _evaluate(
    model: MorphogeneticModel, data: Examples, split: Any, limit: int, full: int, blocks: int
) -> tuple[float, NDArray[np.float32]]:
    """Mean loss of block ``full``, and (blocks, N) accuracy of each example."""
    losses: list[Tensor] = []
    scores: list[Tensor] = []
    chunk = _chunk(data, blocks)
    for start in range(0, limit, chunk):
        inputs, targets = data.prepared(split, start, min(start + chunk, limit))
        logits = model(inputs).unflatten(0, (blocks, -1))
        losses.append(cross_entropy(logits[full].flatten(0, -2), targets.flatten(), reduction="none"))
        right = (logits.argmax(dim=-1) == targets).float()
        scores.append(right.flatten(2).mean(dim=2) if right.dim() > 2 else right)
    loss = torch.cat(losses).mean()
    together = torch.cat([loss[None].float(), torch.cat(scores, dim=1).flatten()]).cpu().numpy()
    return float(together[0]), together[1:].reshape(blocks, limit)


def _chunk(data: Examples, blocks: int) -> int:
    """Examples per pass, so that the logits of all blocks stay within :data:`CHUNK_LOGITS`."""
    predictions = data.example_shape[0] if len(data.example_shape) == 1 else 1
    return max(1, min(CHUNK, CHUNK_LOGITS // (blocks * data.classes * predictions)))


def _percent(scores: NDArray[np.float32]) -> float:
    return 100.0 * float(scores.sum(dtype=np.float64)) / len(scores)

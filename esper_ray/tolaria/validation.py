"""Validation pass: loss, accuracy, and the accuracies of seed coalitions.

All coalitions see the same examples at live amplitudes, so differences between them are paired.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from esper_ray.kasmina.measurement.coalition_pass import CoalitionChoice, Evaluated, measure_coalitions
from esper_ray.kasmina.measurement.coalition_sampling import chosen_coalitions
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.passes.switching import switched
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.records import Measurement, Members

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

    @property
    def random_guess_loss(self) -> float:
        """Cross-entropy in nats of a uniform prediction."""

    def prepared(self, split: Any, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples ``start`` to ``stop`` of ``split``."""


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
    return measure_coalitions(model, SplitExamples.first(data, split, examples), choose)


@dataclass(frozen=True, slots=True)
class SplitExamples:
    """The first examples of a split of a data set."""

    data: Examples
    split: Any
    limit: int
    """Number of examples."""

    @classmethod
    def first(cls, data: Examples, split: Any, examples: int = 0) -> "SplitExamples":
        """The first ``examples`` of ``split``; 0 for all."""
        return cls(data, split, min(examples or len(split), len(split)))

    @property
    def random_guess_loss(self) -> float:
        """Cross-entropy in nats of a uniform prediction."""
        return self.data.random_guess_loss

    @property
    def chance_pp(self) -> float:
        """Accuracy of a uniform prediction."""
        return 100.0 / self.data.classes

    def evaluate(self, model: SlottedNetwork, players: Members, coalitions: Collection[Members]) -> Evaluated:
        with switched(model, players, coalitions) as members:
            full = members.index(players)
            loss, scores = _evaluate(model, self.data, self.split, self.limit, full, len(members))
        return Evaluated(loss, members, scores)


def _evaluate(
    model: SlottedNetwork, data: Examples, split: Any, limit: int, full: int, blocks: int
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

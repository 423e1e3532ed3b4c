"""Measurement of a network with its seeds on and off, on the same examples."""

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from esper_ray.kasmina.measurement.coalition_sampling import Chosen
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.records import Coalition, Measurement, Members

CoalitionChoice = Callable[[tuple[str, ...]], Chosen]
"""Function from the players, in row-major order, to the measured coalitions, the full one included."""


class Evaluated(NamedTuple):
    """Results of a pass over examples."""

    loss: float
    """Mean loss with every seed on."""
    members: tuple[Members, ...]
    """The coalition of each row of ``scores``."""
    scores: NDArray[np.float32]
    """(coalitions, N) score of each example, in [0, 1]."""


class Evaluation(Protocol):
    """Examples on which a network with some seeds on can be evaluated."""

    def evaluate(self, model: SlottedNetwork, players: Members, coalitions: Collection[Members]) -> Evaluated:
        """Results of each of ``coalitions`` of the seeds of ``players``. ``model`` is in evaluation mode."""


@torch.no_grad()
def measure_coalitions(model: SlottedNetwork, examples: Evaluation, choose: CoalitionChoice) -> Measurement:
    """Measurement of ``model`` on ``examples``. The model is not changed.

    Players are the slots whose seeds change the output.

    Args:
        choose: selects the coalitions of the players.
    """
    players = tuple(slot for slot in model.slot_ids if model.cell(slot).contributes)
    all_players = frozenset(players)
    selection = choose(players)
    with evaluation_mode(model):
        loss, members, scores = examples.evaluate(model, all_players, selection.coalitions)
    by_members = dict(zip(members, scores, strict=True))
    full = by_members[all_players]
    ordered = sorted(members, key=lambda coalition: (len(coalition), [players.index(p) for p in sorted(coalition)]))
    return Measurement(
        loss=loss,
        accuracy_pp=_percent(full),
        examples=len(full),
        players=players,
        coalitions=tuple(Coalition(c, _percent(by_members[c]), by_members[c]) for c in ordered) if players else (),
        orders=selection.orders,
    )


def _percent(scores: NDArray[np.float32]) -> float:
    return 100.0 * float(scores.sum(dtype=np.float64)) / len(scores)

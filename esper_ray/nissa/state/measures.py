"""Numbers that state, metrics, anomalies and viewers share."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from esper_ray.leyline.records import Record
from esper_ray.leyline.stages import Stage
from esper_ray.nissa.catalogue.metrics import GAMING
from esper_ray.nissa.state.episode import EpisodeState

ROLLING_ROUNDS = 10
"""Rounds of a rolling mean."""


def rolling_mean(values: Sequence[float | None]) -> float | None:
    """Mean of the newest ``ROLLING_ROUNDS`` values, missing ones left out.

    ``None`` without one.
    """
    numbers = [value for value in values[-ROLLING_ROUNDS:] if value is not None]
    return fmean(numbers) if numbers else None


def normalized_entropy(row: Record, head: str, choices: Mapping[str, int]) -> float | None:
    """Entropy of a head over that of a uniform choice.

    ``None`` if it was not measured, or the head has no choice.

    Args:
        row: a record of kind ``ppo_update`` or ``round``.
        choices: greatest number of legal choices, by head.
    """
    entropy, count = row.get(f"entropy_{head}"), choices.get(head, 0)
    return None if entropy is None or count < 2 else float(entropy) / math.log(count)


def occupied_stages(episodes: Iterable[EpisodeState]) -> Counter[Stage]:
    """Occupied slots of these episodes by stage."""
    return Counter(slot.stage for episode in episodes for slot in episode.slots.values())


def gaming_pattern(entry: Record) -> str | None:
    """Pattern of gaming that an entry charges for.

    ``None`` if it is another entry.
    """
    amount = entry["amount"]
    return GAMING.get(entry["source"]) if amount is not None and amount < 0 else None

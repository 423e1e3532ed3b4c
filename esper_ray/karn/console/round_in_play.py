"""The round that is being played, as a projection of the state of the run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from esper_ray.leyline.policy import Episode
from esper_ray.leyline.records import Record
from esper_ray.leyline.stages import Stage
from esper_ray.nissa.state.episode import EpisodeState
from esper_ray.nissa.state.run_state import RunState


@dataclass(frozen=True, slots=True)
class RoundSoFar:
    """Means over the finished episodes of the round in play.

    A number that was not measured is ``None``.
    """

    episode_return: float | None
    val_accuracy_pp: float | None
    growth_ratio: float | None
    fossilized: float
    operations: Mapping[str, int]
    """Counts by name."""


class RoundInPlay:
    """State of a run that its driver folds while it plays. It may be read from another thread."""

    def __init__(self, envs: int, rounds_done: int) -> None:
        """
        Args:
            envs: episodes of a round.
            rounds_done: rounds that were finished before.
        """
        self._envs, self.index = envs, rounds_done
        self.state = RunState()
        self._operations: Mapping[str, int] = {}
        """Operations before this round."""

    def add_samples(self, records: Iterable[Record]) -> None:
        """Add steps of episodes in play; other samples are passed over."""
        for record in records:
            if record["kind"] == "env_epoch":
                self.state = self.state.preview({**record, "round": record["episode"] // self._envs})

    def add_episode(self, episode: Episode) -> None:
        """Add the events of a finished episode."""
        index = episode.index // self._envs
        self.state = self.state.advance({**record, "round": index} for record in episode.log)

    def next_round(self, index: int) -> None:
        """Begin the round ``index``."""
        self.index, self._operations = index, self.state.totals.operations

    @property
    def steps(self) -> int:
        """Steps of this round, those of episodes in play included."""
        episodes = (*self.state.episodes.values(), *self.state.previews.values())
        steps = {episode.episode: episode.step for episode in episodes if self._belongs(episode)}
        return sum(steps.values())

    def so_far(self) -> RoundSoFar | None:
        """Means over the finished episodes of this round; ``None`` without one."""
        finished = [e for e in self.state.episodes.values() if e.finished and self._belongs(e)]
        if not finished:
            return None
        before, now = self._operations, self.state.totals.operations
        fossils = [sum(slot.stage is Stage.FOSSILIZED for slot in e.slots.values()) for e in finished]
        return RoundSoFar(
            episode_return=_mean([e.episode_return for e in finished]),
            val_accuracy_pp=_mean([e.val_accuracy_pp for e in finished]),
            growth_ratio=_mean([e.growth_ratio for e in finished]),
            fossilized=fmean(fossils),
            operations={name: count - before.get(name, 0) for name, count in now.items()},
        )

    def _belongs(self, episode: EpisodeState) -> bool:
        return episode.episode // self._envs == self.index


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return fmean(measured) if measured else None

"""Keeps episodes that are being played, so that whoever takes one over repeats a few steps at most. No Ray in here.

An episode has one file, which is replaced as it goes on and tells the whole of it at the end. Its name
holds the policy that plays it, so that nothing of another policy is ever gone on with.
"""

import logging
from dataclasses import dataclass

from esper_actors.rollout.recorder import Assignment, PartialEpisode, RecordingError, pack_episode, unpack
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.runs.storage import Storage, StorageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The policy that plays a round, and how much it explores."""

    round_index: int
    version: int
    """Rounds that it had learnt from."""
    digest: str
    """SHA-256 of its weights, in hexadecimal."""
    epsilon: float


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """Where and how often episodes are kept, as it travels to the actors."""

    place: str
    """Folder or URI."""
    every: int
    """Steps between two keepings; 0: only at the end."""

    def of(self, behaviour: Behaviour) -> "EpisodeSnapshots":
        """The snapshots of one round."""
        return EpisodeSnapshots(Storage(self.place), self.every, behaviour)

    def stamp(self, behaviour: Behaviour, assignment: Assignment) -> str | None:
        """Changes whenever the episode is kept anew; ``None`` if it is not there, or cannot be looked at."""
        try:
            return self.of(behaviour).stamp(assignment)
        except StorageError as error:
            logger.warning("%s", error)
            return None

    def forget_before(self, round_index: int) -> None:
        """Remove all episodes of earlier rounds. What cannot be removed stays."""
        storage = Storage(self.place)
        try:
            for name in storage.names():
                if name < _folder(round_index):
                    storage.remove(name)
        except StorageError as error:
            logger.warning("%s", error)


@dataclass(frozen=True, slots=True)
class EpisodeSnapshots:
    """The kept episodes of one round."""

    storage: Storage
    every: int
    behaviour: Behaviour

    def is_due(self, steps: int) -> bool:
        """Whether an episode of so many steps is to be kept now."""
        return self.every > 0 and steps % self.every == 0

    def load(self, assignment: Assignment) -> PartialEpisode | Episode | None:
        """As far as the episode has been kept. One that cannot be used is played again from its beginning."""
        try:
            blob = self.storage.read(self._name(assignment))
            return None if blob is None else unpack(blob, assignment)
        except (StorageError, RecordingError) as error:
            logger.warning("episode %d is played from its beginning: %s", assignment.index, error)
            return None

    def save(self, assignment: Assignment, blob: bytes) -> None:
        """Keep an episode as far as it goes. If that fails the episode goes on all the same."""
        try:
            self.storage.write(self._name(assignment), blob)
        except StorageError as error:
            logger.warning("%s", error)

    def save_finished(self, assignment: Assignment, episode: Episode) -> None:
        """Keep an episode that is over."""
        self.save(assignment, pack_episode(episode))

    def stamp(self, assignment: Assignment) -> str | None:
        """Changes whenever the episode is kept anew."""
        return self.storage.stamp(self._name(assignment))

    def _name(self, assignment: Assignment) -> str:
        policy = f"{self.behaviour.digest[:16]}-{self.behaviour.epsilon!r}"
        return f"{_folder(self.behaviour.round_index)}/episode-{assignment.index:07d}-{policy}"


def _folder(round_index: int) -> str:
    return f"round-{round_index:06d}"

"""Snapshots of unfinished episodes: a restarted worker resumes at most ``snapshot_every`` steps back.

An episode has one file, which every snapshot replaces; the last one holds the whole episode. The name of the
file contains the digest of the policy, so that no snapshot of another policy is ever resumed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from esper_actors.rollout.record_checks import RecordingError
from esper_actors.rollout.recorder import Assignment, PartialEpisode, pack_episode, unpack
from esper_ray.leyline.errors import Fault
from esper_ray.leyline.policy import Episode
from esper_ray.nissa.runs.copies.storage import Storage, StorageError

logger = logging.getLogger(__name__)


OnFault = Callable[[Fault], None]


def ignore(_: Fault) -> None:
    """Do nothing."""


def refused_snapshot(assignment: Assignment, error: Exception) -> Fault:
    """The fault of a snapshot that cannot be used, which is logged. Its episode begins again."""
    logger.warning("episode %d restarts from its beginning: %s", assignment.index, error)
    subject = f"environment {assignment.env}, episode {assignment.index}"
    return Fault("snapshot_refused", subject, f"the episode restarts from its beginning: {error}")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The policy that plays a round, and its exploration."""

    round_index: int
    version: int
    """Updates that the policy has had."""
    digest: str
    """SHA-256 of its weights, in hexadecimal."""
    epsilon: float


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """Where and how often episodes are saved. It is sent to the actors."""

    place: str = field(repr=False)
    """Folder or URI; it may hold credentials, which the actors need."""
    every: int
    """Steps between two snapshots; 0: only the finished episode is saved."""

    def for_round(self, behaviour: Behaviour) -> "EpisodeSnapshots":
        """The snapshots of one round."""
        return EpisodeSnapshots(Storage(self.place), self.every, behaviour)

    def stamp(self, behaviour: Behaviour, assignment: Assignment) -> str | None:
        """A value that changes with every snapshot. ``None`` if there is no snapshot or the storage fails."""
        try:
            return self.for_round(behaviour).stamp(assignment)
        except StorageError as error:
            logger.warning("%s", error)
            return None

    def remove_before(self, round_index: int) -> None:
        """Remove all snapshots of earlier rounds. A failure of the storage is logged."""
        storage = Storage(self.place)
        try:
            for name in storage.names():
                if name < _folder(round_index):
                    storage.remove(name)
        except StorageError as error:
            logger.warning("%s", error)


@dataclass(frozen=True, slots=True)
class EpisodeSnapshots:
    """The snapshots of one round."""

    storage: Storage
    every: int
    behaviour: Behaviour

    def is_due(self, steps: int) -> bool:
        """Whether an episode is due for a snapshot after ``steps`` steps."""
        return self.every > 0 and steps % self.every == 0

    def load(self, assignment: Assignment, on_fault: OnFault = ignore) -> PartialEpisode | Episode | None:
        """The newest usable snapshot of an episode, or ``None``.

        Args:
            on_fault: called with a snapshot that cannot be used, which is also logged.
        """
        try:
            blob = self.storage.read(self._name(assignment))
            return None if blob is None else unpack(blob, assignment)
        except (StorageError, RecordingError) as error:
            on_fault(refused_snapshot(assignment, error))
            return None

    def save(self, assignment: Assignment, blob: bytes) -> None:
        """Save an unfinished episode. A failure of the storage is logged; the episode continues."""
        try:
            self.storage.check_surroundings()  # a removed run directory is not made again
            self.storage.write(self._name(assignment), blob)
        except StorageError as error:
            logger.warning("%s", error)

    def save_finished(self, assignment: Assignment, episode: Episode) -> None:
        """Save a finished episode."""
        self.save(assignment, pack_episode(episode))

    def stamp(self, assignment: Assignment) -> str | None:
        """A value that changes with every snapshot."""
        return self.storage.stamp(self._name(assignment))

    def _name(self, assignment: Assignment) -> str:
        policy = f"{self.behaviour.digest[:16]}-{self.behaviour.epsilon!r}"
        return f"{_folder(self.behaviour.round_index)}/episode-{assignment.index:07d}-{policy}"


def _folder(round_index: int) -> str:
    return f"round-{round_index:06d}"

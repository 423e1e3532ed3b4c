"""What a policy sees, and what it answers: the seam between decisions and everything else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.actions import Action
from esper_ray.leyline.legality import Masks
from esper_ray.leyline.observation import blueprint_indices, observe
from esper_ray.leyline.records import HostSignals, Reports


@dataclass(frozen=True, slots=True)
class View:
    """Everything about one state that a policy may look at."""

    features: NDArray[np.float32]
    """Obs V3, see :mod:`esper_ray.leyline.observation`."""
    blueprints: NDArray[np.int64]
    """(slots,) blueprint indices, -1 where empty."""
    masks: Masks
    reports: Reports
    signals: HostSignals

    @classmethod
    def of(cls, signals: HostSignals, reports: Reports, masks: Masks) -> "View":
        """What there is to see of a host and its slots.

        Raises:
            ValueError: if a measurement is not finite; the message names it.
        """
        return cls(observe(signals, reports), blueprint_indices(reports), masks, reports, signals)


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer, drawn once. Log-probabilities in nats, values in units of reward."""

    action: Action
    log_prob_op: float = 0.0
    log_prob_arguments: float = 0.0
    """Of slot and arguments given the operation."""
    value: float = 0.0
    """V(s)."""
    q_taken: float = 0.0
    """Q(s, operation taken)."""
    reason: str = ""
    op_probabilities: tuple[float, ...] = ()
    """(6,) of the operations, 0 for what is illegal; empty where nothing was drawn."""
    op_values: tuple[float, ...] = ()
    """(6,) Q of the operations, whether legal or not; empty where nothing is known."""


class Policy(Protocol):
    """Decides step by step. One object plays one episode at a time."""

    def begin_episode(self, seed: int) -> None:
        """Forget the last episode; whatever is drawn in the next one comes from ``seed``."""

    def decide(self, view: View) -> Decision:
        """The decision in ``view``; always a legal one."""


@runtime_checkable
class ResumablePolicy(Policy, Protocol):
    """A policy that can be saved in the middle of an episode and gone on with elsewhere."""

    def save_state(self) -> dict[str, NDArray[Any]]:
        """Memory and random numbers, by name. Not the weights."""

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on as the policy that was saved would have.

        Raises:
            ValueError: if ``state`` is of another kind of policy; it is as it was then.
        """


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode as a learner needs it. T steps, D features, S slots, L mask entries."""

    features: NDArray[np.float32]
    """(T, D)"""
    blueprints: NDArray[np.int64]
    """(T, S)"""
    masks: NDArray[np.int8]
    """(T, L), see ``Masks.vector``."""
    actions: NDArray[np.int64]
    """(T, 8)"""
    log_prob_op: NDArray[np.float32]
    """(T,)"""
    log_prob_arguments: NDArray[np.float32]
    """(T,)"""
    values: NDArray[np.float32]
    """(T,)"""
    q_taken: NDArray[np.float32]
    """(T,)"""
    rewards: NDArray[np.float64]
    """(T,), each amount at the step that caused it."""
    bootstrap: float
    """Value of what follows the last step; 0 if nothing does, as at the end of an episode."""
    terminated: bool

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode: what the learner learns from, what happened, and how it ended."""

    index: int
    """Number of the episode within the run."""
    env: int
    seed: int
    trajectory: Trajectory
    log: tuple[dict[str, Any], ...]
    """Records for the event log, in order."""
    total_reward: float
    val_accuracy_pp: float
    committed_accuracy_pp: float
    growth_ratio: float
    """Parameters of host and seeds at the end over those of the host."""
    operations: dict[str, int]
    """How often each operation was carried out."""
    fossilised: int
    refused: int
    """Legal commands that a gate turned down."""
    rollback: bool

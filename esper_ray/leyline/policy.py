"""Interface of policies: view, decision, trajectory and episode."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from esper_ray.leyline.actions import Action
from esper_ray.leyline.context import SlotPlace, context_of
from esper_ray.leyline.legality import Masks
from esper_ray.leyline.observation import blueprint_indices, observe
from esper_ray.leyline.records import HostSignals, Reports

STORED_NAMES: Mapping[str, str] = {"fossilized": "fossilised"}
"""Attributes whose keys and columns in files are spelled otherwise, with the spelling in files."""


def stored_name(attribute: str) -> str:
    """Key or column of ``attribute`` in files."""
    return STORED_NAMES.get(attribute, attribute)


def attribute_of(name: str) -> str:
    """Attribute that has the key or column ``name`` in files."""
    return next((attribute for attribute, stored in STORED_NAMES.items() if stored == name), name)


@dataclass(frozen=True, slots=True)
class View:
    """One state as policies see it."""

    features: NDArray[np.float32]
    """Obs V3, see :mod:`esper_ray.leyline.observation`."""
    blueprints: NDArray[np.int64]
    """(slots,) blueprint indices, -1 where empty."""
    context: NDArray[np.float32]
    """(slots, K) numbers of each slot, empty or not, see :mod:`esper_ray.leyline.context`."""
    masks: Masks
    reports: Reports
    signals: HostSignals

    @classmethod
    def build(cls, signals: HostSignals, reports: Reports, masks: Masks, places: Sequence[SlotPlace] = ()) -> "View":
        """The view of a host and its slots.

        Args:
            places: where each slot sits; empty if it is not known.

        Raises:
            ValueError: if a measurement is not finite; the message names it.
        """
        context = context_of(places, len(reports))
        return cls(observe(signals, reports), blueprint_indices(reports), context, masks, reports, signals)


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """Choice of one head of the action, given the heads before it."""

    choice: int
    probability: float
    entropy: float
    """Entropy of the head in nats."""
    legal: int
    """Number of legal choices."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision of a policy, sampled once.

    Log-probabilities in nats; values in units of reward, relative to the offset of rewards.
    """

    action: Action
    log_prob_op: float = 0.0
    log_prob_arguments: float = 0.0
    """Log-probability of slot and arguments given the operation."""
    value: float = 0.0
    """V(s)."""
    q_taken: float = 0.0
    """Q(s, operation taken)."""
    reason: str = ""
    op_probabilities: tuple[float, ...] = ()
    """(6,) probabilities of the operations, 0 if illegal; empty if the policy does not sample."""
    op_values: tuple[float, ...] = ()
    """(6,) Q of the operations, legal or not; empty if the policy has no critic."""
    heads: Callable[[], Mapping[str, HeadChoice]] = field(default=dict, compare=False, repr=False)
    """Computes the choices of the heads in use, by name; none if the policy does not sample."""


class Policy(Protocol):
    """Policy that decides step by step, for one episode at a time."""

    def begin_episode(self, seed: int) -> None:
        """Reset the memory of the last episode. Samples of the next episode are a function of ``seed``."""

    def decide(self, view: View) -> Decision:
        """A legal decision in ``view``."""


@runtime_checkable
class ResumablePolicy(Policy, Protocol):
    """Policy that can be saved in the middle of an episode and resumed elsewhere."""

    def save_state(self) -> dict[str, NDArray[Any]]:
        """Memory and state of the random stream, by name, without the weights."""

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Resume from ``state``: later decisions equal those of the saved policy.

        Raises:
            ValueError: if ``state`` is of another kind of policy; this policy is unchanged then.
        """


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Learner's record of one episode: T steps, D features, S slots, K numbers of context, L mask entries."""

    features: NDArray[np.float32]
    """(T, D)"""
    blueprints: NDArray[np.int64]
    """(T, S)"""
    context: NDArray[np.float32]
    """(T, S, K)"""
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
    """(T,) rewards, each amount at the step that caused it."""
    bootstrap: float
    """Value of the state after the last step; 0 at the end of an episode."""
    terminated: bool

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, slots=True)
class Episode:
    """Finished episode: trajectory, event records and final figures."""

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
    """Number of executions of each operation."""
    fossilized: int
    refused: int
    """Legal commands that a gate refused."""
    rollback: bool

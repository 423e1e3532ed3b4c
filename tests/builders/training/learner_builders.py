"""Configurations, scripted policies and synthetic episodes for the tests of actors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from esper_actors.training.learner.batches import padded_batch
from esper_actors.training.learner.ppo import PPOLearner
from esper_policies.network import state_value
from esper_ray.leyline.actions import ARGUMENT_HEADS, HEADS_OF_OP, LifecycleOp, head_sizes
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.context import CONTEXT_SIZE
from esper_ray.leyline.legality import Masks
from esper_ray.leyline.observation import BASE_SIZE, SLOT_SIZE, observation_size
from esper_ray.leyline.policy import Decision, Episode, Trajectory, View
from esper_ray.simic.normalisation import ReturnStatistics
from esper_ray.simic.running_moments import Moments

SMALL = {
    "name": "small",
    "episode_length": 3,
    "task.validation_size": 50,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "policy.memory_size": 16,
    "policy.feature_size": 16,
    "system.envs": 2,
    "system.envs_per_actor": 1,
    "ppo.rounds": 3,
    "ppo.epochs": 2,
    "ppo.epsilon_start": 0.0,
}


def small_config(**changes: Any) -> RunConfig:
    """A run of seconds; ``ppo__lr=1`` sets ``ppo.lr``."""
    return build(read_preset("digits"), SMALL | {key.replace("__", "."): value for key, value in changes.items()})


class Scripted:
    """Policy that plays decisions from a list and records its views."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.decisions = list(decisions)
        self.begun: list[int] = []
        self.decided: list[View] = []

    def begin_episode(self, seed: int) -> None:
        self.begun.append(seed)
        self.decided = []

    def decide(self, view: View) -> Decision:
        self.decided.append(view)
        return self.decisions[len(self.decided) - 1]


def open_masks(slots: int) -> Masks:
    return Masks(np.ones((6, slots), bool), {h: np.ones(head_sizes(slots)[h], bool) for h in ARGUMENT_HEADS})


def synthetic(
    steps: int, rewards: Sequence[float], seed: int = 0, slots: int = 2, masks: Masks | None = None
) -> Episode:
    """An episode of random occupied slots in which everything is legal; its actions are to be sampled.

    The amplitude of the last slot is 1, that of the others -1: a policy distinguishes slots by their state alone.
    """
    rng = np.random.default_rng(seed)
    features = rng.uniform(-1, 1, (steps, observation_size(slots))).astype(np.float32)
    features[:, BASE_SIZE::SLOT_SIZE] = 1.0
    features[:, BASE_SIZE + 11 :: SLOT_SIZE] = -1.0
    features[:, BASE_SIZE + 11 + (slots - 1) * SLOT_SIZE] = 1.0
    zeros = np.zeros(steps, np.float32)
    trajectory = Trajectory(
        features=features,
        blueprints=rng.integers(0, 13, (steps, slots)),
        context=np.repeat(np.random.default_rng([seed, 1]).random((1, slots, CONTEXT_SIZE), np.float32), steps, axis=0),
        masks=np.repeat((masks or open_masks(slots)).vector()[None], steps, axis=0),
        actions=np.zeros((steps, 8), np.int64),
        log_prob_op=zeros,
        log_prob_arguments=zeros,
        values=zeros,
        q_taken=zeros,
        rewards=np.asarray(rewards, np.float64),
        bootstrap=0.0,
        terminated=True,
    )
    return Episode(seed, 0, seed, trajectory, (), float(np.sum(rewards)), 50.0, 40.0, 1.0, {}, 0, 0, False)


def changed(episode: Episode, **fields: Any) -> Episode:
    """The episode with parts of its trajectory replaced."""
    return replace(episode, trajectory=replace(episode.trajectory, **fields))


def cut(episode: Episode, steps: int) -> Episode:
    """The first ``steps`` steps."""
    arrays = {name: getattr(episode.trajectory, name) for name in Trajectory.__slots__}
    return changed(episode, **{k: v[:steps] for k, v in arrays.items() if isinstance(v, np.ndarray)})


def canonical(rows: np.ndarray) -> np.ndarray:
    """Actions with 0 in every head that their operation does not read."""
    heads = ("op", "slot", *ARGUMENT_HEADS)
    reads = [[head in HEADS_OF_OP[LifecycleOp(op)] for head in heads] for op in rows[:, 0]]
    return np.where(reads, rows, 0)


def behaved(learner: PPOLearner, episode: Episode, actions: Sequence[Sequence[int]], epsilon: float = 0.0) -> Episode:
    """The episode with ``actions`` and their outputs of the learner's present policy."""
    replayed = changed(episode, actions=canonical(np.asarray(actions, np.int64)))
    batch = padded_batch([replayed], learner.device)
    with torch.no_grad():
        distribution, op, arguments, q_taken, output = learner._evaluate(batch, epsilon)
        values = learner.network.values(state_value(distribution.op, output.q))
        q_taken = learner.network.values(q_taken)
    return changed(
        replayed,
        log_prob_op=op.numpy(),
        log_prob_arguments=arguments.numpy(),
        values=values.numpy(),
        q_taken=q_taken.numpy(),
    )


def drawn(learner: PPOLearner, episode: Episode, seed: int) -> Episode:
    """The episode with actions sampled from the learner's present policy."""
    with torch.no_grad():
        distribution, *_ = learner._evaluate(padded_batch([episode], learner.device), 0.0)
    actions = distribution.sample(torch.Generator().manual_seed(seed)).actions.numpy()
    return behaved(learner, episode, actions)


def with_returns(learner: PPOLearner, mean: float = 0.0, spread: float = 1.0) -> PPOLearner:
    """The learner after one return of ``mean`` with this ``spread``, and rewards without an offset."""
    moments = Moments(1.0, np.array([mean]), np.array([spread**2]))
    learner.returns = ReturnStatistics(0.0, moments)
    learner.network.renormalise_values(mean, spread)
    return learner


def tensors_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

"""Batches of whole episodes for the learner, padded to one length. B episodes, T steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from esper_policies.distribution import MaskTensors
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.observation import BOUND
from esper_ray.leyline.policy import Episode, Trajectory
from esper_ray.simic.normalisation import EpisodeRewards, ReturnStatistics

LARGEST_AMOUNT = 1e12
"""Largest reward or value, in units of reward. Squares of returns beyond it overflow in single precision."""


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Episodes padded to one length. B episodes, T steps."""

    features: Tensor
    blueprints: Tensor
    context: Tensor
    masks: Tensor
    actions: Tensor
    """(B, T, 8)"""
    log_prob_op: Tensor
    log_prob_arguments: Tensor
    values: Tensor
    q_taken: Tensor
    rewards: Tensor
    bootstrap: Tensor
    """(B,)"""
    valid_mask: Tensor
    """(B, T) 1 for real steps, 0 for padding; weight of the value loss."""
    choice_mask: Tensor
    """(B, T) 1 where more than one operation was legal; weight of the operation's policy loss."""
    argument_mask: Tensor
    """(B, T) 1 where the operation has arguments; weight of the arguments' policy loss."""

    def rows(self, episodes: Tensor) -> "PaddedBatch":
        """The batch of the given episodes."""
        return PaddedBatch(**{name: getattr(self, name)[episodes] for name in PaddedBatch.__slots__})


def padded_batch(episodes: Sequence[Episode], device: torch.device) -> PaddedBatch:
    """A padded batch of ``episodes``. Padding repeats the last step, so that every row has a legal choice."""
    length = max(len(episode.trajectory) for episode in episodes)

    def pack(name: str, dtype: torch.dtype) -> Tensor:
        rows = [torch.from_numpy(getattr(episode.trajectory, name)).to(dtype) for episode in episodes]
        full = [torch.cat([row, row[-1:].expand(length - len(row), *row.shape[1:])]) for row in rows]
        return torch.stack(full).to(device)

    lengths = torch.tensor([len(episode.trajectory) for episode in episodes], device=device)
    valid_mask = (torch.arange(length, device=device) < lengths[:, None]).float()
    masks, actions = pack("masks", torch.int8), pack("actions", torch.int64)
    slots = episodes[0].trajectory.blueprints.shape[1]
    choices = MaskTensors.from_vectors(masks.flatten(0, 1), slots).op.sum(dim=-1).reshape(valid_mask.shape)
    return PaddedBatch(
        features=pack("features", torch.float32),
        blueprints=pack("blueprints", torch.int64),
        context=pack("context", torch.float32),
        masks=masks,
        actions=actions,
        log_prob_op=pack("log_prob_op", torch.float32),
        log_prob_arguments=pack("log_prob_arguments", torch.float32),
        values=pack("values", torch.float32),
        q_taken=pack("q_taken", torch.float32),
        rewards=pack("rewards", torch.float32) * valid_mask,
        bootstrap=torch.tensor([e.trajectory.bootstrap for e in episodes], dtype=torch.float32, device=device),
        valid_mask=valid_mask,
        choice_mask=valid_mask * (choices > 1),
        argument_mask=valid_mask * (actions[..., 0] != LifecycleOp.WAIT),
    )


def is_usable(trajectory: Trajectory) -> bool:
    """Whether a trajectory has only finite numbers.

    Features and context are at most ``BOUND`` in size, rewards and values at most :data:`LARGEST_AMOUNT`.
    """
    amounts = (trajectory.rewards, trajectory.values, trajectory.q_taken, np.asarray(trajectory.bootstrap))
    others = (trajectory.log_prob_op, trajectory.log_prob_arguments)
    bounded = all(bool((np.abs(numbers) <= LARGEST_AMOUNT).all()) for numbers in amounts)  # NaN is not
    bounded &= all(bool((np.abs(seen) <= BOUND).all()) for seen in (trajectory.features, trajectory.context))
    return bounded and all(bool(np.isfinite(numbers).all()) for numbers in others)


def episode_rewards(episode: Episode, episode_length: int) -> EpisodeRewards:
    """Rewards, cut-off steps and end value of an episode.

    Args:
        episode_length: steps of an episode that nothing ends early.
    """
    trajectory = episode.trajectory
    missing = max(0, episode_length - len(trajectory)) if trajectory.terminated else 0
    return EpisodeRewards(trajectory.rewards, missing, trajectory.bootstrap)


def centred_episode(episode: Episode, statistics: ReturnStatistics, gamma: float, episode_length: int) -> Episode:
    """The episode with centred rewards, see :meth:`ReturnStatistics.centred`."""
    centred = statistics.centred(episode_rewards(episode, episode_length), gamma)
    return replace(episode, trajectory=replace(episode.trajectory, rewards=centred.rewards, bootstrap=centred.end))

"""The PPO learner: policy network, optimizer and running statistics.

One update computes returns and advantages once, from centred rewards and the stored values of the behaviour policy.
Several passes over whole episodes in minibatches follow. Each episode is unrolled through the LSTM from an empty
memory, and ratios are taken against the stored log-probabilities. Observation statistics change after the update only,
so that a round is played and learned from with the same normalizer.

Weights, optimizer and statistics stay finite whatever a round contains. An episode is not used, nor are the minibatches
that it is in, if it has a number that is not finite, a feature beyond ``BOUND``, or a reward or value above
``LARGEST_AMOUNT``. A minibatch with a loss or a gradient that is not finite is skipped. Both are counted as skipped
minibatches.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper_actors.training.learner.batches import (
    PaddedBatch,
    centred_episode,
    episode_rewards,
    is_usable,
    padded_batch,
)
from esper_actors.training.learner.diagnostics import (
    ROUND_DIAGNOSTICS,
    choice_summary,
    head_norms,
    mean_report,
    state_rms,
    value_summary,
)
from esper_actors.training.learner.gradients import backward_apart
from esper_actors.training.learner.state import ADAM, MOMENTS, NETWORK, LearnerState, moments_of
from esper_policies.distribution import ActionDistribution, MaskTensors
from esper_policies.network import PolicyNetwork, PolicyOutput
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.config.run import PPOConfig, RunConfig
from esper_ray.leyline.observation import BASE_SIZE, SLOT_SIZE
from esper_ray.leyline.policy import Episode
from esper_ray.simic import ppo
from esper_ray.simic.advantages import argument_advantages, generalised_advantages, standardised
from esper_ray.simic.normalisation import ReturnStatistics
from esper_ray.simic.running_moments import Moments
from esper_ray.tolaria.assembly import derived_seed

POLICY_INIT, MINIBATCH_ORDER = 101, 102
"""Keys of the learner's random streams."""
KL_TOLERANCE = 1.5
LOW_VARIANCE = 1e-4
"""Variance of a round's returns, over that of all returns so far, up to which explained variance is meaningless.

At this bound the returns spread over a hundredth of the critic's unit. A critic that misses each of them by as much
has a value loss of 5e-5, as good as none, and yet explains nothing of their variance.
"""


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of the losses, computed once per update; (B, T) each."""

    op: Tensor
    """Standardised advantage of the operation over V(s)."""
    arguments: Tensor
    """Standardised advantage of slot and arguments over Q(s, op)."""
    returns: Tensor
    """Of centred rewards, in units of reward."""
    raw: Tensor
    """Advantage of the operation, in units of reward."""


@dataclass(slots=True)
class Losses:
    """Losses of a minibatch, and the forward pass behind them."""

    policy: Tensor
    """() surrogate loss minus entropy bonus."""
    value: Tensor
    """() loss of the critic with its coefficient."""
    output: PolicyOutput
    report: dict[str, float]
    """Terms and diagnostics by name."""

    @property
    def finite(self) -> bool:
        """Whether every term is finite."""
        return all(map(math.isfinite, self.report.values()))


@dataclass(slots=True)
class OptimizerSteps:
    """The optimizer steps of an update."""

    reports: list[dict[str, float]] = field(default_factory=list)
    """Terms and diagnostics of each step."""
    skipped: int = 0
    """Minibatches that were not finite."""
    stopped: bool = False
    """Whether the KL limit ended the update early."""


def exploration_share(settings: PPOConfig, round_index: int) -> float:
    """Share of uniform choices in a round, annealed linearly to zero."""
    span = settings.epsilon_fraction * settings.schedule_length
    return settings.epsilon_start * max(0.0, 1.0 - round_index / span) if span > 0 else 0.0


def entropy_coefficient(settings: PPOConfig, round_index: int) -> float:
    """Weight of the entropy bonus in a round, linear from start to end, then constant."""
    return _linear(settings.entropy_start, settings.entropy_end, settings, round_index)


def learning_rate(settings: PPOConfig, round_index: int) -> float:
    """Learning rate in a round, linear from start to end, then constant."""
    return settings.lr if settings.lr_end is None else _linear(settings.lr, settings.lr_end, settings, round_index)


def _linear(start: float, end: float, settings: PPOConfig, round_index: int) -> float:
    share = min(1.0, round_index / max(1, settings.schedule_length - 1))
    return start + (end - start) * share


class PPOLearner:
    """The learner: policy network, Adam optimizer and running statistics."""

    def __init__(self, config: RunConfig, device: str | None = None) -> None:
        """
        Args:
            device: overrides the device of the configuration, for processes that number GPUs differently.
        """
        self.config = config
        self.device = torch.device(device or config.system.device)
        with seeded_initialisation(derived_seed(config.seed, POLICY_INIT)):
            self.network = PolicyNetwork(config.policy).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.ppo.lr, eps=1e-5, fused=True)
        self.base_moments, self.slot_moments = Moments.none(BASE_SIZE), Moments.none(SLOT_SIZE)
        self.returns = ReturnStatistics()
        self.network.forget_values()
        self.updates = 0

    def update(self, episodes: Sequence[Episode], round_index: int) -> dict[str, float]:
        """Learn from one round; diagnostics by name."""
        epsilon = exploration_share(self.config.ppo, round_index)
        entropy_weight = entropy_coefficient(self.config.ppo, round_index)
        usable = [row for row, episode in enumerate(episodes) if is_usable(episode.trajectory)]
        self._learn_returns([episodes[row] for row in usable])
        played = [self._centred(episodes[row]) for row in usable]
        batch = padded_batch(played, self.device) if played else None
        targets = None if batch is None else self._targets(batch)
        positions = torch.full((len(episodes),), -1, device=self.device)
        positions[usable] = torch.arange(len(usable), device=self.device)
        rate = learning_rate(self.config.ppo, round_index)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        passes = OptimizerSteps()
        for rows in self._minibatches(len(episodes)):
            places = positions[rows]
            if batch is None or targets is None or bool((places < 0).any()):
                passes.skipped += 1
            elif not self._step(batch.rows(places), _rows(targets, places), epsilon, entropy_weight, passes):
                break
        self.updates += 1
        summary = mean_report(passes.reports) | self._round_summary(batch, targets, epsilon)
        summary["observation_drift_sigma"] = math.nan if batch is None else self._learn_observations(batch)
        return summary | {
            "learning_rate": rate,
            "optimizer_steps": len(passes.reports),
            "skipped_minibatches": passes.skipped,
            "stopped_by_kl": float(passes.stopped),
            "epsilon": epsilon,
            "entropy_coefficient": entropy_weight,
        }

    def _step(
        self, batch: PaddedBatch, targets: Targets, epsilon: float, entropy_weight: float, passes: OptimizerSteps
    ) -> bool:
        """Take one optimizer step, unless the minibatch is not finite; whether the update continues."""
        settings = self.config.ppo
        losses = self._losses(batch, targets, epsilon, entropy_weight)
        if not losses.finite:
            passes.skipped += 1
            return True
        if losses.report["kl"] > KL_TOLERANCE * settings.target_kl:
            passes.stopped = True
            return False
        norms = backward_apart(self.network, losses.output, losses.policy, losses.value, settings.grad_clip)
        largest = norms.losses.tolist()
        if all(map(math.isfinite, largest)):
            self.optimizer.step()
            passes.reports.append(losses.report | {"grad_norm": max(largest)} | head_norms(norms))
        else:
            passes.skipped += 1
        return True

    def state(self) -> LearnerState:
        """A copy of everything that learns or counts, on the CPU."""
        tensors = {
            f"{NETWORK}{name}": tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()
        }
        for name, parameter in self.network.named_parameters():
            state = moments_of(parameter, self.optimizer.state.get(parameter, {}))
            tensors |= {f"{ADAM}{name}.{key}": value for key, value in state.items()}
        numbers: dict[str, Any] = {"updates": self.updates, "reward_offset": self.returns.offset}
        statistics = {"base": self.base_moments, "slot": self.slot_moments, "return": self.returns.moments}
        for name, moments in statistics.items():
            numbers[f"{name}_moments"] = [moments.count, moments.mean.tolist(), moments.squares.tolist()]
        return LearnerState(tensors, numbers)

    def load(self, state: LearnerState) -> None:
        """Replace weights, optimizer state and statistics by those of ``state``.

        Raises:
            LearnerStateError: if a name, a shape, a type or a number is not that of such a learner; nothing is
                replaced then.
        """
        state.check(self.config.policy)
        saved = self.optimizer.state_dict()
        names = [name for name, _ in self.network.named_parameters()]
        saved["state"] = {
            index: {key: state.tensors[f"{ADAM}{name}.{key}"].clone() for key in ("step", *MOMENTS)}
            for index, name in enumerate(names)
        }
        self.network.load_state_dict(state.weights())
        self.optimizer.load_state_dict(saved)
        self.updates = state.numbers["updates"]
        self.base_moments, self.slot_moments = state.moments("base"), state.moments("slot")
        self.returns = state.returns()

    def weights(self) -> dict[str, Tensor]:
        """Tensors of the policy network on the CPU: weights, normalizer, mean and scale of values."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def _targets(self, batch: PaddedBatch) -> Targets:
        gamma, lam = self.config.gamma, self.config.ppo.gae_lambda
        raw = generalised_advantages(batch.rewards, batch.values, batch.bootstrap, batch.valid_mask, gamma, lam)
        returns = raw + batch.values
        arguments, spread = argument_advantages(returns, batch.q_taken), self.returns.spread
        op = standardised(raw, batch.choice_mask, spread)
        return Targets(op, standardised(arguments, batch.argument_mask, spread), returns, raw)

    def _learn_returns(self, episodes: Sequence[Episode]) -> None:
        """Adapt mean and unit of the critic to all returns so far. Episodes count in the order of their numbers."""
        ordered = sorted(episodes, key=lambda episode: episode.index)
        rewards = [episode_rewards(episode, self.config.episode_length) for episode in ordered]
        self.returns = self.returns.learned(rewards, self.config.gamma)
        self.network.renormalise_values(self.returns.mean, self.returns.spread)

    def _centred(self, episode: Episode) -> Episode:
        return centred_episode(episode, self.returns, self.config.gamma, self.config.episode_length)

    def _minibatches(self, episodes: int) -> Iterator[Tensor]:
        settings = self.config.ppo
        key = derived_seed(self.config.seed, MINIBATCH_ORDER, self.updates)
        generator = torch.Generator().manual_seed(key)
        for _ in range(settings.epochs):
            order = torch.randperm(episodes, generator=generator).to(self.device)
            yield from torch.split(order, settings.minibatch_episodes)

    def _evaluate(
        self, batch: PaddedBatch, epsilon: float
    ) -> tuple[ActionDistribution, Tensor, Tensor, Tensor, PolicyOutput]:
        """Distribution, new log-probabilities of operation and arguments, Q(s, op taken), and the network's output.

        The log-probabilities and Q are (B * T,) each, Q in normalised units.
        """
        output: PolicyOutput = self.network(batch.features, batch.blueprints, batch.context)
        slots = batch.blueprints.shape[-1]
        masks = MaskTensors.from_vectors(batch.masks.flatten(0, 1), slots)
        distribution = ActionDistribution(output.logits, masks, epsilon)
        actions = batch.actions.flatten(0, 1)
        log_prob_op, log_prob_arguments = distribution.log_probs(actions)
        q_taken = output.q.gather(1, actions[:, :1]).squeeze(1)
        return distribution, log_prob_op, log_prob_arguments, q_taken, output

    def _losses(self, batch: PaddedBatch, targets: Targets, epsilon: float, entropy_weight: float) -> Losses:
        settings = self.config.ppo
        distribution, log_prob_op, log_prob_arguments, q_taken, output = self._evaluate(batch, epsilon)
        valid_mask, choice_mask, argument_mask = (
            w.flatten() for w in (batch.valid_mask, batch.choice_mask, batch.argument_mask)
        )
        ratio_op = log_prob_op - batch.log_prob_op.flatten()
        ratio_arguments = log_prob_arguments - batch.log_prob_arguments.flatten()
        count = choice_mask.sum()
        terms = {
            "policy_loss": ppo.clipped_policy_loss(ratio_op, targets.op.flatten(), choice_mask, settings.clip, count)
            + ppo.clipped_policy_loss(
                ratio_arguments, targets.arguments.flatten(), argument_mask, settings.clip, count
            ),
            "value_loss": ppo.value_loss(
                q_taken, self.network.normalised_values(targets.returns.flatten()), valid_mask
            ),
            "entropy": ppo.weighted_mean(distribution.entropy(), choice_mask),
        }
        with torch.no_grad():
            log_ratio = ratio_op + ratio_arguments
            terms["kl"] = ppo.approximate_kl(log_ratio, valid_mask)
            terms["clip_share"] = ppo.clip_share(log_ratio, choice_mask, settings.clip)
            terms |= ppo.ratio_extremes(log_ratio, choice_mask, settings.clip)
        bonus = terms["entropy"]
        if settings.entropy_bonus == "per_head":
            bonus = ppo.weighted_mean(distribution.evenness(), choice_mask)
        report = dict(zip(terms, torch.stack([term.detach() for term in terms.values()]).tolist(), strict=True))
        policy = terms["policy_loss"] - entropy_weight * bonus
        return Losses(policy, settings.value_coefficient * terms["value_loss"], output, report)

    def _round_summary(self, batch: PaddedBatch | None, targets: Targets | None, epsilon: float) -> dict[str, float]:
        """Diagnostics of the round's episodes under the updated policy; NaN if unmeasured."""
        if batch is None or targets is None:
            return dict.fromkeys(ROUND_DIAGNOSTICS, math.nan) | {"low_variance": 0.0}
        with torch.no_grad():
            distribution, *_, output = self._evaluate(batch, epsilon)
            clipped_share = self.network.normaliser.clipped_share(batch.features[batch.valid_mask > 0])
        summary = value_summary(batch, targets.returns, targets.raw, LOW_VARIANCE * self.returns.spread**2)
        summary |= choice_summary(batch, distribution) | {"observation_clipped_share": clipped_share}
        return summary | {"memory_rms": state_rms(batch, output.state)}

    def _learn_observations(self, batch: PaddedBatch) -> float:
        """Merge the observations of this round into the normalizer, for the next round.

        Returns:
            Root mean square shift of its means, in its new deviations.
        """
        before = self.network.normaliser.means().clone()
        rows = batch.features[batch.valid_mask > 0].double().cpu().numpy()
        slots = rows[:, BASE_SIZE:].reshape(-1, SLOT_SIZE)
        self.base_moments = self.base_moments.merged(rows[:, :BASE_SIZE])
        self.slot_moments = self.slot_moments.merged(slots[slots[:, 0] > 0])
        self.network.normaliser.set_statistics(
            np.stack([self.base_moments.mean, self.base_moments.deviation]),
            np.stack([self.slot_moments.mean, self.slot_moments.deviation]),
        )
        return self.network.normaliser.shift_since(before)


def _rows(targets: Targets, rows: Tensor) -> Targets:
    return Targets(targets.op[rows], targets.arguments[rows], targets.returns[rows], targets.raw[rows])

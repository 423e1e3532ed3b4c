"""The learner as a plain object: episodes in, a better policy out. No Ray in here.

One update: returns and advantages once from the behaviour policy's own values, then several passes
over whole episodes in minibatches, each unrolled through the LSTM from an empty memory, against the
log-probabilities that were stored when the actions were drawn. Observation statistics change only
after the update, so a round is played and learnt from with the same numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from esper_policies.distribution import ActionDistribution, MaskTensors
from esper_policies.network import PolicyNetwork
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.actions import HEADS, LifecycleOp
from esper_ray.leyline.config.run import PPOConfig, RunConfig
from esper_ray.leyline.observation import BASE_SIZE, SLOT_SIZE
from esper_ray.leyline.policy import Episode
from esper_ray.simic import ppo
from esper_ray.simic.advantages import argument_advantages, generalised_advantages, standardised
from esper_ray.simic.normalisation import ReturnScale
from esper_ray.simic.running_moments import Moments
from esper_ray.tolaria.assembly import derived_seed

POLICY_INIT, MINIBATCH_ORDER = 101, 102
"""Keys of the learner's random streams."""
KL_TOLERANCE = 1.5
LOW_VARIANCE = 1e-4
"""Variance of a round's returns, in squared units of the critic, below which explained variance says nothing.

At this bound the returns spread over a hundredth of a unit. A critic that misses each of them by as much has a value
loss of 5e-5, as good as none, and yet explains nothing of their variance.
"""


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Episodes padded to one length. B episodes, T steps."""

    features: Tensor
    blueprints: Tensor
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
    played: Tensor
    """(B, T) 1 for real steps, 0 for padding; the weight of the critic."""
    chosen: Tensor
    """(B, T) 1 where there was more than one legal operation; the weight of the operation."""
    acted: Tensor
    """(B, T) 1 where the operation has arguments; their weight."""

    def rows(self, episodes: Tensor) -> "PaddedBatch":
        """The given episodes."""
        return PaddedBatch(**{name: getattr(self, name)[episodes] for name in PaddedBatch.__slots__})


def padded_batch(episodes: Sequence[Episode], device: torch.device) -> PaddedBatch:
    """Pack ``episodes``; padding repeats the last step's masks, so that no row is without a legal choice."""
    length = max(len(episode.trajectory) for episode in episodes)

    def pack(name: str, dtype: torch.dtype) -> Tensor:
        rows = [torch.from_numpy(getattr(episode.trajectory, name)).to(dtype) for episode in episodes]
        full = [torch.cat([row, row[-1:].expand(length - len(row), *row.shape[1:])]) for row in rows]
        return torch.stack(full).to(device)

    lengths = torch.tensor([len(episode.trajectory) for episode in episodes], device=device)
    played = (torch.arange(length, device=device) < lengths[:, None]).float()
    masks, actions = pack("masks", torch.int8), pack("actions", torch.int64)
    slots = episodes[0].trajectory.blueprints.shape[1]
    choices = MaskTensors.from_vectors(masks.flatten(0, 1), slots).op.sum(dim=-1).reshape(played.shape)
    return PaddedBatch(
        features=pack("features", torch.float32),
        blueprints=pack("blueprints", torch.int64),
        masks=masks,
        actions=actions,
        log_prob_op=pack("log_prob_op", torch.float32),
        log_prob_arguments=pack("log_prob_arguments", torch.float32),
        values=pack("values", torch.float32),
        q_taken=pack("q_taken", torch.float32),
        rewards=pack("rewards", torch.float32) * played,
        bootstrap=torch.tensor([e.trajectory.bootstrap for e in episodes], dtype=torch.float32, device=device),
        played=played,
        chosen=played * (choices > 1),
        acted=played * (actions[..., 0] != LifecycleOp.WAIT),
    )


@dataclass(frozen=True, slots=True)
class Targets:
    """What the losses aim at, computed once per update; (B, T) each."""

    op: Tensor
    """Standardised advantage of the operation over V(s)."""
    arguments: Tensor
    """Standardised advantage of slot and arguments over Q(s, op)."""
    returns: Tensor
    """In units of reward."""


@dataclass(slots=True)
class LearnerState:
    """Everything that learns or counts, as tensors by name and plain numbers."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """What a policy needs to act: weights, normaliser and value scale."""
        prefix = "network."
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def exploration_share(settings: PPOConfig, round_index: int) -> float:
    """Share of uniform choices in a round: linear from its start to zero."""
    span = settings.epsilon_fraction * settings.rounds
    return settings.epsilon_start * max(0.0, 1.0 - round_index / span) if span > 0 else 0.0


def entropy_coefficient(settings: PPOConfig, round_index: int) -> float:
    """Weight of the entropy bonus in a round: linear from start to end."""
    share = min(1.0, round_index / max(1, settings.rounds - 1))
    return settings.entropy_start + (settings.entropy_end - settings.entropy_start) * share


class PPOLearner:
    """Policy network, optimiser and running statistics."""

    def __init__(self, config: RunConfig, device: str | None = None) -> None:
        """
        Args:
            device: where to learn, if it is called otherwise here than in the configuration.
        """
        self.config = config
        self.device = torch.device(device or config.system.device)
        with seeded_initialisation(derived_seed(config.seed, POLICY_INIT)):
            self.network = PolicyNetwork(config.policy).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.ppo.lr, eps=1e-5, fused=True)
        self.base_moments, self.slot_moments = Moments.none(BASE_SIZE), Moments.none(SLOT_SIZE)
        self.return_scale = ReturnScale()
        self.updates = 0

    def update(self, episodes: Sequence[Episode], round_index: int) -> dict[str, float]:
        """Learn from one round; diagnostics by name.

        Raises:
            FloatingPointError: if a term of the loss is not finite; the message names it, and no step
                has been taken with it.
        """
        batch = padded_batch(episodes, self.device)
        targets = self._targets(batch)
        if not bool(torch.isfinite(targets.returns).all()):
            raise FloatingPointError("PPO returns are not finite: a reward or a stored value is broken")
        unit = float(self.network.value_scale)
        self._rescale_values(episodes)
        epsilon = exploration_share(self.config.ppo, round_index)
        entropy_weight = entropy_coefficient(self.config.ppo, round_index)
        reports: list[dict[str, float]] = []
        stopped = False
        for rows in self._minibatches(len(episodes)):
            report, loss = self._losses(batch.rows(rows), _rows(targets, rows), epsilon, entropy_weight)
            stopped = report["kl"] > KL_TOLERANCE * self.config.ppo.target_kl
            if stopped:
                break
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = clip_grad_norm_(self.network.parameters(), self.config.ppo.grad_clip, error_if_nonfinite=True)
            self.optimizer.step()
            reports.append(report | {"grad_norm": float(norm)})
        self.updates += 1
        summary = self._summary(batch, targets, reports, epsilon, unit)
        self._learn_statistics(batch)
        return summary | {
            "optimizer_steps": len(reports),
            "stopped_by_kl": float(stopped),
            "epsilon": epsilon,
            "entropy_coefficient": entropy_weight,
        }

    def state(self) -> LearnerState:
        """A copy of everything that learns or counts, on the CPU."""
        names = [name for name, _ in self.network.named_parameters()]
        tensors = {
            f"network.{name}": tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()
        }
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{names[index]}.{key}": value.detach().cpu().clone() for key, value in slots.items()}
        numbers: dict[str, Any] = {"updates": self.updates}
        kept = {"base": self.base_moments, "slot": self.slot_moments, "return": self.return_scale.moments}
        for name, moments in kept.items():
            numbers[f"{name}_moments"] = [moments.count, moments.mean.tolist(), moments.squares.tolist()]
        return LearnerState(tensors, numbers)

    def load(self, state: LearnerState) -> None:
        """Continue from ``state``."""
        self.network.load_state_dict(state.weights())
        saved = self.optimizer.state_dict()
        saved["state"] = {}
        for index, (name, _) in enumerate(self.network.named_parameters()):
            keys = ("step", "exp_avg", "exp_avg_sq")
            if f"adam.{name}.step" in state.tensors:
                saved["state"][index] = {key: state.tensors[f"adam.{name}.{key}"].clone() for key in keys}
        self.optimizer.load_state_dict(saved)
        self.updates = int(state.numbers["updates"])
        base, slot, returns = (_moments(state.numbers[f"{name}_moments"]) for name in ("base", "slot", "return"))
        self.base_moments, self.slot_moments, self.return_scale = base, slot, ReturnScale(returns)

    def weights(self) -> dict[str, Tensor]:
        """What a policy needs to act: weights, normaliser and value scale, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def _targets(self, batch: PaddedBatch) -> Targets:
        gamma, lam = self.config.gamma, self.config.ppo.gae_lambda
        raw = generalised_advantages(batch.rewards, batch.values, batch.bootstrap, batch.played, gamma, lam)
        returns = raw + batch.values
        arguments = argument_advantages(returns, batch.q_taken)
        return Targets(standardised(raw, batch.chosen), standardised(arguments, batch.acted), returns)

    def _rescale_values(self, episodes: Sequence[Episode]) -> None:
        """Let the critic's unit follow the spread of all returns seen so far, whoever played them in which order."""
        ordered = sorted(episodes, key=lambda episode: episode.index)
        rewards = [episode.trajectory.rewards for episode in ordered]
        self.return_scale = self.return_scale.learned(rewards, self.config.gamma)
        self.network.rescale_values(self.return_scale.unit)

    def _minibatches(self, episodes: int) -> Iterator[Tensor]:
        settings = self.config.ppo
        key = derived_seed(self.config.seed, MINIBATCH_ORDER, self.updates)
        generator = torch.Generator().manual_seed(key)
        for _ in range(settings.epochs):
            order = torch.randperm(episodes, generator=generator).to(self.device)
            yield from torch.split(order, settings.minibatch_episodes)

    def _evaluate(self, batch: PaddedBatch, epsilon: float) -> tuple[ActionDistribution, Tensor, Tensor, Tensor]:
        """Distribution, new log-probabilities of operation and arguments, and Q(s, op taken); (B * T,) each."""
        output = self.network(batch.features, batch.blueprints)
        slots = batch.blueprints.shape[-1]
        masks = MaskTensors.from_vectors(batch.masks.flatten(0, 1), slots)
        distribution = ActionDistribution(output.logits, masks, epsilon)
        actions = batch.actions.flatten(0, 1)
        log_prob_op, log_prob_arguments = distribution.log_probs(actions)
        q_taken = output.q.gather(1, actions[:, :1]).squeeze(1)
        return distribution, log_prob_op, log_prob_arguments, q_taken

    def _losses(
        self, batch: PaddedBatch, targets: Targets, epsilon: float, entropy_weight: float
    ) -> tuple[dict[str, float], Tensor]:
        settings = self.config.ppo
        distribution, log_prob_op, log_prob_arguments, q_taken = self._evaluate(batch, epsilon)
        played, chosen, acted = (w.flatten() for w in (batch.played, batch.chosen, batch.acted))
        ratio_op = log_prob_op - batch.log_prob_op.flatten()
        ratio_arguments = log_prob_arguments - batch.log_prob_arguments.flatten()
        count = chosen.sum()
        terms = {
            "policy_loss": ppo.clipped_policy_loss(ratio_op, targets.op.flatten(), chosen, settings.clip, count)
            + ppo.clipped_policy_loss(ratio_arguments, targets.arguments.flatten(), acted, settings.clip, count),
            "value_loss": ppo.value_loss(q_taken, targets.returns.flatten() / self.network.value_scale, played),
            "entropy": ppo.weighted_mean(distribution.entropy(), chosen),
        }
        loss = (
            terms["policy_loss"] + settings.value_coefficient * terms["value_loss"] - entropy_weight * terms["entropy"]
        )
        with torch.no_grad():
            terms["kl"] = ppo.approximate_kl(ratio_op + ratio_arguments, played)
            terms["clip_share"] = ppo.clip_share(ratio_op + ratio_arguments, chosen, settings.clip)
        report = dict(zip(terms, torch.stack([term.detach() for term in terms.values()]).tolist(), strict=True))
        broken = [f"{name} = {value}" for name, value in report.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(f"PPO loss is not finite: {', '.join(broken)}")
        return report, loss

    def _summary(
        self, batch: PaddedBatch, targets: Targets, reports: list[dict[str, float]], epsilon: float, unit: float
    ) -> dict[str, float]:
        """Diagnostics by name.

        Args:
            unit: of value, in which the round was played and its values were predicted.
        """
        names = ("policy_loss", "value_loss", "entropy", "kl", "clip_share", "grad_norm")
        summary = {name: float(np.mean([r[name] for r in reports])) if reports else math.nan for name in names}
        explained, spread = ppo.explained_variance(batch.values, targets.returns, batch.played)
        summary |= {"explained_variance": float(explained), "return_variance": float(spread)}
        summary["low_variance"] = float(summary["return_variance"] < LOW_VARIANCE * unit**2)
        with torch.no_grad():
            distribution, *_ = self._evaluate(batch, epsilon)
            found = distribution.head_entropies(batch.actions.flatten(0, 1))
        played = batch.played.flatten()
        for head in HEADS:
            entropy, open_ = found[head]
            weight = played * open_
            summary[f"entropy_{head}"] = float(ppo.weighted_mean(entropy, weight)) if weight.any() else math.nan
        return summary

    def _learn_statistics(self, batch: PaddedBatch) -> None:
        """Fold this round's observations into the normaliser; it counts from the next round on."""
        rows = batch.features[batch.played > 0].double().cpu().numpy()
        slots = rows[:, BASE_SIZE:].reshape(-1, SLOT_SIZE)
        self.base_moments = self.base_moments.merged(rows[:, :BASE_SIZE])
        self.slot_moments = self.slot_moments.merged(slots[slots[:, 0] > 0])
        self.network.normaliser.set_statistics(
            np.stack([self.base_moments.mean, self.base_moments.deviation]),
            np.stack([self.slot_moments.mean, self.slot_moments.deviation]),
        )


def _moments(saved: Sequence[Any]) -> Moments:
    count, mean, squares = saved
    return Moments(count, np.asarray(mean), np.asarray(squares))


def _rows(targets: Targets, rows: Tensor) -> Targets:
    return Targets(targets.op[rows], targets.arguments[rows], targets.returns[rows])

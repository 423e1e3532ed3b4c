"""The loss and the running statistics of our PPO learner in RLlib's PPO.

RLlib's own loss has one ratio and one advantage for a whole action. Here the operation has the advantage over V(s), and
slot and arguments that over Q(s, operation taken), each with a ratio of its own. Shapes: B episodes, T steps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.learner import GeneralAdvantageEstimation
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from torch import Tensor

from esper_actors.rllib.module import NETWORK_OUTPUT, Q_VALUES, FactoredDistribution
from esper_actors.training.learner.batches import LARGEST_AMOUNT
from esper_actors.training.learner.gradients import backward_apart
from esper_actors.training.learner.ppo import KL_TOLERANCE
from esper_policies.network import PolicyNetwork, PolicyOutput
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.observation import BASE_SIZE, SLOT_SIZE
from esper_ray.simic import ppo
from esper_ray.simic.advantages import argument_advantages, generalised_advantages, standardised
from esper_ray.simic.normalisation import EpisodeRewards, ReturnStatistics
from esper_ray.simic.running_moments import Moments

OP_ADVANTAGES, ARGUMENT_ADVANTAGES, RETURNS = "op_advantages", "argument_advantages", "returns"
"""Columns that are added to a batch, (B, T) each; returns of centred rewards, in units of reward."""
EVENNESS = "evenness"
"""Term of a loss: mean of :meth:`FactoredDistribution.evenness`."""
STATISTICS = "statistics"
"""Key of the running statistics in the state of a learner."""
REWARD_OFFSET = "reward_offset"
"""Key of the offset of rewards in the state of a learner."""


class BatchPreparation(ConnectorV2):
    """The last connector of the learner, which calls ``prepare`` on the finished batch."""

    def __init__(self, prepare: Callable[[dict[str, Any], Sequence[Any]], None]) -> None:
        super().__init__()
        self._prepare = prepare

    def __call__(self, *, rl_module: Any, batch: dict[str, Any], episodes: list[Any], **kwargs: Any) -> dict[str, Any]:
        self._prepare(batch[DEFAULT_MODULE_ID], episodes)
        return batch


class FactoredPPOLearner(PPOTorchLearner):
    """RLlib's PPO learner with our loss, KL stop and running statistics.

    They are those of :class:`esper_actors.training.learner.ppo.PPOLearner`.
    """

    def build(self) -> None:
        """Build the learner with its running statistics.

        Raises:
            ValueError: if there is more than one learner; their statistics would part, and with them their networks.
        """
        if self.config.num_learners > 1:
            raise ValueError(f"our loss runs in one learner, got num_learners={self.config.num_learners}")
        super().build()
        self.base_moments, self.slot_moments = Moments.none(BASE_SIZE), Moments.none(SLOT_SIZE)
        self.returns = ReturnStatistics()
        self._network.forget_values()
        self._seen = torch.zeros(0)
        self._stopped = self._broken = False
        self._skipped = self._unused = 0
        self._losses: tuple[PolicyOutput, Tensor, Tensor] | None = None
        self._learner_connector.remove(GeneralAdvantageEstimation)
        self._learner_connector.append(BatchPreparation(self.prepare))

    @property
    def _network(self) -> PolicyNetwork:
        network: PolicyNetwork = self.module[DEFAULT_MODULE_ID].unwrapped().network
        return network

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam as our learner has it; RLlib's has another epsilon and no setting for it."""
        parameters = self.get_parameters(self.module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(parameters, lr=config.lr, eps=1e-5, fused=True),
            params=parameters,
            lr_or_lr_schedule=config.lr,
        )

    def prepare(self, columns: dict[str, Any], episodes: Sequence[Any]) -> None:
        """Update mean and unit of the critic, and add the targets of the loss.

        The targets are computed with the weights of the rollout. Episodes with a reward that is not finite, or above
        ``LARGEST_AMOUNT``, get no weight in any loss.
        """
        module, valid_mask = self.module[DEFAULT_MODULE_ID].unwrapped(), columns[Columns.LOSS_MASK].float()
        credited = rewards_by_cause(columns[Columns.REWARDS], episodes)
        usable = (credited.abs() <= LARGEST_AMOUNT).all(dim=1)  # NaN is not
        self._unused = int((~usable).sum())
        valid_mask = valid_mask * usable[:, None]
        columns[Columns.LOSS_MASK] = valid_mask > 0
        rewards = [
            EpisodeRewards(row[valid > 0].cpu().numpy(), missing_steps(episode, int(valid.sum())))
            for row, valid, episode in zip(credited, valid_mask, episodes, strict=True)
        ]
        gamma = self.config.gamma
        self.returns = self.returns.learned([each for each in rewards if len(each.rewards)], gamma)
        centred = [self.returns.centred(each, gamma) for each in rewards]
        for row, each in zip(credited.zero_(), centred, strict=True):
            row[: len(each.rewards)] = torch.from_numpy(each.rewards)
        columns[Columns.REWARDS] = credited.float()
        ends = torch.tensor([each.end for each in centred], dtype=torch.float32, device=credited.device)
        columns |= targets(module, columns, ends, self.config, self.returns.spread)
        self._network.renormalise_values(self.returns.mean, self.returns.spread)
        self._seen = columns[Columns.OBS]["features"][valid_mask > 0]

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._stopped, self._skipped = False, 0

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        terms = loss_terms(batch, fwd_out, config.clip_param, self._network)
        report = {name: float(term.detach()) for name, term in terms.items()}
        self._broken = not all(map(math.isfinite, report.values()))
        self._stopped |= not self._broken and report["kl"] > KL_TOLERANCE * config.kl_target
        entropy_weight = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        per_head = config.learner_config_dict.get("entropy_bonus") == "per_head"
        bonus = terms[EVENNESS if per_head else ENTROPY_KEY]
        policy: Tensor = terms[POLICY_LOSS_KEY] - entropy_weight * bonus
        value: Tensor = config.vf_loss_coeff * terms[VF_LOSS_KEY]
        self._losses = fwd_out[NETWORK_OUTPUT], policy, value
        self.metrics.log_dict(report | {"stopped_by_kl": float(self._stopped)}, key=module_id, window=1)
        return policy + value

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        """Gradients of policy and critic, clipped apart as those of our learner."""
        assert self._losses is not None
        output, policy, value = self._losses
        norms = backward_apart(self._network, output, policy, value, self.config.grad_clip).losses
        self._broken |= not bool(norms.isfinite().all())
        return {reference: parameter.grad for reference, parameter in self._params.items()}

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: dict[Any, Tensor]
    ) -> dict[Any, Tensor]:
        """The gradients as they are; RLlib would clip those of policy and critic together."""
        return module_gradients_dict

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Step the optimizer, unless the KL stop has triggered or the minibatch is not finite.

        RLlib would put zeros for gradients that are not finite.
        """
        if self._broken:
            self._skipped += 1
        elif not self._stopped:
            super().apply_gradients(gradients_dict)

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Merge the observations of the round into the normalizer, for the next round."""
        super().after_gradient_based_update(timesteps=timesteps)
        counts = {"skipped_minibatches": self._skipped, "unused_episodes": self._unused}
        self.metrics.log_dict(counts, key=DEFAULT_MODULE_ID, window=1)
        rows = self._seen.double().cpu().numpy()
        slots = rows[:, BASE_SIZE:].reshape(-1, SLOT_SIZE)
        self.base_moments = self.base_moments.merged(rows[:, :BASE_SIZE])
        self.slot_moments = self.slot_moments.merged(slots[slots[:, 0] > 0])
        self._network.normaliser.set_statistics(
            np.stack([self.base_moments.mean, self.base_moments.deviation]),
            np.stack([self.slot_moments.mean, self.slot_moments.deviation]),
        )

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(STATISTICS, components, not_components):
            statistics = {"base": self.base_moments, "slot": self.slot_moments, "return": self.returns.moments}
            state[STATISTICS] = {name: (m.count, m.mean.tolist(), m.squares.tolist()) for name, m in statistics.items()}
            state[REWARD_OFFSET] = self.returns.offset
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if STATISTICS in state:
            statistics = {
                name: Moments(count, np.asarray(mean), np.asarray(squares))
                for name, (count, mean, squares) in state[STATISTICS].items()
            }
            self.base_moments, self.slot_moments = statistics["base"], statistics["slot"]
            self.returns = ReturnStatistics(state[REWARD_OFFSET], statistics["return"])


def rewards_by_cause(rewards: Tensor, episodes: Sequence[Any]) -> Tensor:
    """(B, T) double-precision rewards of whole episodes, each amount at the step that caused it.

    Raises:
        ValueError: if an episode takes more than one row.
    """
    if len(rewards) != len(episodes):
        raise ValueError(f"{len(episodes)} episodes in {len(rewards)} rows: max_seq_len is less than a row needs")
    credited = rewards.double()
    for row, episode in zip(credited, episodes, strict=True):
        amounts = episode.get_infos(-1).get("rewards_by_cause")
        if amounts is not None and episode.t_started == 0:
            steps = min(len(amounts), len(row))
            row[:steps] = torch.tensor(amounts[:steps], dtype=row.dtype)
    return credited


def missing_steps(episode: Any, steps: int) -> int:
    """Steps that an early end has cut off a ``WholeEpisodes`` episode with ``steps`` steps."""
    amounts = episode.get_infos(-1).get("rewards_by_cause")
    return 0 if amounts is None else max(0, len(amounts) - steps)


@torch.no_grad()
def targets(module: Any, columns: dict[str, Any], ends: Tensor, config: Any, spread: float) -> dict[str, Tensor]:
    """Targets of the loss under the behaviour policy, from centred rewards.

    Args:
        ends: (B,) values of the states after the last steps of terminated episodes.
        spread: standard deviation of returns.
    """
    valid_mask, actions = columns[Columns.LOSS_MASK].float(), columns[Columns.ACTIONS].long()
    output = module.forward_train(columns)
    values = output[Columns.EMBEDDINGS]
    q_taken = output[Q_VALUES].gather(2, actions[..., :1]).squeeze(2)
    q_taken = module.network.values(q_taken)
    ended = columns[Columns.TERMINATEDS].bool().any(dim=1)
    beyond = values.gather(1, valid_mask.sum(dim=1, keepdim=True).long().clamp(max=values.shape[1] - 1)).squeeze(1)
    bootstrap = torch.where(ended, ends, beyond)
    rewards = columns[Columns.REWARDS] * valid_mask
    raw = generalised_advantages(rewards, values, bootstrap, valid_mask, config.gamma, config.lambda_)
    choice_mask, argument_mask = loss_masks(
        valid_mask, actions, FactoredDistribution.from_logits(output[Columns.ACTION_DIST_INPUTS])
    )
    returns = raw + values
    return {
        OP_ADVANTAGES: standardised(raw, choice_mask, spread),
        ARGUMENT_ADVANTAGES: standardised(argument_advantages(returns, q_taken), argument_mask, spread),
        RETURNS: returns,
    }


def loss_masks(valid_mask: Tensor, actions: Tensor, distribution: FactoredDistribution) -> tuple[Tensor, Tensor]:
    """(B, T) masks of operations with a choice, and of operations with arguments."""
    return valid_mask * (distribution.choices() > 1), valid_mask * (actions[..., 0] != LifecycleOp.WAIT)


def loss_terms(batch: dict[str, Any], output: dict[str, Any], clip: float, network: PolicyNetwork) -> dict[str, Tensor]:
    """The terms of the loss by RLlib's names, and two diagnostics.

    Args:
        output: output of the module for the batch.
    """
    valid_mask, actions = batch[Columns.LOSS_MASK].float(), batch[Columns.ACTIONS].long()
    now = FactoredDistribution.from_logits(output[Columns.ACTION_DIST_INPUTS])
    with torch.no_grad():
        then = FactoredDistribution.from_logits(batch[Columns.ACTION_DIST_INPUTS]).split_logp(actions)
    ratio_op, ratio_arguments = (new - old for new, old in zip(now.split_logp(actions), then, strict=True))
    choice_mask, argument_mask = loss_masks(valid_mask, actions, now)
    q_taken = output[Q_VALUES].gather(2, actions[..., :1]).squeeze(2)
    count = choice_mask.sum()
    with torch.no_grad():
        kl = ppo.approximate_kl(ratio_op + ratio_arguments, valid_mask)
        share = ppo.clip_share(ratio_op + ratio_arguments, choice_mask, clip)
    return {
        POLICY_LOSS_KEY: ppo.clipped_policy_loss(ratio_op, batch[OP_ADVANTAGES], choice_mask, clip, count)
        + ppo.clipped_policy_loss(ratio_arguments, batch[ARGUMENT_ADVANTAGES], argument_mask, clip, count),
        VF_LOSS_KEY: ppo.value_loss(q_taken, network.normalised_values(batch[RETURNS]), valid_mask),
        ENTROPY_KEY: ppo.weighted_mean(now.entropy(), choice_mask),
        EVENNESS: ppo.weighted_mean(now.evenness(), choice_mask),
        "kl": kl,
        "clip_share": share,
    }

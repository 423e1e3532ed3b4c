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

from esper_actors.rllib.module import Q_VALUES, FactoredDistribution
from esper_actors.training.ppo_learner import KL_TOLERANCE
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.observation import BASE_SIZE, SLOT_SIZE
from esper_ray.simic import ppo
from esper_ray.simic.advantages import argument_advantages, generalised_advantages, standardised
from esper_ray.simic.normalisation import ReturnScale
from esper_ray.simic.running_moments import Moments

OP_ADVANTAGES, ARGUMENT_ADVANTAGES, RETURNS = "op_advantages", "argument_advantages", "returns"
"""Columns that are added to a batch, (B, T) each; returns in units of reward."""
STATISTICS = "statistics"
"""Key of the running statistics in the state of a learner."""


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

    They are those of :class:`esper_actors.training.ppo_learner.PPOLearner`.
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
        self.return_scale = ReturnScale()
        self._seen = torch.zeros(0)
        self._stopped = False
        self._learner_connector.remove(GeneralAdvantageEstimation)
        self._learner_connector.append(BatchPreparation(self.prepare))

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
        """Add the targets of the loss, then update the unit of the critic.

        The targets are computed with the weights of the rollout.

        Raises:
            FloatingPointError: if a return is not finite.
        """
        module, valid_mask = self.module[DEFAULT_MODULE_ID].unwrapped(), columns[Columns.LOSS_MASK].float()
        columns[Columns.REWARDS] = rewards_by_cause(columns[Columns.REWARDS], episodes)
        columns |= targets(module, columns, self.config.gamma, self.config.lambda_)
        if not bool(torch.isfinite(columns[RETURNS][valid_mask > 0]).all()):
            raise FloatingPointError("PPO returns are not finite: a reward or a predicted value is broken")
        rows = columns[Columns.REWARDS].double().cpu().numpy()
        rewards = [row[:length] for row, length in zip(rows, valid_mask.sum(dim=1).int().tolist(), strict=True)]
        self.return_scale = self.return_scale.learned(rewards, self.config.gamma)
        module.network.rescale_values(self.return_scale.unit)
        self._seen = columns[Columns.OBS]["features"][valid_mask > 0]

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._stopped = False

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Step the optimiser, unless the KL stop of this update has triggered."""
        if not self._stopped:
            super().apply_gradients(gradients_dict)

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """
        Raises:
            FloatingPointError: if a term of the loss is not finite. RLlib would put zeros for gradients that are not.
        """
        scale = self.module[module_id].unwrapped().network.value_scale
        terms = loss_terms(batch, fwd_out, config.clip_param, scale)
        report = {name: float(term.detach()) for name, term in terms.items()}
        broken = [f"{name} = {value}" for name, value in report.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(f"PPO loss is not finite: {', '.join(broken)}")
        self._stopped |= report["kl"] > KL_TOLERANCE * config.kl_target
        entropy_weight = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        loss: Tensor = (
            terms[POLICY_LOSS_KEY] + config.vf_loss_coeff * terms[VF_LOSS_KEY] - entropy_weight * terms[ENTROPY_KEY]
        )
        self.metrics.log_dict(report | {"stopped_by_kl": float(self._stopped)}, key=module_id, window=1)
        return loss

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Merge the observations of the round into the normaliser, for the next round."""
        super().after_gradient_based_update(timesteps=timesteps)
        rows = self._seen.double().cpu().numpy()
        slots = rows[:, BASE_SIZE:].reshape(-1, SLOT_SIZE)
        self.base_moments = self.base_moments.merged(rows[:, :BASE_SIZE])
        self.slot_moments = self.slot_moments.merged(slots[slots[:, 0] > 0])
        self.module[DEFAULT_MODULE_ID].unwrapped().network.normaliser.set_statistics(
            np.stack([self.base_moments.mean, self.base_moments.deviation]),
            np.stack([self.slot_moments.mean, self.slot_moments.deviation]),
        )

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(STATISTICS, components, not_components):
            statistics = {"base": self.base_moments, "slot": self.slot_moments, "return": self.return_scale.moments}
            state[STATISTICS] = {name: (m.count, m.mean.tolist(), m.squares.tolist()) for name, m in statistics.items()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if STATISTICS in state:
            statistics = {
                name: Moments(count, np.asarray(mean), np.asarray(squares))
                for name, (count, mean, squares) in state[STATISTICS].items()
            }
            self.base_moments, self.slot_moments = statistics["base"], statistics["slot"]
            self.return_scale = ReturnScale(statistics["return"])


def rewards_by_cause(rewards: Tensor, episodes: Sequence[Any]) -> Tensor:
    """(B, T) rewards with each amount at the step that caused it, for whole episodes.

    Raises:
        ValueError: if an episode takes more than one row.
    """
    if len(rewards) != len(episodes):
        raise ValueError(f"{len(episodes)} episodes in {len(rewards)} rows: max_seq_len is less than a row needs")
    credited = rewards.clone()
    for row, episode in zip(credited, episodes, strict=True):
        amounts = episode.get_infos(-1).get("rewards_by_cause")
        if amounts is not None and episode.t_started == 0:
            steps = min(len(amounts), len(row))
            row[:steps] = torch.tensor(amounts[:steps], dtype=row.dtype)
    return credited


@torch.no_grad()
def targets(module: Any, columns: dict[str, Any], gamma: float, lam: float) -> dict[str, Tensor]:
    """Targets of the loss under the behaviour policy."""
    valid_mask, actions = columns[Columns.LOSS_MASK].float(), columns[Columns.ACTIONS].long()
    output = module.forward_train(columns)
    values = output[Columns.EMBEDDINGS]
    q_taken = output[Q_VALUES].gather(2, actions[..., :1]).squeeze(2) * module.network.value_scale
    ended = columns[Columns.TERMINATEDS].bool().any(dim=1)
    beyond = values.gather(1, valid_mask.sum(dim=1, keepdim=True).long().clamp(max=values.shape[1] - 1)).squeeze(1)
    bootstrap = torch.where(ended, torch.zeros_like(beyond), beyond)
    rewards = columns[Columns.REWARDS] * valid_mask
    raw = generalised_advantages(rewards, values, bootstrap, valid_mask, gamma, lam)
    choice_mask, argument_mask = loss_masks(
        valid_mask, actions, FactoredDistribution.from_logits(output[Columns.ACTION_DIST_INPUTS])
    )
    returns = raw + values
    return {
        OP_ADVANTAGES: standardised(raw, choice_mask),
        ARGUMENT_ADVANTAGES: standardised(argument_advantages(returns, q_taken), argument_mask),
        RETURNS: returns,
    }


def loss_masks(valid_mask: Tensor, actions: Tensor, distribution: FactoredDistribution) -> tuple[Tensor, Tensor]:
    """(B, T) masks of operations with a choice, and of operations with arguments."""
    return valid_mask * (distribution.choices() > 1), valid_mask * (actions[..., 0] != LifecycleOp.WAIT)


def loss_terms(batch: dict[str, Any], output: dict[str, Any], clip: float, value_scale: Tensor) -> dict[str, Tensor]:
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
        VF_LOSS_KEY: ppo.value_loss(q_taken, batch[RETURNS] / value_scale, valid_mask),
        ENTROPY_KEY: ppo.weighted_mean(now.entropy(), choice_mask),
        "kl": kl,
        "clip_share": share,
    }

"""Costs and pay of single operations, and warnings about idle seeds."""

from math import tanh

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.stages import Stage
from esper_ray.simic.rewards.credit import COMBINATIONS, is_ransom

HARMFUL_CONTRIBUTION_PP = 0.1
PRUNE_NOTHING_PENALTY = -0.2
YOUNG_PRUNE_PENALTY = -0.3
"""Penalty per epoch that a pruned seed is too young."""


def operation_cost(operation: LifecycleOp, config: RewardConfig) -> float:
    """Fixed cost of ``operation``, at most 0."""
    costs = {
        LifecycleOp.GERMINATE: config.germinate_cost,
        LifecycleOp.FOSSILIZE: config.fossilize_cost,
        LifecycleOp.PRUNE: config.prune_cost,
        LifecycleOp.SET_ALPHA_TARGET: config.set_alpha_target_cost,
    }
    return costs.get(operation, 0.0)


def maturity(ticks: int, config: RewardConfig) -> float:
    """Share in [0, 1] of the required holding epochs."""
    return min(1.0, ticks / config.min_holding_epochs)


def commitment_pay(
    stage: Stage | None, ticks: int, contribution: float | None, improvement: float | None, config: RewardConfig
) -> float:
    """``shaped``: pay for a commitment or an attempt at it.

    Args:
        stage: of the seed, ``None`` if there is none.
        ticks: epochs in that stage.
        contribution: accuracy with all seeds minus accuracy without this one; ``None`` if unmeasured.
        improvement: accuracy with all measured seeds minus accuracy with none; ``None`` if unmeasured.
    """
    if stage is not Stage.HOLDING or improvement is None:
        return config.invalid_fossilize_penalty
    if improvement < 0:
        damage = -0.5 - min(0.2 * -improvement, 1.0)
        return damage - (0.3 if is_ransom(contribution, improvement) else 0.0)
    if contribution is not None and contribution >= config.min_fossilize_contribution:
        full = config.fossilize_base_bonus + config.fossilize_contribution_scale * contribution
        return full * maturity(ticks, config)
    return config.fossilize_noncontributing_penalty


def commitment_bonus(
    stage: Stage | None, ticks: int, contribution: float | None, improvement: float | None, config: RewardConfig
) -> float:
    """``shaped``: additional pay for a counted commitment. Arguments as for :func:`commitment_pay`."""
    if stage is not Stage.HOLDING or improvement is None or improvement < 0 or config.disable_terminal_reward:
        return 0.0
    if contribution is None or contribution < config.min_fossilize_contribution:
        return 0.0
    full = config.fossilize_terminal_scale * tanh(1.0 / config.fossilize_quality_ceiling)
    return full * maturity(ticks, config)


def basic_commitment_pay(
    stage: Stage, ticks: int, contribution: float | None, improvement: float | None, config: RewardConfig
) -> float:
    """``basic``: pay for a commitment. Arguments as for :func:`commitment_pay`."""
    if stage is not Stage.HOLDING:
        return config.basic_fossilize_invalid_penalty
    measured_improvement = 0.0 if improvement is None else improvement
    if is_commitment_counted(contribution, improvement, config):
        assert contribution is not None
        joint = COMBINATIONS[config.attribution_formula](measured_improvement, contribution)
        full = config.basic_fossilize_base_bonus + config.basic_contribution_scale * joint
        return full * maturity(ticks, config)
    if measured_improvement <= 0 and contribution is not None and contribution > HARMFUL_CONTRIBUTION_PP:
        return config.basic_fossilize_invalid_penalty
    return config.basic_fossilize_noncontributing_penalty


def is_commitment_counted(contribution: float | None, improvement: float | None, config: RewardConfig) -> bool:
    """Whether contribution and joint improvement reach their thresholds."""
    enough = contribution is not None and contribution >= config.min_fossilize_contribution
    return enough and improvement is not None and improvement > 0


def prune_pay(stage: Stage | None, age: int, contribution: float | None, config: RewardConfig) -> float:
    """``shaped``: pay for a removal or an attempt at it.

    Args:
        stage: of the seed, ``None`` if there is none.
        age: epochs since its germination.
        contribution: ``None`` if unmeasured.
    """
    if stage is None:
        return PRUNE_NOTHING_PENALTY
    if stage is Stage.FOSSILIZED:
        return config.prune_fossilized_penalty
    if age < config.min_prune_age:
        return YOUNG_PRUNE_PENALTY * (config.min_prune_age - age)
    if contribution is None:
        return config.early_prune_penalty if age < config.early_prune_threshold else 0.0
    if contribution < config.prune_hurting_threshold:
        return config.prune_hurting_bonus if age >= config.min_prune_bonus_age else -0.1
    if contribution < 0:
        return config.prune_acceptable_bonus
    worst = 3.0 * config.prune_good_seed_penalty
    return max(config.prune_good_seed_penalty - 0.05 * contribution, worst)


def blending_warning(stage: Stage, ticks: int, improvement: float | None) -> float:
    """Penalty for continued blending at a negative joint improvement, growing per epoch."""
    if stage is not Stage.BLENDING or improvement is None or improvement >= 0:
        return 0.0
    return -0.1 - min(0.05 * ticks, 0.3)


def holding_warning(stage: Stage, ticks: int, attribution: float) -> float:
    """Penalty for holding an earning seed from the second epoch on."""
    if stage is not Stage.HOLDING or ticks < 2 or attribution <= 0:
        return 0.0
    return -min(0.1 + 0.05 * (ticks - 2), 0.3)

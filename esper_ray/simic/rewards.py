"""The terms of the reward modes as pure functions. Accuracies and contributions in percentage points."""

from esper_ray.leyline.config import RewardConfig
from esper_ray.leyline.stages import Stage

STAGE_POTENTIALS = {
    Stage.GERMINATED: 1.0,
    Stage.TRAINING: 2.0,
    Stage.BLENDING: 3.5,
    Stage.HOLDING: 5.5,
    Stage.FOSSILIZED: 6.0,
}
"""Potential of a seed's stage; 0 for all others."""
DWELL_BONUS = 0.3
MAX_DWELL_BONUS = 2.0
BASE_SLOT_RENT = 0.0039
"""Rent of a slot in use, as a share of the host's parameters."""
MIN_HOLDING_TICKS = 5
"""Ticks in HOLDING after which a fossilisation is paid in full."""
MIN_PAID_CONTRIBUTION_PP = 1.0
HARMFUL_CONTRIBUTION_PP = 0.1


def seed_potential(stage: Stage, ticks: int) -> float:
    """Potential of one slot: its stage, plus a bonus that grows with the time in it."""
    return STAGE_POTENTIALS.get(stage, 0.0) + min(DWELL_BONUS * ticks, MAX_DWELL_BONUS)


def shaping(before: float, after: float, gamma: float, weight: float) -> float:
    """``weight (gamma after - before)``: potential-based shaping, which leaves optimal policies as they are.

    Source: Ng, Harada and Russell, Policy invariance under reward transformations (1999).
    """
    return weight * (gamma * after - before)


def rent(overhead: float, config: RewardConfig) -> float:
    """Price of ``overhead`` extra parameters for one step."""
    return config.param_penalty_weight * overhead / config.param_budget


def harmonic(a: float, b: float) -> float:
    """Harmonic mean of two positive numbers, 0 if either is not positive."""
    return 0.0 if a <= 0 or b <= 0 else 2.0 * a * b / max(a + b, 1e-8)


def fossilise_bonus(
    holding: bool, ticks: int, improvement: float | None, contribution: float | None, config: RewardConfig
) -> float:
    """Pay for committing a seed.

    Args:
        holding: whether the seed is in HOLDING.
        ticks: epochs that it has spent there.
        improvement: accuracy with all measured seeds minus accuracy with none.
        contribution: accuracy with everything minus accuracy without this seed; ``None`` if unmeasured.
    """
    if not holding:
        return config.basic_fossilize_invalid_penalty
    known = 0.0 if improvement is None else improvement
    if known > 0 and contribution is not None and contribution >= MIN_PAID_CONTRIBUTION_PP:
        full = config.basic_fossilize_base_bonus + config.basic_contribution_scale * harmonic(known, contribution)
        return full * min(1.0, ticks / MIN_HOLDING_TICKS)
    if known <= 0 and contribution is not None and contribution > HARMFUL_CONTRIBUTION_PP:
        return config.basic_fossilize_invalid_penalty
    return config.basic_fossilize_noncontributing_penalty


def terminal_gain(gain: float, config: RewardConfig) -> float:
    """Pay at the end of an episode for ``gain`` percentage points of validation accuracy."""
    return config.basic_acc_delta_weight * gain / 100.0


def sparse_terminal(committed_accuracy: float, fossil_parameters: int, config: RewardConfig) -> float:
    """Committed accuracy minus the price of committed parameters, clamped to [-1, 1], then scaled."""
    price = config.param_penalty_weight * fossil_parameters / config.param_budget
    return config.sparse_reward_scale * max(-1.0, min(1.0, committed_accuracy / 100.0 - price))

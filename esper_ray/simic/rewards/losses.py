"""Terms of the family ``loss``, in which a fall of the loss is paid."""

from math import log

from esper_ray.leyline.config.reward import LossRewardConfig


def change_pay(change: float, config: LossRewardConfig) -> float:
    """Pay for a change of the validation loss; a rise counts less than a fall."""
    most = config.max_loss_delta
    units = max(-most, min(most, change / config.typical_loss_delta_std))
    return -config.loss_delta_weight * units * (config.regression_penalty_scale if units > 0 else 1.0)


def rent(overhead: float, host_parameters: float, config: LossRewardConfig) -> float:
    """Price of ``overhead`` extra parameters for one step."""
    if host_parameters <= 0 or overhead <= 0:
        return 0.0
    return min(config.compute_rent_weight * log(1.0 + overhead / host_parameters), config.max_rent_penalty)


def final_pay(loss: float, config: LossRewardConfig) -> float:
    """Pay for the final loss, linear between baseline and target, clamped to [0, 1]."""
    reach = config.baseline_loss - config.target_loss
    return config.terminal_loss_weight * max(0.0, min(1.0, (config.baseline_loss - loss) / (reach or 1.0)))

"""Pay at the end of an episode."""

from esper_ray.leyline.config.reward import RewardConfig


def accuracy_pay(accuracy: float, config: RewardConfig) -> float:
    """``shaped`` and ``escrow``: pay for the final accuracy."""
    return 0.0 if config.disable_terminal_reward else config.terminal_acc_weight * accuracy


def gain_pay(gain: float, config: RewardConfig) -> float:
    """``basic``: pay for ``gain`` percentage points of accuracy."""
    return config.basic_acc_delta_weight * gain / 100.0


def committed_pay(accuracy: float, parameters: int, config: RewardConfig) -> float:
    """``sparse``: scaled pay for committed accuracy minus its parameter price, clamped to [-1, 1]."""
    value = priced_value(accuracy, parameters, config)
    return config.sparse_reward_scale * max(-1.0, min(1.0, value))


def priced_value(accuracy: float, parameters: int, config: RewardConfig) -> float:
    """Accuracy as a fraction, minus the price of ``parameters``."""
    return accuracy / 100.0 - config.param_penalty_weight * parameters / config.param_budget


def simplified_pay(accuracy: float, contributing: int, config: RewardConfig) -> float:
    """``simplified``: pay for the final accuracy and each contributing committed seed."""
    return 0.0 if config.disable_terminal_reward else 3.0 * accuracy / 100.0 + 2.0 * contributing

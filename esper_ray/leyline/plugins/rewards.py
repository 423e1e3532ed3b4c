"""The reward of another package that a run uses, with its validated options."""

from collections.abc import Callable
from typing import Any

from esper_ray.leyline.config.reward import REWARD_MODES, RewardConfig
from esper_ray.leyline.plugins.entry_points import REWARD_PLUGINS
from esper_ray.leyline.plugins.options import with_options


def own_reward(config: RewardConfig) -> tuple[Callable[..., Any], str]:
    """The function of an own mode with its options, and its origin for messages.

    Raises:
        PluginError: if there is no such reward, or it cannot be imported.
        ConfigError: if its options are not valid.
    """
    plugin = REWARD_PLUGINS.find(config.mode, REWARD_MODES)
    return with_options(plugin, config.options, "reward.options"), plugin.origin

"""Registration of the environment with Gymnasium, without importing it.

Gymnasium 1.x has no plug-ins: the package that registers an environment must be imported first. ``import esper_ray``
registers it by its import path, so that only ``gymnasium.make`` imports torch.
"""

from gymnasium.envs.registration import register as gymnasium_register
from gymnasium.envs.registration import registry

ENVIRONMENT_ID = "esper_ray/Morphogenesis-v0"


def register() -> None:
    """Register the environment, once."""
    if ENVIRONMENT_ID not in registry:
        gymnasium_register(id=ENVIRONMENT_ID, entry_point="esper_ray.environment:make_environment")

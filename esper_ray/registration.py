"""Registers the environment with Gymnasium, without loading it.

Gymnasium 1.x has no plug-ins: an environment is known once the package that registers it has been
imported. ``import esper_ray`` does that; the environment is named by its path, so that torch is only
imported by ``gymnasium.make``.
"""

from gymnasium.envs.registration import register as gymnasium_register
from gymnasium.envs.registration import registry

ENVIRONMENT_ID = "esper_ray/Morphogenesis-v0"


def register() -> None:
    """Register the environment, once."""
    if ENVIRONMENT_ID not in registry:
        gymnasium_register(id=ENVIRONMENT_ID, entry_point="esper_ray.environment:make_environment")

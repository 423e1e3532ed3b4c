"""Registers the environment with Gymnasium.

Gymnasium calls :func:`register` for every installed distribution that declares the entry point
group ``gymnasium.envs``, while it is itself being imported. So this module imports nothing heavy:
the environment is named by its path and only loaded by ``gymnasium.make``.
"""

ENVIRONMENT_ID = "Morphogenesis-v0"


def register() -> None:
    """Register ``esper_ray/Morphogenesis-v0`` (the name space comes from the entry point)."""
    from gymnasium.envs.registration import register as gymnasium_register

    gymnasium_register(id=ENVIRONMENT_ID, entry_point="esper_ray.environment:make_environment")

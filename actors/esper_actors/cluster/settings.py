"""Ray settings of a local cluster, set before Ray is first imported."""

import os
import secrets
import sys


def choose_ray_settings() -> None:
    """Set the environment variables of Ray that the user has not set.

    Ray's processes listen on every network interface, so a local cluster requires a token. Each run draws a new one,
    which stays in this process and its children. Workers use the environment of the driver unchanged. For an existing
    cluster (``RAY_ADDRESS``) the authentication mode is the user's, and under ``uv run`` Ray creates an environment for
    the workers of every node.

    Has no effect if Ray has been imported before, since Ray reads these settings once.
    """
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "RAY_ADDRESS" in os.environ:
        return
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

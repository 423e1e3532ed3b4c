"""Ray's settings for a cluster of our own. They must be made before Ray is first imported."""

import os
import secrets
import sys


def choose_ray_settings() -> None:
    """Choose what the user has not chosen.

    Ray's processes listen on every network interface, so a local cluster asks for a token; it is drawn
    anew for each run and stays in this process and its children. Its workers use the driver's environment
    as it is. For a cluster that is already there (``RAY_ADDRESS``) the mode is the user's, and under
    ``uv run`` Ray makes an environment for the workers of every node, as it is meant to.

    Without effect if Ray has been imported before: it reads these settings once.
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

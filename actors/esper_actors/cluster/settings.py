"""Ray settings of a local cluster, set before Ray is first imported."""

import os
import secrets
import sys


def choose_ray_settings() -> None:
    """Set the environment variables of Ray that the user has not set.

    A local cluster listens on the loopback interface only, and requires a token. Each run draws a new one, which stays
    in this process and its children. Workers use the environment of the driver unchanged. For an existing cluster
    (``RAY_ADDRESS``) addresses and authentication mode are the user's, and under ``uv run`` Ray creates an environment
    for the workers of every node.

    Has no effect if Ray has been imported before, since Ray reads these settings once;
    :func:`esper_actors.cluster.connection.start_ray` warns if that matters.
    """
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "RAY_ADDRESS" in os.environ:
        return
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The switch of macOS and Windows: without clusters of several nodes Ray takes 127.0.0.1 for this node's address.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

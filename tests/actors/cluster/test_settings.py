"""What is chosen for Ray before it is imported, in processes that have not imported it."""

import json
import os
import subprocess
import sys

import pytest

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
PROGRAM = f"""
import json, os
from esper_actors.cluster.settings import choose_ray_settings
choose_ray_settings()
print(json.dumps({{name: os.environ.get(name) for name in {NAMES!r}}}))
"""


def chosen(**environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout)[name] for name in NAMES)


def test_a_cluster_of_our_own_asks_for_a_token_and_takes_this_environment():
    mode, token, uv_run, accelerators = chosen()
    assert (mode, uv_run, accelerators) == ("token", "0", "0")
    assert len(token) == 64
    assert token != chosen()[1]


def test_with_a_cluster_that_is_there_mode_and_environments_are_its_users_choice():
    assert chosen(RAY_ADDRESS="head:6379") == (None, None, None, "0")


@pytest.mark.parametrize("address", [{}, {"RAY_ADDRESS": "head:6379"}])
def test_what_the_user_says_stays(address):
    said = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"}
    said |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
    assert chosen(**said, **address) == ("disabled", None, "1", "1")

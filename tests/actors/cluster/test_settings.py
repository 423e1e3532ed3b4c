"""Environment variables that are set for Ray before its import, in processes of their own."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
PROGRAM = f"""
import json, os
from esper_actors.cluster.settings import choose_ray_settings
choose_ray_settings()
print(json.dumps({{name: os.environ.get(name) for name in {NAMES!r}}}))
"""


def output(program, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment_after(**environment):
    return tuple(json.loads(output(PROGRAM, **environment))[name] for name in NAMES)


def test_a_local_cluster_requires_a_token_and_uses_this_environment():
    mode, token, uv_run, accelerators = environment_after()
    assert (mode, uv_run, accelerators) == ("token", "0", "0")
    assert len(token) == 64
    assert token != environment_after()[1]


def test_with_an_existing_cluster_authentication_and_environment_are_unchanged():
    assert environment_after(RAY_ADDRESS="head:6379") == (None, None, None, "0")


@pytest.mark.parametrize("address", [{}, {"RAY_ADDRESS": "head:6379"}])
def test_variables_set_by_the_user_are_kept(address):
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"}
    settings |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
    assert environment_after(**settings, **address) == ("disabled", None, "1", "1")


def test_a_local_cluster_will_listen_on_the_loopback_interface_only():
    choice = "from esper_actors.cluster.settings import choose_ray_settings\nchoose_ray_settings()\n"
    address = "import ray\nprint(ray.util.get_node_ip_address())\n"
    assert output(choice + address).strip() == "127.0.0.1"
    setting = f"import os\nprint(os.environ.get({LOOPBACK!r}))\n"
    assert output(choice + setting).strip() == "0"
    assert output(choice + setting, **{LOOPBACK: "1"}).strip() == "1"  # the user's own choice
    assert output(choice + setting, RAY_ADDRESS="head:6379").strip() == "None"
    assert output(address + choice + setting).splitlines()[1] == "None"  # too late

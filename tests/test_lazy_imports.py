"""What a process has not imported after it used a part: Ray and torch's compiler take seconds."""

import json
import subprocess
import sys

import pytest

PARTS = {
    "lifecycle": ("import esper_ray.kasmina.lifecycle.reducer", "torch"),
    "growing": ("import esper_ray.growing, esper_ray.kasmina.organism", "torch._dynamo"),
    "bundle": (
        "from esper_policies import bundle; bundle.load_bundle(bundle.pretrained_path('tamiyo')).player()",
        "ray",
    ),
    "learner": ("import esper_policies.tamiyo, esper_actors.training.learner.ppo", "ray"),
    "command line": ("import esper_actors.factory, esper_actors.rollout.runner, esper_ray.cli.main", "ray"),
    "workers": ("import esper_actors.cluster.workers", "ray.rllib"),
}
"""Part to the statement that uses it, and the package that is not imported by it and the parts above it."""
PROGRAM = """
import json, sys
loaded = {}
for part, (statement, package) in json.loads(sys.argv[1]).items():
    exec(statement)
    loaded[part] = [name for name in sys.modules if name == package or name.startswith(package + ".")]
print(json.dumps(loaded))
"""

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def loaded():
    """Part to the modules of its package that one fresh process had imported after it."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(PARTS)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return json.loads(answer.stdout)


@pytest.mark.parametrize("part", PARTS)
def test_a_package_that_takes_long_is_not_imported_before_it_is_needed(loaded, part):
    assert loaded[part] == []

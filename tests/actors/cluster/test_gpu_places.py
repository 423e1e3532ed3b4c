"""Placement of actors on simulated clusters with several GPUs and nodes."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).parents[2] / "builders" / "training" / "gpu_places.py"


def run_script(kind):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, str(SCRIPT), kind], capture_output=True, text=True, timeout=280, check=False, env=environment
    )


def places(kind):
    answer = run_script(kind)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.nightly
def test_two_actors_share_each_gpu_of_one_node():
    answer = places("one")
    assert Counter(actor["gpu"] for actor in answer["actors"]) == {"0": 2, "1": 2}
    assert answer["plan"] == (
        "environment actors need 4 x 1 CPU + 0.5 GPU; learner no resources of its own; in all 4 CPU + 2 GPU, PACK"
    )
    assert {name.partition("#")[0] for name in answer["names"]} == {
        "esper/learner",
        *(f"esper/environment-{index}" for index in range(4)),
    }


@pytest.mark.nightly
def test_gpus_of_two_nodes_are_used_two_actors_each():
    actors = places("nodes")["actors"]
    assert Counter(actor["gpu"] for actor in actors) == {"0": 4}  # each node numbers its only GPU 0
    assert sorted(Counter(actor["node"] for actor in actors).values()) == [2, 2]


@pytest.mark.nightly
def test_a_cluster_without_gpus_is_refused_with_the_arithmetic():
    answer = run_script("nothing")
    assert answer.returncode == 1
    assert "the run needs 4 x 0.5 GPU, the cluster has 0" in answer.stderr

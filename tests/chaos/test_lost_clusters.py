"""Evaluations and sweeps whose Ray loses a control process: one message, exit code 1, and what was done is kept."""

import csv
import re
import subprocess
import time

import pytest
from disturbances import ESPER, environment, kill_process
from monkey import end

from esper_ray.nissa.runs.sweep_directory import SweepDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(600)]

START_SECONDS, END_SECONDS = 240.0, 120.0
SMALL = ("--episode-length", "4", "--set", "training.steps_per_epoch=2", "--set", "training.batch_size=16")
EVALUATE = ("evaluate", "random", "--no-controls", "--control", "random", "--seeds", "10000", "--workers", "2", *SMALL)
SWEEP = (
    *("sweep", "--reward-modes", "basic", "--seeds", "2", "--rounds", "2000", "--envs", "2", *SMALL),
    *("--set", "policy.feature_size=16", "--set", "policy.memory_size=16", "--concurrent", "1"),
)


def after_the_loss(words, folder, victim, has_begun):
    """Exit code and output of a command, one of whose control processes is killed once ``has_begun(folder)``."""
    with (folder / "output").open("wb") as output:
        command = [*ESPER, *words, "--out", str(folder / "out")]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment(), start_new_session=True)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not has_begun(folder):
                text = (folder / "output").read_text()
                assert process.poll() is None, f"the command ended by itself with {process.returncode}: {text}"
                assert time.monotonic() < deadline, f"no result after {START_SECONDS} s: {text}"
                time.sleep(0.2)
            kill_process(victim)(process)
            code = process.wait(END_SECONDS)
        finally:
            end(process)
    text = (folder / "output").read_text()
    assert "Traceback" not in text, text
    return code, text


@pytest.mark.parametrize(("victim", "name"), [("gcs_server", "GCS"), ("raylet", "raylet")])
def test_an_evaluation_without_control_process_ends_and_keeps_its_scores(victim, name, tmp_path):
    code, text = after_the_loss(EVALUATE, tmp_path, victim, has_scores)
    assert code == 1, text
    assert f"esper: error: a control process of Ray has died: the {name} at " in text
    with (tmp_path / "out" / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    assert f"stopped after {len(scores)} of 10000 episodes" in text
    assert scores


@pytest.mark.parametrize(("victim", "name"), [("gcs_server", "GCS"), ("raylet", "raylet")])
def test_a_sweep_without_control_process_ends_and_can_be_resumed(victim, name, tmp_path):
    code, text = after_the_loss(SWEEP, tmp_path, victim, lambda folder: any(folder.glob("out/trials/*/checkpoints/*2")))
    assert code == 1, text
    assert f"esper: error: a control process of Ray has died: the {name} at " in text
    assert f"esper: resume with: esper sweep --resume {tmp_path}/out" in text
    statuses = {result.status for result in SweepDirectory.open(tmp_path / "out").results()}
    assert "running" not in statuses, text


def has_scores(folder):
    """Whether the command has reported finished episodes."""
    return re.search(r"^[1-9]\d* of 10000 episodes played", (folder / "output").read_text(), re.MULTILINE) is not None

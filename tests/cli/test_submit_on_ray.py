"""Jobs on a real head with its dashboard, with and without a token."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from head_builders import running_head, variables

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TRAIN = [
    *("train", "ppo", "--preset", "digits", "--rounds", "1", "--envs", "1", "--episode-length", "3"),
    *("--memory-size", "16", "--ppo-epochs", "1", "--set", "training.steps_per_epoch=2"),
]
LONG = ["train", "ppo", "--serial", "--set", "training.steps_per_epoch=5000", "--telemetry-dir", "/tmp/never-written"]


@pytest.mark.nightly
def test_a_head_without_tokens_runs_a_job(tmp_path):
    with running_head({"RAY_AUTH_MODE": "disabled"}) as head:
        done = head.submit("--", *TRAIN, "--telemetry-dir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.iterdir()
    assert (run / "rounds.csv").read_text().count("\n") == 2


@pytest.mark.nightly
def test_a_failed_job_gives_its_own_exit_code(head):
    failed = head.submit("--", "replay", "/nowhere/run", "--episode", "0")

    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "/nowhere/run is not a run directory" in failed.stdout
    assert "FAILED" in failed.stderr


@pytest.mark.nightly
def test_an_id_is_used_once_and_an_unfollowed_job_can_be_stopped(head):
    first = head.submit("--submission-id", "only", "--no-wait", "--", "version")
    again = head.submit("--submission-id", "only", "--", "version")
    left = head.submit("--submission-id", "left", "--no-wait", "--", *LONG)

    assert (first.returncode, first.stdout) == (0, "only\n")
    assert again.returncode == 2
    assert "submission id 'only' has been used" in again.stderr
    assert left.returncode == 0
    assert head.submit("--follow", "only").returncode == 0
    assert "job left: stopped" in head.submit("--stop", "left").stderr
    assert head.submit("--follow", "left").returncode == 143
    unknown = head.submit("--stop", "unknown")
    assert (unknown.returncode, "no job 'unknown'" in unknown.stderr) == (2, True)


@pytest.mark.nightly
def test_ctrl_c_stops_following_and_the_job_continues(head):
    with head.start("--submission-id", "followed", "--", *LONG) as process:
        next(line for line in process.stdout if line.strip())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    assert "no longer following; job followed continues" in err
    assert "Traceback" not in err
    assert "job followed: stopped" in head.submit("--stop", "followed").stderr


@pytest.mark.nightly
@pytest.mark.parametrize("cluster", ["none", pytest.param("head", marks=pytest.mark.nightly)])
def test_the_script_for_the_cluster_launcher_trains_and_resumes(cluster, head, tmp_path):
    """The script runs on a head as with ``ray submit``, or without Ray."""
    address, workers = (f"127.0.0.1:{head.port}", "ray") if cluster == "head" else ("local", "local")
    script = Path(__file__).parents[2] / "examples" / "train_on_cluster.py"
    small = [
        f"system.workers={workers}",
        "episode_length=3",
        "policy.memory_size=16",
        "ppo.epochs=1",
        "training.steps_per_epoch=2",
    ]
    options = ["--envs", "1", "--folder", str(tmp_path), *(word for key in small for word in ("--set", key))]

    def run(rounds):
        command = [sys.executable, str(script), "--rounds", rounds, *options, "--address", address]
        environment = variables(head.environment) | {
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"
        }  # no parent process is `uv run`
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)

    first, again = run("1"), run("1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert (f":{head.port}: environment actors" in first.stdout) is (cluster == "head")
    assert (tmp_path / "on-cluster" / "rounds.csv").read_text().count("\n") == 2
    assert again.returncode == 0
    assert "is finished: 1 of 1 rounds" in again.stdout


def test_a_wrong_or_missing_token_is_refused_with_the_variable_to_set(head):
    wrong = head.submit("--", "version", RAY_AUTH_TOKEN="f" * 64)
    missing = head.submit("--", "version", RAY_AUTH_MODE="disabled")

    assert (wrong.returncode, missing.returncode) == (2, 2)
    assert "refuses the token" in wrong.stderr
    assert "set RAY_AUTH_MODE=token" in missing.stderr

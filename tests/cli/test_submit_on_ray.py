"""Jobs on a real head with its dashboard, with and without a token."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from head_builders import running_head, variables

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "0123456789abcdef" * 4
MODES = {
    "disabled": {"RAY_AUTH_MODE": "disabled"},
    "token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
}
TRAIN = [
    *("train", "ppo", "--preset", "digits", "--rounds", "1", "--envs", "1", "--episode-length", "3"),
    *("--memory-size", "16", "--ppo-epochs", "1", "--set", "training.steps_per_epoch=2"),
]
LONG = ["train", "ppo", "--serial", "--set", "training.steps_per_epoch=5000", "--telemetry-dir", "/tmp/never-written"]


@pytest.fixture(scope="module")
def head():
    with running_head(MODES["token"]) as running:
        yield running


@pytest.mark.nightly
def test_a_head_without_tokens_runs_a_job(tmp_path):
    with running_head(MODES["disabled"]) as head:
        done = head.submit("--", *TRAIN, "--telemetry-dir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.iterdir()
    assert (run / "rounds.csv").read_text().count("\n") == 2


def test_a_job_runs_is_followed_and_serves_its_metrics(head, tmp_path):
    """Prometheus finds the metrics by Ray's service discovery, how the run ended among them."""
    command = ["--env", "COLUMNS=200", "--", *TRAIN, "--telemetry-dir", str(tmp_path), "--run-id", "watched"]
    finished, seen = 'state="finished"', set()
    with head.start(*command) as process:
        while process.poll() is None:
            for line in metrics_of(head):
                series, value = line.rsplit(" ", 1)
                if 'run="watched"' in series and float(value) == 1.0:
                    seen.add(series.partition("{")[0])
                    seen |= {finished} if finished in series else set()
            time.sleep(0.5)
        out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, out + err
    assert {"ray_esper_rounds_total", "ray_esper_run_info", "ray_esper_episodes_total", finished} <= seen
    (run,) = tmp_path.iterdir()
    assert (run / "rounds.csv").read_text().count("\n") == 2
    assert str(run.name) in out
    assert f":{head.port}: environment actors" in out  # the job has joined this head
    actors = [actor for actor in actors_of(head) if actor[0].startswith(run.name)]
    assert sorted(actors) == [
        (f"{run.name}/environment-0#2", "EnvironmentActor", "DEAD"),  # as the job is over
        (f"{run.name}/learner#0", "LearnerActor", "DEAD"),
        (f"{run.name}/telemetry#1", "TelemetryActor", "DEAD"),
    ]


def actors_of(head):
    """(name, class, state) of the actors that the dashboard knows, those that are gone as well."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with urlopen(Request(f"{head.address}/api/v0/actors?detail=true", headers=headers), timeout=60) as answer:
        actors = json.load(answer)["data"]["result"]["result"]
    return [(actor["name"], actor["class_name"], actor["state"]) for actor in actors]


def metrics_of(head):
    """Lines of our metrics, from wherever Ray's service discovery for Prometheus points to."""
    discovery = head.folder / "ray" / "prom_metrics_service_discovery.json"
    lines = []
    for group in json.loads(discovery.read_text()) if discovery.exists() else []:
        for target in group["targets"]:
            with suppress(OSError), urlopen(f"http://{target}/metrics", timeout=30) as answer:
                lines += [line for line in answer.read().decode().splitlines() if line.startswith("ray_esper_")]
    return lines


def test_a_job_that_fails_gives_its_own_exit_status(head):
    failed = head.submit("--", "replay", "/nowhere/run", "--episode", "0")

    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "/nowhere/run is not a run directory" in failed.stdout
    assert "FAILED" in failed.stderr


def test_an_id_serves_once_and_a_job_can_be_left_and_stopped(head):
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
    unknown = head.submit("--stop", "nobody")
    assert (unknown.returncode, "no job 'nobody'" in unknown.stderr) == (2, True)


def test_ctrl_c_ends_the_following_and_not_the_job(head):
    with head.start("--submission-id", "followed", "--", *LONG) as process:
        next(line for line in process.stdout if line.strip())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    assert "no longer following; job followed continues" in err
    assert "Traceback" not in err
    assert "job followed: stopped" in head.submit("--stop", "followed").stderr


def test_the_script_for_the_cluster_launcher_runs_on_a_head_and_resumes(head, tmp_path):
    """As ``ray submit`` would start it on a head, with what can be given to it."""
    script = Path(__file__).parents[2] / "examples" / "train_on_cluster.py"
    small = ["episode_length=3", "policy.memory_size=16", "ppo.epochs=1", "training.steps_per_epoch=2"]
    options = ["--envs", "1", "--folder", str(tmp_path), *(word for key in small for word in ("--set", key))]

    def run(rounds):
        command = [sys.executable, str(script), "--rounds", rounds, *options, "--address", f"127.0.0.1:{head.port}"]
        environment = variables(head.environment) | {
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"
        }  # no parent process is `uv run`
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)

    first, again = run("1"), run("1")
    assert first.returncode == 0, first.stdout + first.stderr
    assert f":{head.port}: environment actors" in first.stdout
    assert (tmp_path / "on-cluster" / "rounds.csv").read_text().count("\n") == 2
    assert again.returncode == 0
    assert "is finished: 1 rounds" in again.stdout


def test_a_wrong_or_missing_token_is_refused_with_the_variable_to_set(head):
    wrong = head.submit("--", "version", RAY_AUTH_TOKEN="f" * 64)
    missing = head.submit("--", "version", RAY_AUTH_MODE="disabled")

    assert (wrong.returncode, missing.returncode) == (2, 2)
    assert "refuses the token" in wrong.stderr
    assert "set RAY_AUTH_MODE=token" in missing.stderr

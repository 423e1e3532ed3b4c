"""Whole sweeps on Ray: results, a killed driver, schedulers, failures and signals."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from cli_builders import call

from esper_actors.training.checkpoint import checkpoints_in
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

TINY = [
    *("--preset", "digits", "--envs", "1", "--envs-per-actor", "1", "--episode-length", "4"),
    *("--set", "policy.memory_size=16", "--set", "policy.feature_size=16", "--set", "ppo.epochs=1"),
    *("--set", "training.steps_per_epoch=2", "--set", "training.batch_size=16", "--set", "task.validation_size=50"),
]
LOCAL = [*TINY, "--set", "system.workers=local"]
"""A trial is one process instead of four."""
FOUR = [*LOCAL, "--reward-modes", "basic,sparse", "--seeds", "2", "--rounds", "4", "--retries", "0"]
TRIALS = ["0-basic-s42", "1-sparse-s42", "2-basic-s43", "3-sparse-s43"]


def rows(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def start(*arguments):
    """``esper <arguments>`` in its own process, with its own cluster."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "esper_ray.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def read_until(process, pattern):
    """Lines up to the first that matches."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"no line matches {pattern!r}:\n{''.join(lines)}\n{process.stderr.read()}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, ray_cluster):
    """Sweep of two reward modes and two seeds without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    return call("sweep", *FOUR, "--out", folder), folder


def test_a_sweep_ends_with_a_table_a_ranking_and_a_picture(whole):
    answer, folder = whole
    assert answer.code == 0, answer.err
    table = rows(folder)
    assert [row["trial"] for row in table] == TRIALS
    assert {(row["status"], row["rounds"]) for row in table} == {("finished", "4")}
    assert [(row["reward.mode"], row["seed"]) for row in table[1:3]] == [("sparse", "42"), ("basic", "43")]
    for name in ("ranking.csv", "ranking.md", "sweep.png"):
        assert (folder / name).stat().st_size > 100
    for text in ("4 trials of digits", "scheduler none", "0-basic-s42  running  round 1/4", "best in", "4 finished"):
        assert text in answer.out
    assert not (folder / "tune").exists()
    assert all("pkl" not in path.suffix for path in folder.rglob("*"))


def test_a_trial_equals_the_run_of_esper_train(whole, tmp_path):
    _, folder = whole
    runs = tmp_path / "runs"
    flags = ["--reward-mode", "sparse", "--rounds", "4", "--serial", "--telemetry-dir", runs]
    assert call("train", "ppo", *TINY, *flags).code == 0
    (run,) = runs.iterdir()
    assert (run / "rounds.csv").read_bytes() == (folder / "trials" / "1-sparse-s42" / "rounds.csv").read_bytes()


@pytest.mark.nightly
def test_a_sweep_with_a_killed_driver_resumes_without_loss(whole, tmp_path):
    """SIGKILL when some trials are done and a later one has begun: the resumed sweep equals the uninterrupted one."""
    _, undisturbed = whole
    folder = tmp_path / "sweep"
    with start("sweep", *FOUR, "--out", folder, "--concurrent", "2") as process:
        read_until(process, r"[23]-\w+-s43  running  round 2/4")
        process.send_signal(signal.SIGKILL)
    results = SweepDirectory.open(folder).results()
    before = {result.trial: result.round_index for result in results}
    finished = [result.trial for result in results if result.status == "finished"]
    assert 0 < len(finished) < 4
    assert max(before["2-basic-s43"], before["3-sparse-s43"]) >= 2
    stamps = {name: (folder / "trials" / name / "manifest.json").stat().st_mtime_ns for name in finished}

    answer = call("sweep", "--resume", folder)
    assert answer.code == 0, answer.err
    assert f"4 trials of digits, {len(finished)} of them done" in answer.out
    for name, done in before.items():  # no saved round is repeated
        assert all(int(number) >= done for number in re.findall(rf"{name}  running  round (\d)/4", answer.out))
    assert (folder / "sweep.csv").read_bytes() == (undisturbed / "sweep.csv").read_bytes()
    assert (folder / "ranking.csv").read_bytes() == (undisturbed / "ranking.csv").read_bytes()
    for name in TRIALS:
        files = [path / "trials" / name / "rounds.csv" for path in (folder, undisturbed)]
        assert files[0].read_bytes() == files[1].read_bytes()
    for name, stamp in stamps.items():  # what was done was not touched again
        assert (folder / "trials" / name / "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.nightly),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.nightly),
    ],
)
def test_a_running_sweep_is_locked_and_stopped_by_a_signal(number, code, tmp_path):
    folder = tmp_path / "sweep"
    with start("sweep", *LOCAL, "--seeds", "2", "--rounds", "500", "--out", folder) as process:
        read_until(process, r"running  round 1/500")
        second = call("sweep", "--resume", folder)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert second.code == 2
    assert f"{folder} is being run by process {process.pid} on " in second.err
    assert process.returncode == code
    assert "Traceback" not in err
    assert f"stopped: 0 of 2 trials are done; results so far {folder / 'sweep.csv'}" in out
    assert f"resume with: esper sweep --resume {shlex.quote(str(folder))}" in out
    started = [row for row in rows(folder) if row["status"] != "waiting"]
    assert started
    assert {row["status"] for row in started} == {"interrupted"}


@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_halving_stops_the_worst_trials_and_records_it(tmp_path):
    """Trials run one at a time, so that the third and fourth are compared with the earlier ones."""
    path = tmp_path / "halving.yaml"
    path.write_text("scheduler: asha\nconcurrent: 1\nasha: {grace_rounds: 1, reduction: 2}\nwindow: 1\n")
    folder = tmp_path / "sweep"
    flags = [*LOCAL, "--sweep", path, "--reward-modes", "basic", "--seeds", "4", "--rounds", "4", "--out", folder]
    answer = call("sweep", *flags)
    assert answer.code == 0, answer.err
    stopped = [row for row in rows(folder) if row["status"] == "stopped"]
    assert stopped
    assert all(int(row["rounds"]) < 4 for row in stopped)
    assert "stopped early count with their score at that time" in answer.out
    before = (folder / "sweep.csv").read_bytes()
    again = call("sweep", "--resume", folder)
    assert again.code == 0
    assert "4 of them done" in again.out
    assert "running" not in again.out
    assert (folder / "sweep.csv").read_bytes() == before


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.nightly
@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_population_copies_the_best_trials_with_other_settings(scheduler, tmp_path):
    """Each of two members needs both CPUs of the cluster, so that they alternate after every round."""
    path = tmp_path / "population.yaml"
    path.write_text("population: {interval_rounds: 1, quantile: 0.5, resample: 0.0}\nwindow: 1\n")
    folder = tmp_path / "sweep"
    flags = ["--sweep", path, "--reward-modes", "basic", "--seeds", "1", "--grid", "ppo.lr=1e-4,1e-2", "--rounds", "4"]
    answer = call("sweep", *LOCAL, *flags, "--set", "system.threads=2", "--scheduler", scheduler, "--out", folder)
    assert answer.code == 0, answer.err
    assert "Trials of a population copy each other" in answer.out
    sweep = SweepDirectory.open(folder)
    copied = [name for name in sweep.trials if sweep.generation(name) > 0]
    assert copied
    for name in copied:
        lineage = sweep.run(name).read_manifest()["lineage"]
        donor = (sweep.trials_path / lineage["run"] / "rounds.csv").read_bytes().splitlines()
        own_lines = (sweep.run(name).path / "rounds.csv").read_bytes().splitlines()
        shared = lineage["taken_after_round"] + 1  # the heading, too
        assert own_lines[:shared] == donor[:shared]
        assert len(own_lines) == 5
        assert 1e-4 * 0.999 <= sweep.settings(name)["ppo.lr"] <= 1e-2 * 1.001
    assert {row["status"] for row in rows(folder)} == {"finished"}


@pytest.mark.nightly
@pytest.mark.usefixtures("ray_cluster")
def test_ray_workers_of_a_trial_run_within_its_own_resources(tmp_path):
    """The actors need every CPU of the cluster; the trial ends only if they use its placement group."""
    folder = tmp_path / "sweep"
    flags = [*TINY, "--envs", "2", "--reward-modes", "basic", "--seeds", "1", "--rounds", "1", "--retries", "0"]
    answer = call("sweep", *flags, "--out", folder)
    assert answer.code == 0, answer.out + answer.err
    assert [(row["status"], row["rounds"]) for row in rows(folder)] == [("finished", "1")]


@pytest.mark.nightly
def test_a_failed_trial_is_reported_and_the_others_continue(whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "sweep")
    sweep = SweepDirectory.open(folder)
    for name in TRIALS[:2]:
        sweep.set_status(name, "interrupted")
    for path in checkpoints_in(sweep.run(TRIALS[0]).checkpoints):
        (path / "learner.safetensors").write_bytes(b"torn")
    answer = call("sweep", "--resume", folder)
    assert answer.code == 1
    assert re.search(r"failed: 0-basic-s42: .*is damaged", answer.out)
    assert f"3 of 4 trials are done; retry the others with: esper sweep --resume {folder}" in answer.out
    assert [row["status"] for row in rows(folder)] == ["failed", "finished", "finished", "finished"]

"""``--tensorboard``, ``--mlflow`` and ``--wandb``: working and failing sinks do not change the run."""

import json

import pytest
from cli_builders import SMALL, call

from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.sinks.tensorboard_files import TensorBoardSink

pytestmark = pytest.mark.integration


def run_with_sinks(folder, *options):
    answer = call(
        "train", "ppo", "--serial", *SMALL, "--rounds", 2, "--telemetry-dir", folder, "--run-id", "r", *options
    )
    return answer, RunDirectory.open(folder / "r")


@pytest.fixture(scope="module")
def run_without_sinks(tmp_path_factory):
    return run_with_sinks(tmp_path_factory.mktemp("quiet"))[1]


@pytest.mark.nightly
def test_all_trackers_together_do_not_change_the_weights(tmp_path, monkeypatch, run_without_sinks):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    answer, run = run_with_sinks(tmp_path, "--tensorboard", "--mlflow", "--wandb")
    assert (answer.code, answer.err) == (0, "")
    assert "sink" not in answer.out
    assert run.read_manifest()["policy_sha256"] == run_without_sinks.read_manifest()["policy_sha256"]
    assert list((run.path / "tensorboard").glob("events.out.*"))
    assert list((run.path / "wandb").glob("offline-run-*/run-r.wandb"))
    assert list((tmp_path / "mlruns").glob("*/*/metrics/round/val_accuracy_ratio"))


def test_a_failing_sink_is_reported_and_the_run_continues(tmp_path, monkeypatch, run_without_sinks):
    def fail(self, values, round_index):
        raise OSError("no space left on device")

    monkeypatch.setattr(TensorBoardSink, "round", fail)
    answer, run = run_with_sinks(tmp_path, "--tensorboard")
    assert answer.code == 0
    assert "sink failed: tensorboard: OSError: no space left on device" in answer.out
    faults = [json.loads(line) for line in (run.path / "faults.jsonl").read_text().splitlines()]
    assert {(fault["kind"], fault["who"]) for fault in faults} == {("sink_failed", "tensorboard")}
    assert run.read_manifest()["policy_sha256"] == run_without_sinks.read_manifest()["policy_sha256"]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_refused_before_the_run(tmp_path, monkeypatch, name):
    monkeypatch.setattr("esper_ray.nissa.sinks.registry.find_spec", lambda name: None)
    answer = call("train", "ppo", "--serial", *SMALL, "--telemetry-dir", tmp_path, f"--{name}")
    assert answer.code == 2
    assert f"pip install 'esper-ray[{name}]'" in answer.err
    assert not list(tmp_path.iterdir())


def test_sinks_of_a_comparison_are_refused(tmp_path):
    answer = call("train", "ppo", "--dual-ab", "shaped-vs-basic", "--tensorboard", "--telemetry-dir", tmp_path)
    assert answer.code == 2
    assert "--dual-ab has two" in answer.err

"""Runs of own parts: the three example packages together, from training to a fresh evaluation."""

import os
import subprocess
import sys

import numpy as np
import pytest
from cli_builders import SMALL, call, only_run, train_below
from plugin_builders import install_examples

from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import Action, Blueprint, LifecycleOp
from esper_ray.leyline.config.loading import build_complete, read_preset

OPTIONS = [
    *("--reward-mode", "frugal", "--set", "reward.options.rent=0.5"),
    *("--host", "residual", "--set", "host.options.width=4"),
    *("--set", "growth.blueprints.conv_light=dilated", "--set", "growth.min_training_epochs=1"),
]
OWN = {
    "episode_length": 4,
    "training.steps_per_epoch": 2,
    "reward.mode": "frugal",
    "host": {"family": "own", "build": "residual", "options": {"width": 4}, "slots": {}},
    "growth.blueprints": {"conv_light": "dilated"},
}
GROW = Action(LifecycleOp.GERMINATE, 1, int(Blueprint.CONV_LIGHT), style=0, tempo=0).to_indices()
WAIT = Action(LifecycleOp.WAIT).to_indices()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Folder with the three example packages, on the path."""
    install_examples(tmp_path / "site", monkeypatch)
    return tmp_path / "site"


def steps(env, actions):
    return [env.step(np.array(action))[1] for action in actions]


def test_an_episode_that_is_saved_and_resumed_equals_an_uninterrupted_one(installed):
    config = build_complete(read_preset("digits"), None, OWN)
    whole, first, second = (MorphogenesisEnv(config) for _ in range(3))
    whole.reset(seed=3)
    rewards = steps(whole, [GROW, WAIT, WAIT, WAIT])
    first.reset(seed=3)
    steps(first, [GROW, WAIT])
    second.load_state(first.save_state())
    assert steps(second, [WAIT, WAIT]) == rewards[2:]
    assert second.ledger.entries == whole.ledger.entries
    assert second.save_state() == whole.save_state()
    assert {entry.source for entry in whole.ledger.entries} == {"gain", "rent"}
    assert whole.reports[1].blueprint_name == "dilated"


@pytest.mark.integration
def test_a_run_of_own_parts_is_recorded_refused_without_them_and_resumed_with_them(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        install_examples(tmp_path / "site", patch)
        assert train_below(tmp_path / "runs", "--rounds", "1", *OPTIONS).code == 0
    run = only_run(tmp_path / "runs")
    manifest = run.read_manifest()
    assert [(row["kind"], row["name"], row["package"]) for row in manifest["plugins"]] == [
        ("reward", "frugal", "own-reward"),
        ("host", "residual", "own-host"),
        ("blueprint", "dilated", "own-blueprint"),
    ]
    assert manifest["topologies"] == ["images"]
    needs = f"{run.path} needs the reward 'frugal' of the package own-reward 0.1.0, which is not installed here"
    for words in (["train", "ppo", "--resume", run.path, "--serial"], ["evaluate", run.path, "--serial"]):
        refused = call(*words)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert f"{needs}: pip install own-reward==0.1.0, on every node" in refused.err
    assert call("events", run.path, "--limit", "1").code == 0  # a viewer needs no package
    assert call("export-policy", run.path, tmp_path / "own.esper").code == 0
    with pytest.MonkeyPatch.context() as patch:
        install_examples(tmp_path / "again", patch)
        assert call("train", "ppo", "--resume", run.path, "--serial", "--rounds", "2").code == 0
        out = tmp_path / "evaluation"
        answer = call(
            "evaluate", run.path, "--seeds", "2", "--serial", "--no-controls", "--control", "digits", "--out", out
        )
        assert (answer.code, answer.err) == (0, "")
        refused = call("evaluate", tmp_path / "own.esper", "--preset", "digits", "--serial")
    assert refused.code == 2
    assert (
        "the policy has learned what 'dilated' does in the place of conv_light, but this configuration" in refused.err
    )
    assert "set growth.blueprints.conv_light=dilated" in refused.err


@pytest.mark.integration
def test_events_and_reports_name_the_own_blueprint(installed, tmp_path):
    answer = call(
        *("train", "heuristic", "--preset", "digits", "--episode-length", "4", "--set", "training.steps_per_epoch=2"),
        *("--telemetry-dir", tmp_path / "runs", *OPTIONS),
    )
    assert answer.code == 0
    run = only_run(tmp_path / "runs")
    named = {record["blueprint"] for record in run.events() if record["kind"] == "seed_transition"}
    assert named == {"dilated"}
    slots = [record["slots"] for record in run.events() if record["kind"] == "env_epoch"]
    assert {slot["blueprint"] for row in slots for slot in row.values()} == {"dilated"}
    assert any("try dilated" in record["why"] for record in run.events() if record["kind"] == "env_epoch")


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_of_own_parts_on_ray_equals_a_serial_one(tmp_path, monkeypatch):
    install_examples(tmp_path / "site", monkeypatch)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "200"}
    for name, more in (("serial", ["--serial"]), ("ray", [])):
        command = [sys.executable, "-m", "esper_ray.cli.main", "train", "ppo", *SMALL, "--rounds", "1", *OPTIONS, *more]
        command += ["--telemetry-dir", str(tmp_path / "runs"), "--run-id", name]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert ended.returncode == 0, ended.stderr
    serial, ray = ((tmp_path / "runs" / name / "rounds.csv").read_bytes() for name in ("serial", "ray"))
    assert serial == ray

"""``esper export-policy`` on a real run directory, and its bundle as a policy of other commands."""

import json
import shutil

import pytest
import torch
from checkpoint_builders import rewrite, rewrite_envelope
from cli_builders import call

from esper_actors.training.checkpoint import load_checkpoint
from esper_policies.bundle import load_bundle
from esper_ray.leyline.blueprints import Topology

pytestmark = pytest.mark.integration


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, for changes."""
    return shutil.copytree(finished.run.path, tmp_path / "run")


@pytest.mark.parametrize(("options", "finished_rounds"), [([], 2), (["--round", "1"], 1)])
def test_a_bundle_holds_the_policy_of_the_round_and_its_provenance(run, finished, options, finished_rounds):
    target = run.parent / "tamiyo.esper"
    answer = call("export-policy", run, target, *options)
    assert (answer.code, answer.err) == (0, "")
    assert f"{finished_rounds} rounds on digits with reward basic, grows on images" in answer.out
    bundle, config = load_bundle(target), finished.run.config()
    learner = load_checkpoint(run / "checkpoints" / f"round-{finished_rounds:05d}", config).learner
    expected = {n.removeprefix("network."): t for n, t in learner.tensors.items() if n.startswith("network.")}
    assert bundle.weights.keys() == expected.keys()
    assert all(torch.equal(bundle.weights[name], tensor) for name, tensor in expected.items())
    manifest, provenance = bundle.manifest, bundle.manifest.provenance
    assert (manifest.policy, manifest.growth, manifest.topologies) == (config.policy, config.growth, (Topology.IMAGES,))
    assert (provenance.run, provenance.round, provenance.config_sha256) == (run.name, finished_rounds, config.digest())
    assert (provenance.task, provenance.episode_length) == ("digits", 3)
    assert manifest.weights_sha256 in answer.out


def test_a_bundle_makes_the_decisions_of_its_run(run):
    target, out = run.parent / "tamiyo.esper", run.parent / "evaluation"
    assert call("export-policy", run, target).code == 0
    settings = ["--serial", "--no-controls", "--seeds", "2", "--control", "run", "--out", out]
    answer = call("evaluate", f"run={run}", f"bundle={target}", *settings)
    assert answer.code == 0, answer.err
    by_run, by_bundle = json.loads((out / "evaluation.json").read_text())["summaries"]
    assert by_run["test_accuracy_pp"] == by_bundle["test_accuracy_pp"]
    assert by_run["total_reward"] == by_bundle["total_reward"]


def test_an_evaluation_in_the_environment_of_the_run_draws_its_learning_curve(run):
    out = run.parent / "evaluation"
    answer = call("evaluate", run, "--serial", "--no-controls", "--seeds", "2", "--control", "digits", "--out", out)
    assert answer.code == 0, answer.err
    assert (out / "learning.png").stat().st_size > 10_000
    shorter_evaluation = run.parent / "other"
    shorter = ["--episode-length", "2", "--serial", "--no-controls", "--seeds", "2", "--control", "digits"]
    assert call("evaluate", run, *shorter, "--out", shorter_evaluation).code == 0
    assert not (shorter_evaluation / "learning.png").exists(), "episodes of another length cannot be compared"


def test_a_policy_on_foreign_features_is_refused(run):
    target = run.parent / "tamiyo.esper"
    assert call("export-policy", run, target).code == 0
    host = "host={family: mlp, width: 16, blocks: 3, expansion: 2, dropout: 0.0}"
    hosts = ["--set", host, "--set", "growth.blueprints=['norm', 'lora']", "--serial"]
    for policy in (target, run):
        answer = call("evaluate", policy, *hosts, "--set", "growth.slots=['r0c0']", "--task", "digits", "--seeds", "2")
        assert answer.code == 2
        assert "has learned to grow on images (task 'digits'), but r0c0 has features" in answer.err


def test_an_existing_file_is_replaced_only_with_force(run):
    target = run.parent / "tamiyo.esper"
    target.write_text("mine")
    answer = call("export-policy", run, target)
    assert answer.code == 2
    assert "exists already; --force" in answer.err
    assert target.read_text() == "mine"
    assert call("export-policy", run, target, "--force").code == 0
    load_bundle(target)


def set_version(run):
    rewrite_envelope(run / "checkpoints" / "round-00002", version=0)


def set_schema(run):
    rewrite(run / "checkpoints" / "round-00002", lambda state: state.update(observation_schema="other"))


def remove_checkpoints(run):
    for path in (run / "checkpoints").iterdir():
        shutil.rmtree(path)


def truncate_weights(run):
    weights = run / "checkpoints" / "round-00002" / "learner.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (lambda run: None, ["t.bin"], "a policy bundle is called NAME.esper"),
        (lambda run: None, ["none/t.esper"], "there is no folder none"),
        (lambda run: None, ["t.esper", "--round", "9"], "has no checkpoint of round 9; it has those of"),
        (remove_checkpoints, ["t.esper"], "holds no complete checkpoint"),
        (lambda run: (run / "manifest.json").unlink(), ["t.esper"], "is not a run directory"),
        (set_version, ["t.esper"], "version 0, expected kind 'checkpoint' version 5"),
        (set_schema, ["t.esper"], "has observation_schema 'other', this run needs"),
        (truncate_weights, ["t.esper"], "is damaged"),
    ],
)
def test_a_run_that_cannot_be_exported_is_refused_without_a_file(run, damage, arguments, message, monkeypatch):
    monkeypatch.chdir(run.parent)
    damage(run)
    answer = call("export-policy", run, *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_heuristic_run_has_no_policy_to_export(tmp_path):
    assert call("train", "heuristic", "--episode-length", "2", "--episodes", "1", "--telemetry-dir", tmp_path).code == 0
    (run,) = tmp_path.iterdir()
    answer = call("export-policy", run, tmp_path / "t.esper")
    assert answer.code == 2
    assert "holds no complete checkpoint; only `esper train ppo` writes them" in answer.err

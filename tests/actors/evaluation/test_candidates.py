"""Candidates of an evaluation: every form of a name, and every refusal."""

import os
import shutil

import numpy as np
import pytest
import torch
from checkpoint_builders import rewrite
from learner_builders import small_config

from esper_actors.evaluation.candidates import UNSTEERED, Candidate, CandidateError, load_candidate
from esper_actors.training.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from esper_actors.training.learner.ppo import PPOLearner
from esper_policies.baselines import OraclePolicy, RandomPolicy, SchedulePolicy, ScriptLine, StaticPolicy
from esper_policies.heuristic import HeuristicPolicy
from esper_policies.scripts import BASELINES, ScriptError
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.environment import make_environment
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.nissa.runs.position import START
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

pytestmark = pytest.mark.integration

CONFIG = small_config()
POLICIES = {
    "heuristic": HeuristicPolicy,
    "random": RandomPolicy,
    "static": StaticPolicy,
    "schedule": SchedulePolicy,
    "oracle": OraclePolicy,
}


@pytest.fixture(scope="module")
def limits():
    return make_environment("patterns", {"episode_length": 1}).limits


@pytest.fixture(scope="module")
def learners():
    """Two learners with different weights."""
    first, second = PPOLearner(CONFIG), PPOLearner(CONFIG)
    with torch.no_grad():
        for parameter in second.network.parameters():
            parameter.add_(0.01)
    return first, second


@pytest.fixture
def run(learners, tmp_path):
    """A run directory with a checkpoint after one round, and another after two."""
    directory = RunDirectory.create(tmp_path / "runs", CONFIG, ["test"])
    for number, learner in enumerate(learners, start=1):
        save_checkpoint(directory.checkpoints, after(number, learner.state()), CONFIG)
    return directory


def after(number, state):
    """A checkpoint after ``number`` rounds."""
    state.numbers["updates"] = number
    best = {"best": {}, "best_round": {}, "control_pp": []}
    return Checkpoint(number, state, START, {"round_index": number, "env_steps": 1, "seconds": 0.1} | best)


def equal_weights(weights, learner):
    expected = learner.network.state_dict()
    return weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in expected)


# Accepted names


@pytest.mark.parametrize("name", POLICIES)
def test_a_name_loads_the_baseline_policy(name, limits):
    assert BASELINES.keys() == POLICIES.keys()
    candidate, config = load_candidate(name)
    assert (candidate, config) == (Candidate(name, baseline=name), None)
    assert type(candidate.policy(limits, "patterns", "cpu", greedy=True)) is POLICIES[name]


def test_a_label_before_the_name_is_kept():
    assert load_candidate("mine=random") == (Candidate("mine", baseline="random"), None)
    assert load_candidate("random=random") == load_candidate("=random") == load_candidate("random")


def test_a_schedule_file_loads_its_script_with_the_name_of_the_file(tmp_path, limits):
    path = tmp_path / "late.yaml"
    path.write_text("- {epoch: 5, op: germinate, slot: 1, blueprint: norm}\n- {epoch: 9, op: prune, slot: 1}\n")
    lines = (
        ScriptLine(epoch=5, op="germinate", slot=1, blueprint="norm"),
        ScriptLine(epoch=9, op="prune", slot=1),
    )
    candidate, config = load_candidate(f"schedule:{path}")
    assert (candidate, config) == (Candidate("late", script=lines), None)
    policy = candidate.policy(limits, "patterns", "cpu", greedy=True)
    assert isinstance(policy, SchedulePolicy)
    assert policy.script == lines
    assert load_candidate(f"x=schedule:{path}")[0].label == "x"


def test_a_run_directory_loads_its_newest_checkpoint(run, learners, limits):
    candidate, config = load_candidate(str(run.path))
    assert config == CONFIG
    assert (candidate.label, candidate.baseline, candidate.script, candidate.config) == (
        "small",
        None,
        None,
        CONFIG.policy,
    )
    assert equal_weights(candidate.weights, learners[1])
    policy = candidate.policy(limits, "patterns", "cpu", greedy=True)
    assert isinstance(policy, LearnedPolicy)
    assert (policy.epsilon, policy.greedy) == (0.0, True)
    assert equal_weights(policy.network.state_dict(), learners[1])
    assert not candidate.policy(limits, "patterns", "cpu", greedy=False).greedy


def test_a_checkpoint_folder_loads_its_own_weights(run, learners, monkeypatch):
    path = run.checkpoints / "round-00001"
    candidate, config = load_candidate(f"first={path}")
    assert (candidate.label, config) == ("first", CONFIG)
    assert equal_weights(candidate.weights, learners[0])
    monkeypatch.chdir(run.checkpoints)
    assert equal_weights(load_candidate("round-00001")[0].weights, learners[0])
    monkeypatch.chdir(run.path)
    assert equal_weights(load_candidate(".")[0].weights, learners[1])


def test_a_path_may_hold_an_equals_sign(run, learners):
    renamed = run.path.with_name("lr=1e-3")
    run.path.rename(renamed)
    candidate, _ = load_candidate(str(renamed))
    assert candidate.label == "small"
    assert equal_weights(candidate.weights, learners[1])


# Refusals


def refusal(name):
    with pytest.raises((CandidateError, ScriptError, CheckpointError, RunDirectoryError)) as error:
        load_candidate(name)
    return str(error.value)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    message = refusal("heuristik")
    assert "unknown policy 'heuristik'; did you mean 'heuristic'?" in message
    assert "(known: heuristic, random, static, schedule, oracle, tamiyo)" in message
    assert "no such file or directory" in message
    assert "'heuristik'" in refusal("mine=heuristik")
    assert "unknown policy 'Random'" in refusal("Random")


@pytest.mark.parametrize("name", [*BASELINES, *UNSTEERED])
def test_the_name_of_another_policy_is_refused_as_a_label(name):
    baseline = "random" if name != "random" else "static"
    assert f"{name}={baseline}: '{name}' means another policy; choose another label" in refusal(f"{name}={baseline}")


@pytest.mark.parametrize("label", ["a\nb", "\x1b[31mred", "a" * 101, "\u202eabc"])
def test_a_label_that_no_table_can_show_is_refused(label):
    assert "must have 1 to 100 printable characters" in refusal(f"{label}=static")


def test_a_folder_without_a_run_is_refused(tmp_path):
    message = refusal(str(tmp_path))
    assert f"{tmp_path} is not a run directory: it has no manifest.json, config.yaml, checkpoints" in message


def test_a_file_of_an_unknown_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "is not a run directory" in refusal(str(tmp_path / "notes.txt"))


def test_a_run_without_a_checkpoint_is_refused(run):
    shutil.rmtree(run.checkpoints)
    run.checkpoints.mkdir()
    assert f"{run.path} holds no complete checkpoint" in refusal(str(run.path))


def test_a_run_with_a_damaged_configuration_is_refused(run):
    (run.path / "config.yaml").write_text("ppo: {epochz: 3}\n")
    message = refusal(str(run.path))
    assert f"configuration of {run.path} cannot be used" in message
    assert "epochz" in message


def test_a_checkpoint_outside_of_its_run_is_refused_with_a_remedy(run, tmp_path):
    """A copy from `--save` holds neither its configuration nor its run."""
    saved = shutil.copytree(run.checkpoints / "round-00002", tmp_path / "deep" / "saved")
    message = refusal(str(saved))
    assert f"{saved} is a checkpoint outside of its run directory" in message
    assert "esper export-policy" in message


def test_a_damaged_checkpoint_is_refused(run):
    path = run.checkpoints / "round-00002"
    os.truncate(path / "learner.safetensors", 100)
    message = refusal(str(run.path))
    assert message.startswith(f"checkpoint {path} is damaged: ")
    assert load_candidate(str(run.checkpoints / "round-00001"))
    (path / "state.json").write_text("{")
    assert f"checkpoint {path} is damaged: it is not JSON" in refusal(str(path))


def test_a_policy_of_another_size_is_refused(run):
    """The configuration says 16, the weights are those of 24."""
    wide = small_config(policy__memory_size=24)
    path = save_checkpoint(run.checkpoints, after(3, PPOLearner(wide).state()), wide)
    rewrite(path, lambda state: state.update(config_sha256=CONFIG.digest()))
    message = refusal(str(run.path))
    assert f"checkpoint {path} is damaged: learner.safetensors: tensor adam." in message
    assert "it must be " in message
    newest = run.checkpoints / "round-00002"
    assert message.endswith(f"the newest intact checkpoint is round-00002: name {newest} as the policy")
    with pytest.raises(CheckpointError, match=r"is damaged: learner\.safetensors: tensor"):
        save_checkpoint(run.checkpoints, after(4, PPOLearner(wide).state()), CONFIG)


def test_weights_that_lack_a_layer_are_refused(run):
    rewrite(run.checkpoints / "round-00002", change_tensors=lambda tensors: tensors.pop("network.critic.0.weight"))
    assert "learner.safetensors: tensor network.critic.0.weight is missing" in refusal(str(run.path))


def test_weights_that_are_not_finite_are_refused(run):
    set_nan = lambda tensors: tensors["network.critic.0.weight"].fill_(float("nan"))  # noqa: E731
    rewrite(run.checkpoints / "round-00002", change_tensors=set_nan)
    assert "tensor network.critic.0.weight has nan at [0, 0], it must be finite" in refusal(str(run.path))


@pytest.mark.parametrize(
    ("key", "value"),
    [("observation_schema", "beef"), ("actions", ["op 0: DANCE"]), ("config_sha256", "cafe")],
)
def test_a_checkpoint_of_another_schema_or_configuration_is_refused(run, key, value):
    path = run.checkpoints / "round-00002"
    rewrite(path, lambda state: state.update({key: value}))
    assert f"checkpoint {path} has {key} {value!r}, this run needs " in refusal(str(run.path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch: 3\n", "must be a list of lines, got dict"),
        ("", "must be a list of lines, got NoneType"),
        ("[{", "cannot be read"),
        ("- {op: prune}\n", "line 1: epoch: Field required"),
        ("- {epoch: 0, op: prune}\n- {epoch: -1, op: prune}\n", "line 2: epoch: Input should be greater than or equal"),
        ("- {epoch: -1, op: prune}\n", "(got -1)"),
        ("- {epoch: 1, op: prune, slto: 2}\n", "line 1: slto: Extra inputs are not permitted (got 2)"),
        ("- {epoch: 1, op: 7}\n", "line 1: op: Input should be a valid string (got 7)"),
        ("- germinate\n", "line 1: the line: Input should be a valid dictionary"),
    ],
)
def test_an_invalid_script_is_refused_with_file_line_and_key(text, expected, tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(text)
    message = refusal(f"schedule:{path}")
    assert message.startswith(f"script {path}")
    assert expected in message
    assert "errors.pydantic.dev" not in message


def test_a_script_that_cannot_be_read_is_refused(tmp_path):
    assert "No such file" in refusal(f"schedule:{tmp_path}/none.yaml")
    assert f"script {tmp_path} cannot be read" in refusal(f"schedule:{tmp_path}")
    (tmp_path / "binary.yaml").write_bytes(np.arange(255, dtype=np.uint8).tobytes())
    assert f"script {tmp_path}/binary.yaml:2 cannot be read: byte 0x80" in refusal(f"schedule:{tmp_path}/binary.yaml")


def test_a_policy_that_does_not_fit_the_limits_is_refused(limits):
    lines = (ScriptLine(epoch=0, op="germinate", slot=7),)
    with pytest.raises(ValueError, match="script line 1: slot 7; the run has 0 to 2"):
        Candidate("x", script=lines).policy(limits, "patterns", "cpu", greedy=True)
    with pytest.raises(ValueError, match="no oracle for task 'digits'"):
        Candidate("x", baseline="oracle").policy(limits, "digits", "cpu", greedy=True)


def test_weights_are_not_printed():
    assert "weights" not in repr(Candidate("x", config=PolicyConfig(), weights={"w": torch.ones(1)}))


def test_the_bundle_that_ships_is_a_candidate_by_name():
    candidate, config = load_candidate("tamiyo")
    assert (candidate.label, config, candidate.learned[1]) == ("tamiyo", None, "digits")
    assert load_candidate("mine=tamiyo")[0].label == "mine"

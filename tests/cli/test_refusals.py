"""Invalid input: exit code 2, a message with value and constraint, and no files."""

import pytest
import torch
from cli_builders import only_run

CUDA_DEVICES = torch.cuda.device_count()

REFUSED = {
    "preset": (["--preset", "digitz"], ["unknown preset 'digitz'", "did you mean 'digits'"]),
    "task": (["--task", "digit"], ["unknown task 'digit'", "did you mean 'digits'"]),
    "reward mode": (["--reward-mode", "basik"], ["reward.mode", "'basik'", "did you mean 'basic'"]),
    "slot": (["--slots", "r9c9"], ["no slot 'r9c9'", "r0c0, r0c1, r0c2"]),
    "slot id": (["--slots", "first"], ["growth.slots", "'first'", "r<row>c<column>"]),
    "slot twice": (["--slots", "r0c0,r0c0"], ["'r0c0' is listed twice"]),
    "device": (["--device", "gpu"], ["system.device", "'gpu'", "'cpu', 'cuda', 'cuda:<index>'"]),
    "devices": (["--devices", "cpu", "tpu:0"], ["system.devices", "'tpu:0'", "'cuda:<index>'"]),
    "missing device": (
        ["--device", f"cuda:{CUDA_DEVICES}"],
        [f"'cuda:{CUDA_DEVICES}' does not exist", f"{CUDA_DEVICES} CUDA devices"],
    ),
    "missing devices": (["--devices", "cpu", f"cuda:{CUDA_DEVICES}"], [f"'cuda:{CUDA_DEVICES}' does not exist"]),
    "unknown key": (
        ["--set", "ppo.learning_rte=1"],
        ["unknown key 'ppo.learning_rte'", "here: rounds, schedule"],
    ),
    "misspelt key": (["--set", "ppo.epochz=1"], ["unknown key 'ppo.epochz'", "did you mean 'ppo.epochs'"]),
    "misplaced key": (["--set", "momentum=0.5"], ["unknown key 'momentum'", "did you mean 'training.momentum'"]),
    "splits": (["--set", "task.validation_size=5000"], ["task 'digits'", "5000 validation", "of 1797"]),
    "batch": (["--set", "training.batch_size=5000"], ["training.batch_size 5000 exceeds the", "training examples"]),
    "host": (["--set", "host.blocks=5", "--set", "host.pools=5"], ["the host cannot work on examples of shape 1x8x8"]),
    "no key": (["--set", "=1"], ["--set takes KEY=VALUE", "'=1'"]),
    "no value": (["--slots", "--seed", "1"], ["--slots needs at least one value"]),
    "no pair": (["--set", "ppo.lr"], ["--set takes KEY=VALUE", "'ppo.lr'"]),
    "below a leaf": (["--set", "ppo.lr.x=1"], ["'lr' must hold a mapping", "'ppo.lr.x'"]),
    "envs": (["--envs", "0"], ["system.envs", "greater than or equal to 1", "got 0"]),
    "rounds": (["--rounds", "-3"], ["ppo.rounds", "greater than or equal to 1", "got -3"]),
    "seed": (["--seed", "-1"], ["seed", "greater than or equal to 0", "got -1"]),
    "wrong type": (["--set", "ppo.lr=fast"], ["ppo.lr", "valid number", "got 'fast'"]),
    "not finite": (["--set", "ppo.lr=.inf"], ["ppo.lr", "finite", "got inf"]),
    "no data": (["--data-dir", "/nowhere/data"], ["data directory /nowhere/data does not exist"]),
    "unwanted data": (["--data-dir", "/tmp"], ["'digits' carries its own data", "/tmp"]),
    "blueprint": (["--set", "growth.blueprints=[lora]"], ["no blueprint 'lora'", "r0c0 carries images", "conv_light"]),
    "two values": (
        ["--rounds", "3", "--set", "ppo.rounds=5"],
        ["ppo.rounds is given twice: 3 by --rounds, 5 by"],
    ),
    "set twice": (["--set", "ppo.lr=0.5", "--set", "ppo={lr: 0.25}"], ["ppo.lr is given twice: 0.5 by --set, 0.25 by"]),
    "doubled key": (["--set", "ppo={lr: 1, lr: 2}"], ["--set ppo: key 'lr' is given twice"]),
    "preset by set": (["--set", "preset=digits"], ["a preset is named by --preset"]),
    "run id": (["--run-id", "../x"], ["--run-id '../x'", "a name has at most 100 letters"]),
    "name": (["--set", "name=a b"], ["name: a name has at most 100 letters", "got 'a b'"]),
    "memory": (["--envs", "9000", "--episode-length", "90000"], ["system.envs 9,000 x episode_length 90,000 x", "GiB"]),
    "text for a number": (["--set", 'ppo.rounds="5"'], ["ppo.rounds", "valid integer", "got '5'"]),
    "true for a number": (["--set", "ppo.rounds=true"], ["ppo.rounds", "valid integer", "got True"]),
    "float for an integer": (["--set", "ppo.rounds=5.0"], ["ppo.rounds", "valid integer", "got 5.0"]),
    "digits": (["--set", f"ppo.rounds={'9' * 5000}"], ["--set ppo.rounds: an integer of 5,000 digits exceeds 40"]),
    "missing file": (["--config-json", "/nowhere/x.json"], ["cannot read configuration /nowhere/x.json"]),
    "workers": (["--num-workers", "4"], ["--num-workers 4", "it must be 0", "leave the flag out"]),
    "compile": (
        ["--compile-mode", "fast"],
        ["training.compile_mode", "mode 'fast'; did you mean 'default'? (known: off"],
    ),
    "captured": (["--compile-mode", "captured"], ["--compile-mode captured needs CUDA devices", "got cpu"]),
    "key as option": (["--lr", "1e-3"], ["has no option --lr", "--set ppo.lr=1e-3 or --set training.lr=1e-3"]),
    "no run": (["--resume", "/nowhere/run"], ["/nowhere/run is not a run directory", "manifest.json"]),
    "saving nowhere": (["--save", "/nowhere/deep/x"], ["--save /nowhere/deep/x", "must not exist yet"]),
    "saving over": (["--save", "/tmp"], ["--save /tmp", "must not exist yet"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_input_is_refused_with_value_and_constraint(case, train, runs):
    flags, expected = REFUSED[case]
    answer = train(*flags)
    assert answer.code == 2
    for text in expected:
        assert text in answer.err
    assert all(line.startswith("esper: error: ") for line in answer.err.splitlines())
    assert "Traceback" not in answer.err
    assert not runs.exists()


def test_an_unknown_option_is_refused_with_its_name(train, runs):
    answer = train("--ronds", "3")
    assert answer.code == 2
    assert "--ronds" in answer.err
    assert "--rounds" in answer.err
    assert not runs.exists()


def test_all_problems_are_listed(train):
    answer = train("--envs", "0", "--rounds", "0", "--set", "policy.size=3")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 3
    for key in ("system.envs", "ppo.rounds", "policy.size"):
        assert key in answer.err


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("reward.family=los", "unknown reward family 'los'; did you mean 'loss'?"),
        ("reward.family=loss", "reward family 'loss' has the mode 'shaped' only, got mode 'basic'"),
        ("reward.param_budget=0", "reward.param_budget"),
        ("reward.drip_fraction=1.5", "reward.drip_fraction"),
        ("reward.drip_fractoin=0.5", "did you mean 'reward.drip_fraction'?"),
        ("reward.loss.target_los=0.5", "did you mean 'reward.loss.target_loss'?"),
        ("reward.settlement.vesting_epochs=0", "reward.settlement.vesting_epochs"),
    ],
)
def test_invalid_rewards_are_refused(esper, setting, expected):
    answer = esper("config", "show", "--set", setting)
    assert answer.code == 2
    assert expected in answer.err


@pytest.mark.parametrize("command", ["ppo", "heuristic"])
def test_a_folder_that_cannot_be_written_is_refused(esper, command):
    answer = esper("train", command, "--telemetry-dir", "/proc/x")
    assert answer.code == 2
    assert "cannot write a run directory in /proc/x" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--episodes", "0"], "--episodes"),
        (["--num-workers", "4"], "--num-workers 4 is not possible"),
        (["--compile-mode", "captured"], "--compile-mode captured needs CUDA devices"),
        (["--lr", "1e-3"], "esper train heuristic has no option --lr"),
        (["--preset", "digitz"], "did you mean 'digits'"),
        (["--device", f"cuda:{CUDA_DEVICES}"], "does not exist"),
    ],
)
def test_invalid_input_of_the_heuristic_command_is_refused(esper, runs, flags, expected):
    answer = esper("train", "heuristic", "--telemetry-dir", runs, *flags)
    assert answer.code == 2
    assert expected in answer.err
    assert not runs.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("ppo: [", "cannot parse configuration"),
        ("[1]", "must hold a mapping, got list"),
        ("{}\n---\n{}", "more than one document"),
        ("seed: 1\nppo: {lr: 1, lr: 2}", "mine.yaml:2: key 'ppo.lr' is given twice, first in line 2"),
        ("ppo: {lr: 0.001}", "mine.yaml is not complete: schema_version, name, seed"),
        ("preset: digts", "mine.yaml:1: unknown preset 'digts'; did you mean 'digits'?"),
        ("preset: digits\nppo: {lr: -1}", "mine.yaml:2: ppo.lr: Input should be greater than 0 (got -1)"),
    ],
)
def test_an_invalid_configuration_file_is_refused_with_its_path(esper, tmp_path, content, expected):
    (tmp_path / "mine.yaml").write_text(content)
    answer = esper("config", "show", "--config-json", tmp_path / "mine.yaml")
    assert answer.code == 2
    assert expected in answer.err
    assert "mine.yaml" in answer.err


def test_a_run_without_a_checkpoint_cannot_be_resumed(esper, runs):
    """A heuristic run has none."""
    done = esper("train", "heuristic", "--episode-length", "1", "--telemetry-dir", runs)
    assert done.code == 0
    answer = esper("train", "ppo", "--serial", "--resume", only_run(runs).path)
    assert answer.code == 2
    assert "holds no complete checkpoint" in answer.err


def test_a_defect_of_the_program_keeps_its_traceback(esper, monkeypatch):
    def broken():
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("esper_ray.cli.commands.config.preset_names", broken)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        esper("config", "presets")


def test_a_task_that_reads_files_announces_that_they_are_loaded(train, tmp_path, runs):
    (tmp_path / "a.txt").write_text("abc")
    answer = train("--task", "text", "--data-dir", tmp_path)
    assert (answer.code, answer.out) == (2, f"loading the data of text from {tmp_path}\n")
    assert not runs.exists()

"""Help texts, the table of flags, and suggestions for unknown options."""

import re
import shlex

import pytest
from typer.main import get_command

from esper_ray.cli.main import COMMANDS, app, spread
from esper_ray.cli.options import FLAGS, NO_OPS, PLAYER_DEVICE, TRIAL_SERIAL, configuration_keys
from esper_ray.leyline.config.run import RunConfig

ROOT = get_command(app)
CONFIGURED = ("train ppo", "train heuristic", "evaluate", "sweep")


def leaves(command, path):
    """All commands without subcommands, by path."""
    commands = getattr(command, "commands", None)
    if commands is None:
        return {path: command}
    return {p: leaf for name in commands for p, leaf in leaves(commands[name], f"{path} {name}").items()}


def groups(command, path):
    """All commands with subcommands, by path."""
    commands = getattr(command, "commands", None)
    if commands is None:
        return {}
    return {path: command} | {
        p: group for name in commands for p, group in groups(commands[name], f"{path} {name}").items()
    }


LEAVES, GROUPS = leaves(ROOT, "esper"), groups(ROOT, "esper")


def options(path):
    return {name: parameter for parameter in LEAVES[f"esper {path}"].params for name in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_the_first_line_of_its_help(name):
    assert ROOT.commands[name].help.split("\n\n")[0] == COMMANDS[name].summary


def test_the_help_lists_train_first_and_every_command(esper):
    answer = esper("--help")
    names = re.findall(r"│ ([a-z][a-z-]+) +[A-Z]", answer.out)
    assert answer.code == 0
    assert names == list(COMMANDS)
    assert names[0] == "train"


@pytest.mark.parametrize("path", LEAVES)
def test_every_help_has_an_example_that_can_be_parsed(path):
    (example,) = re.findall(r"^Example: (.*)$", LEAVES[path].help, re.M)
    arguments = spread(shlex.split(example))
    names = path.split()
    assert arguments[: len(names)] == names or path == "esper submit"
    LEAVES[path].make_context(path, arguments[len(names) :])


@pytest.mark.parametrize("path", GROUPS)
def test_the_help_of_a_group_has_an_example_of_one_of_its_commands(path):
    (example,) = re.findall(r"^Example: (.*)$", GROUPS[path].help, re.M)
    assert example.startswith(f"{path} ")
    (leaf,) = [name for name in LEAVES if example.startswith(f"{name} ")]
    LEAVES[leaf].make_context(leaf, spread(shlex.split(example))[len(leaf.split()) :])


def test_the_groups_are_the_commands_with_subcommands():
    assert [*GROUPS] == ["esper", "esper train", "esper dashboards", "esper config"]


@pytest.mark.parametrize("path", LEAVES)
def test_every_option_has_a_help_text_in_one_style(path):
    for parameter in LEAVES[path].params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        assert parameter.help, (path, parameter.name)
        assert not parameter.help.endswith("."), (path, parameter.name)
        assert len(parameter.help.split()) <= 15, (path, parameter.name)


@pytest.mark.parametrize("path", LEAVES)
def test_every_argument_has_a_metavar_in_capitals(path):
    for parameter in LEAVES[path].params:
        if parameter.param_type_name == "argument":
            assert re.search("[A-Z]{3}", parameter.metavar or ""), (path, parameter.name)


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_sets_an_existing_key(name):
    assert FLAGS[name].key in configuration_keys()


def test_the_keys_contain_the_default_configuration_and_all_families():
    assert set(RunConfig().flat()) <= set(configuration_keys())
    assert {"host.family", "host.base_channels", "host.heads", "reward.loss.target_loss"} <= set(configuration_keys())


@pytest.mark.parametrize("path", CONFIGURED)
def test_commands_share_the_flags_of_the_table(path):
    accepted = options(path)
    own = {"device": PLAYER_DEVICE, "serial": TRIAL_SERIAL}
    shared = [flag for flag in FLAGS.values() if flag.option in accepted]
    assert {"--task", "--data-dir", "--episode-length"} <= {flag.option for flag in shared}
    for flag in shared:
        assert accepted[flag.option].help in {flag.help, own.get(flag.name, flag).help}


@pytest.mark.parametrize("path", ["train ppo", "train heuristic"])
def test_flags_without_effect_are_accepted_but_hidden_in_the_help(esper, path):
    answer = esper(*path.split(), "--help")
    for name in NO_OPS:
        option = f"--{name.replace('_', '-')}"
        assert option in options(path)
        assert option not in answer.out


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["train", "ppo", "--lr", "1e-3"], "did you mean --set ppo.lr=1e-3 or --set training.lr=1e-3?"),
        (["train", "ppo", "--learning-rate", "3"], "did you mean --set ppo.lr=3 or --set training.lr=3?"),
        (["train", "ppo", "--gamma=0.9"], "did you mean --set gamma=0.9?"),
        (["train", "ppo", "--batch-size", "32", "--serial"], "did you mean --set training.batch_size=32?"),
        (["train", "ppo", "--epochs", "3"], "did you mean --ppo-epochs 3?"),
        (["train", "ppo", "--ppo.clip", "0.1"], "did you mean --set ppo.clip=0.1?"),
        (["train", "ppo", "--augment"], "did you mean --set task.augment=VALUE?"),
        (["train", "ppo", "--wait-logit", "-1"], "did you mean --set policy.wait_logit=-1?"),
        (["train", "heuristic", "--momentum", "0"], "did you mean --set training.momentum=0?"),
        (["train", "heuristic", "--rounds", "3"], "did you mean --set ppo.rounds=3?"),
        (["evaluate", "static", "--examples", "9"], "did you mean --set measurement.examples=9?"),
        (["sweep", "--gae-lambda", "1"], "did you mean --set ppo.gae_lambda=1?"),
        (["config", "show", "--task.name", "x"], "did you mean --set task.name=x?"),
        (["submit", "--", "train", "ppo", "--gamma", "1"], "esper train ppo has no option --gamma"),
    ],
)
def test_an_option_named_like_a_key_is_refused_with_the_setting(esper, arguments, suggestion):
    answer = esper(*arguments)
    assert answer.code == 2
    assert suggestion in answer.err
    assert len(answer.err.splitlines()) == 1


def test_an_option_without_a_similar_key_is_refused_as_unknown(esper):
    answer = esper("train", "ppo", "--xyzzy", "1")
    assert answer.code == 2
    assert "--xyzzy" in answer.err
    assert "--set" not in answer.err


@pytest.mark.parametrize(
    ("option", "suggested"),
    [("--num-envs", ["--envs"]), ("--num-worker", []), ("--gpu-preloads", ["--gpus-per-actor"])],
)
def test_hidden_flags_are_not_suggested(esper, option, suggested):
    answer = esper("train", "ppo", option, "3")
    assert answer.code == 2
    assert [name for name in re.findall(r"--[a-z-]+", answer.err) if name not in (option, "--help")] == suggested


def test_version_is_an_option_and_a_command(esper):
    assert esper("--version").out == esper("version").out == "esper-ray 0.1.0\n"


def test_an_unknown_command_is_refused_with_the_nearest(esper):
    answer = esper("trian")
    assert answer.code == 2
    assert "Did you mean 'train'" in answer.err

"""Commands and programs in the documentation: each is run, or parsed, or listed with a reason."""

import ast
import importlib
import re
import runpy
import sys
import tomllib
import warnings
from types import SimpleNamespace

import pytest
import typer
from cli_builders import SMALL, call, only_run, train_below
from docs_blocks import ROOT, blocks, commands, documents, esper_words, inline_commands
from plugin_builders import install_examples

from esper_ray.cli.main import app, spread
from esper_ray.cli.options import ConfigRequest, own_host
from esper_ray.leyline.config.loading import build, preset_names, read_preset
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.sweep import SCHEDULERS, sweep_names
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.tolaria.tasks import task_names
from evidence.__main__ import selected

SHORT = ["--episode-length", "3", "--set", "training.steps_per_epoch=2"]
RUN = {
    "esper version": [],
    "esper version --verbose": [],
    "esper config presets": [],
    "esper config show --preset digits": [],
    "esper config schema": [],
    "esper tasks": [],
    "esper train ppo --preset digits --serial": [*SMALL, "--rounds", "1"],
    "esper train heuristic --preset digits --episodes 1": SHORT,
    "esper train ppo --resume runs/<run_id>": ["--serial"],
    "esper events runs/<run_id> --kind gate --env 3": ["--env", "1"],
    "esper events runs/<run_id> --episode 3 --slot r0c1 --limit 0": [],
    "esper events runs/<run_id> --kind anomaly --format json": [],
    "esper explain runs/<run_id> --episode 3 --step 17": ["--step", "2"],
    "esper explain runs/<run_id> --env 0 --slot r0c1": [],
    "esper sql runs/<run_id>": [],
    "esper sql runs/<run_id> 'SELECT round, avg(total_reward) FROM outcome GROUP BY round'": [],
    "esper sql runs/<run_id> 'SELECT round, avg(total_reward) FROM outcome GROUP BY round' --format csv": [],
    "esper replay runs/<run_id> --episode 3": [],
    "esper evaluate runs/<run_id> heuristic --seeds 20": ["--seeds", "2", "--serial"],
    "esper export-policy runs/<run_id> tamiyo.esper": ["--force"],
    "esper export-policy runs/<run_id> tamiyo.esper --round 5 --force": ["--round", "1"],
    "esper dashboards check": ["--folder", ROOT / "dashboards"],
}
"""Commands that are run, with the options that make them short; ``<run_id>`` is a small finished run."""

ONLY_PARSED = {
    "reference/command-line.md": "examples of help texts, which tests/cli/test_help_texts.py checks",
    "train ppo": "trains on Ray, on GPUs, into a storage, or for minutes; short forms are run",
    "evaluate": "plays many episodes of a long run; a short form is run",
    "sweep": "starts Ray and a process per trial; tests/cli/test_sweeps_on_ray.py runs short sweeps",
    "submit": "needs a cluster; tests/cli/test_submit_on_ray.py starts one",
    "overwatch": "serves until it is stopped; tests/karn/overwatch starts servers",
    "sanctum": "needs a terminal; tests/karn/sanctum presses its keys",
    "monitor": "needs Prometheus; tests/cli/commands/training/test_monitor.py starts one",
    "report": "needs a long run; tests/cli/commands/inspection/test_report.py writes reports",
    "flight": "needs a run that failed; tests/cli/commands/inspection/test_flight.py records some",
    "dashboards render": "writes into the repository; tests/cli/commands/test_dashboards.py writes into a folder",
    "dashboards push": "needs Grafana; tests/cli/commands/test_dashboards.py replaces it",
}
"""Commands of ``esper`` that are only parsed, by page or by their first words, with the reason."""

TINY = {
    "system.workers": "local",
    "system.envs": 2,
    "episode_length": 3,
    "training.steps_per_epoch": 2,
    "policy.memory_size": 16,
    "policy.feature_size": 16,
}
ONE_PROCESS = {
    "init_process_group()": "init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)",
}
RUN_PROGRAMS = {
    "README.md[0]": {},
    "guides/own-model.md[0]": {"epochs=20": "epochs=6"},
    "guides/own-model.md[1]": {},
    "guides/own-model.md[2]": {},
    "guides/own-model.md[3]": {},
    "guides/own-parts.md[0]": {},
    "guides/own-parts.md[1]": {},
    "guides/own-parts.md[2]": {},
    "guides/python.md[0]": {
        '{"system.workers": "local", "system.envs": 4, "ppo.lr": 1e-3}': str(TINY),
        "rounds=3": "rounds=1",
    },
    "guides/python.md[1]": {'{"system.workers": "local"}': str(TINY), "rounds=20": "rounds=1"},
    "guides/python.md[2]": {"epochs=40": "epochs=2"},
    "guides/scheduler.md[0]": {"epochs=20": "epochs=6", "T_max=17": "T_max=3"},
    "guides/scheduler.md[1]": {},
    "guides/scheduler.md[2]": {},
    "guides/several-gpus.md[0]": {**ONE_PROCESS, "epochs=20": "epochs=2", "256": "32"},
    "guides/several-gpus.md[1]": {**ONE_PROCESS, "range(4)": "range(3)", "64": "16"},
    "guides/several-gpus.md[2]": {},
    "guides/trainers.md[0]": {"=20": "=3", "accelerator=": "enable_progress_bar=False, accelerator="},
    "guides/trainers.md[1]": {
        "=5": "=2",
        "return 64": "return 16",
        "report_to=": "save_strategy='no', dataloader_pin_memory=False, report_to=",
    },
    "guides/trainers.md[2]": {},
    "guides/wider.md[0]": {},
    "guides/wider.md[1]": {},
    "guides/wider.md[2]": {},
    "guides/wider.md[3]": {},
    "start/next-steps.md[0]": {'load_preset("digits")': f'load_preset("digits", {TINY})', "rounds=2": "rounds=1"},
    "start/next-steps.md[1]": {},
}
"""Programs that are run, with the replacements that make them short."""

HELD_OUT = "import torch; held_out_images, labels = torch.randn(20, 3, 32, 32), torch.arange(20) % 10"
BATCHES = "batches = [(torch.randn(4, 3, 32, 32), torch.arange(4))]"
PRECEDING = {
    "guides/python.md[2]": ("guides/python.md[0]", f"{HELD_OUT}; {BATCHES}"),
}
"""Program of the same page that must run before, and the code that replaces the reader's data."""

PARSED_PROGRAMS = {
    "guides/own-model.md[4]": "registers a class that stands for the reader's own",
    "results/own-models.md[0]": "trains for minutes; tests/examples runs a short form",
    "guides/rllib.md[0]": "starts Ray; tests/actors/rllib/test_training.py trains with the same configuration",
}
"""Programs of which only syntax and imports are checked, with the reason."""

SLOW_IMPORTS = {
    "README.md[0]",
    "guides/own-model.md[0]",
    "guides/python.md[0]",
    "guides/rllib.md[0]",
    "guides/scheduler.md[0]",
    "guides/trainers.md[0]",
    "guides/trainers.md[1]",
    "results/own-models.md[0]",
}
"""Programs whose imports take seconds."""

PROGRAMS = [
    pytest.param(block, marks=[pytest.mark.integration] if str(block) in SLOW_IMPORTS else [])
    for block in blocks("python")
]

OTHER_PROGRAMS = {
    "torchrun": "starts several processes; tests/kasmina/ranks trains in two",
    "pip": "installs into the reader's environment",
    "docker": "needs a Docker daemon",
    "kubectl": "needs a Kubernetes cluster",
    "ray": "needs a Ray cluster of several machines",
    "cp": "of the shell",
    "cmp": "of the shell",
    "export": "of the shell",
    "source": "of the shell",
    "sha256sum": "of the shell",
}
"""Foreign programs, with the reason why they are not run. Repository paths in their arguments must exist."""

VALUES = {
    "preset": preset_names(),
    "reward_mode": (*REWARD_MODES, "frugal"),  # the reward of examples/own_reward
    "reward_modes": (*REWARD_MODES, "all", "frugal"),
    "scheduler": SCHEDULERS,
    "sweep": (*sweep_names(), "FILE"),
    "kind": tuple(KINDS),
    "task": (*task_names(), "arrays"),  # the reader's own, of guides/own-task.md
}
"""Valid names by parameter."""

PLACEHOLDERS = {"N": "0"}
"""Values for placeholders within sentences."""

COMMANDS = [(block, words) for block in blocks("bash") for words in commands(block.text)]
ESPER = [(block, esper_words(words)) for block, words in COMMANDS if esper_words(words) is not None]


@pytest.fixture(scope="module", autouse=True)
def installed_examples(tmp_path_factory):
    """The packages of guides/own-parts.md."""
    with pytest.MonkeyPatch.context() as patch:
        install_examples(tmp_path_factory.mktemp("site"), patch)
        yield


def parsed(words):
    """The context of ``esper WORDS``; an unknown command, option or kind of value raises."""
    command, context, name, rest = typer.main.get_command(app), None, "esper", spread(words)
    while hasattr(command, "list_commands") and rest and not rest[0].startswith("-"):
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
        wanted = rest[0]
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None, f"esper has no command {wanted}"
    if "--help" in rest or hasattr(command, "list_commands"):
        return SimpleNamespace(params={}, info_name=name)
    return command.make_context(name, list(rest), parent=context)


def check(words):
    """Parse ``esper WORDS``, with the command of a job or a monitored run in it, and check names and settings."""
    context = parsed(words)
    for name, choices in VALUES.items():
        value = context.params.get(name)
        for item in [value] if isinstance(value, str) else value or []:
            assert item in choices, f"--{name} {item}: not one of {', '.join(choices)}"
    host, flags = context.params.get("host"), {"reward.mode": context.params.get("reward_mode")}
    flags |= {} if host is None else own_host(host)
    ConfigRequest(context.params.get("preset"), None, flags, context.params.get("settings")).configuration()
    for point in context.params.get("grid") or []:
        key, _, values = point.partition("=")
        for value in values.split(","):
            build(read_preset("digits"), {key: float(value)})
    if context.info_name == "submit" and context.params["command"]:
        check(context.params["command"])
    if context.info_name == "monitor" and context.params["arguments"]:
        check(["train", "ppo", *context.params["arguments"]])


@pytest.mark.parametrize(("block", "words"), ESPER, ids=lambda value: " ".join(value) if type(value) is list else None)
def test_every_esper_command_of_a_block_is_parsed(block, words):
    check(words)


def test_every_esper_command_within_a_sentence_is_parsed():
    for page, words in inline_commands():
        try:
            check([PLACEHOLDERS.get(word, word) for word in words if word not in {"COMMAND", "..."}])
        except Exception as error:
            if type(error).__name__ != "MissingParameter":  # a sentence may omit arguments
                raise AssertionError(f"{page}: esper {' '.join(words)}: {error}") from error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "ppo", "--presett", "digits"], "presett"),
        (["train", "ppo", "--preset", "digts"], "digts"),
        (["train", "ppo", "--rounds", "many"], "valid integer"),
        (["train", "ppo", "--set", "ppo.lrr=1"], "lrr"),
        (["trane", "ppo"], "trane"),
        (["submit", "--", "train", "ppo", "--rouns", "2"], "rouns"),
        (["monitor", "--", "--rouns", "2"], "rouns"),
        (["events", "RUN", "--kind", "gates"], "gates"),
    ],
)
def test_an_unknown_command_option_or_name_is_found(words, message):
    with pytest.raises(Exception, match=message):
        check(words)


@pytest.mark.parametrize(
    ("block", "words"), [pair for pair in COMMANDS if esper_words(pair[1]) is None], ids=lambda value: str(value)[:60]
)
def test_every_other_command_names_existing_targets_and_files(block, words):
    program = words[0].removeprefix(".venv/bin/")
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
        for variable in words[2:]:
            name, _, value = variable.partition("=")
            assert (name == "ONLY" and selected(value.split())) or name == "ARGS"
            check(["train", "ppo", *(value.split() if name == "ARGS" else ())])
    elif program == "uv":
        assert words[1:] == ["build", "--wheel"]  # tests/docker/test_wheel.py builds it
    elif program == "pip":
        assert words[1] == "install"
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        source, _, extras = words[2].removesuffix("]").partition("[")
        assert source in {".", f"dist/esper_ray-{project['version']}-py3-none-any.whl"}
        assert {*extras.split(",")} <= {"", *project["optional-dependencies"]}
    elif program == "python" and words[1] == "-m":
        path = ROOT / words[2].replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    else:
        assert program in {"python", "pytest", "mkdocs", *OTHER_PROGRAMS}
    for word in words[1:]:
        if re.fullmatch(r"(actors|benchmarks|configs|docker|docs|evidence|examples|policies|tests)/\S+", word):
            assert (ROOT / word).exists() or (ROOT / word).name == ".env"


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_every_program_has_valid_syntax_and_imports(block):
    assert str(block) in {*RUN_PROGRAMS, *PARSED_PROGRAMS}, "list the program as run, or with a reason"
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def reasons(block, words):
    """The keys of ``ONLY_PARSED`` that hold for ``esper WORDS`` of ``block``."""
    return [key for key in ONLY_PARSED if block.page == key or words[: len(key.split())] == key.split()]


def test_every_esper_command_is_run_or_has_a_reason():
    run = [command.replace("'", "") for command in RUN]
    parsed_only = [(block, words) for block, words in ESPER if " ".join(["esper", *words]) not in run]
    assert [" ".join(words) for block, words in parsed_only if not reasons(block, words)] == []
    assert {key for block, words in parsed_only for key in reasons(block, words)} == {*ONLY_PARSED}


def test_every_listed_command_and_program_is_in_the_documentation():
    written = {" ".join(["esper", *words]) for _, words in ESPER}
    assert {command.replace("'", "") for command in RUN} <= written
    assert {*RUN_PROGRAMS, *PARSED_PROGRAMS} == {str(block) for block in blocks("python")}
    used = {words[0] for _, words in COMMANDS}
    assert set(OTHER_PROGRAMS) <= used


def test_every_path_in_back_ticks_and_in_links_of_top_level_pages_exists():
    folders = "actors|benchmarks|configs|dashboards|docker|docs|esper_ray|evidence|examples|policies|tests"
    texts = {**documents(), "dashboards/README.md": (ROOT / "dashboards" / "README.md").read_text()}
    paths = [(page, path) for page, text in texts.items() for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", text)]
    for page in ("README.md", "CONTRIBUTING.md"):
        paths += [(page, link) for link in re.findall(r"\]\(([^)#:]+)", texts[page])]
    assert len(paths) > 100
    assert [(page, path) for page, path in paths if not (ROOT / path).exists()] == []


def test_every_block_names_a_language():
    for page, text in documents().items():
        opening = re.findall(r"^```(.*)$", text, re.MULTILINE)[::2]
        assert {*opening} <= {"bash", "python", "text", "toml", "yaml"}, page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one finished run of two rounds in ``runs``."""
    folder = tmp_path_factory.mktemp("docs")
    assert train_below(folder / "runs", "--rounds", "2").code == 0
    return folder


@pytest.fixture(scope="module")
def run_id(folder):
    """The name of that run."""
    return only_run(folder / "runs").path.name


@pytest.mark.integration
@pytest.mark.parametrize("command", RUN)
def test_a_listed_command_succeeds(command, folder, run_id, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    ((words, *_),) = [commands(command.replace("<run_id>", run_id))]
    output = ["--telemetry-dir", tmp_path] if "ppo" in words and "--resume" not in words else []
    answer = call(*words[1:], *RUN[command], *output)
    assert answer.code == 0, answer.err
    assert answer.err.count("Traceback") == 0


NIGHTLY_PAGES = ("guides/trainers.md", "guides/several-gpus.md", "guides/scheduler.md", "guides/python.md")
"""Pages whose programs take seconds each; the first of each runs by day."""


def by_night(name):
    return name.startswith(NIGHTLY_PAGES) and not name.endswith("[0]")


@pytest.mark.integration
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if by_night(name) else []) for name in RUN_PROGRAMS]
)
def test_a_listed_program_succeeds(name, folder, run_id, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": name}
    if name in PRECEDING:
        first, data = PRECEDING[name]
        exec(program(first), namespace)
        exec(data, namespace)
        assert call("export-policy", folder / "runs" / run_id, "tamiyo.esper").code == 0
    with warnings.catch_warnings():
        if name.startswith("guides/trainers.md"):
            warnings.simplefilter("ignore")  # Lightning and transformers warn of their own parts
        exec(program(name), namespace)


@pytest.mark.nightly
@pytest.mark.integration
def test_the_example_of_training_from_python_ends_with_a_policy(monkeypatch, tmp_path, capsys):
    options = ["--rounds", "1", "--envs", "1", "--run", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["train_from_python.py", *options])
    runpy.run_path(str(ROOT / "examples" / "train_from_python.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("round 1/1 ") for line in lines)  # a slow machine shows the round in play before
    assert lines[-3] == f"finished: {tmp_path / 'run'}"
    assert re.fullmatch(r"policy of [\d,]+ parameters, trained on digits", lines[-1])


def program(name):
    """The code of a block, with the replacements that make it short."""
    (text,) = [block.text for block in blocks("python") if str(block) == name]
    for long, short in RUN_PROGRAMS[name].items():
        assert long in text
        text = text.replace(long, short)
    return compile(text, name, "exec")

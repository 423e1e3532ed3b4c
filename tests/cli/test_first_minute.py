"""The command line before heavy imports: refusals, help, completion."""

import json
import os
import re
import subprocess
import sys

import pytest

from esper_ray import _is_command_line
from esper_ray.cli.main import COMMANDS

pytestmark = pytest.mark.integration

HEAVY = {"torch", "ray", "gymnasium", "matplotlib", "pyarrow", "sklearn"}
REFUSED = {
    "preset": ["train", "ppo", "--preset", "digts"],
    "preset for a named run": ["train", "ppo", "--preset", "digts", "--run-id", "r", "--storage", "file:///tmp/x"],
    "misspelt key": ["train", "ppo", "--set", "ppo.lrr=1"],
    "value": ["train", "ppo", "--rounds", "-3"],
    "key as option": ["train", "ppo", "--lr", "1e-3"],
    "heuristic": ["train", "heuristic", "--preset", "digts"],
    "evaluate": ["evaluate", "heuristic", "--preset", "digts"],
    "sweep": ["sweep", "--preset", "digts"],
    "grid": ["sweep", "--grid", "ppo.lrr=1,2"],
    "show": ["config", "show", "--preset", "digts"],
}
HELPS = {f"help of {name}": [name, "--help"] for name in COMMANDS}
PROGRAM = """
import json, sys
sys.argv = ["esper"]
from esper_ray.cli.main import main
cases, heavy = json.loads(sys.stdin.read())
answers, before = {}, set()
for case, words in cases.items():
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        code = end.code
    answers[case] = code, sorted((set(sys.modules) - before).intersection(heavy))
    before = set(sys.modules)
sys.__stdout__.write("\\n" + json.dumps(answers))
"""


def imported_modules(*arguments):
    """Exit code of ``python -m esper_ray <words>``, and the modules that it imported."""
    command = [sys.executable, "-v", "-m", "esper_ray", *arguments]
    process_result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return process_result.returncode, set(re.findall(r"^import '([\w.]+)'", process_result.stderr, re.M))


@pytest.fixture(scope="module")
def answers():
    """Exit code and newly imported heavy modules of each case, one after another in one process."""
    cases = json.dumps([REFUSED | HELPS, sorted(HEAVY)])
    process_result = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=cases, capture_output=True, text=True, check=True
    )
    return json.loads(process_result.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_configuration_imports_nothing_heavy(answers, case):
    assert answers[case] == [2, []]


@pytest.mark.parametrize("case", HELPS)
def test_the_help_of_a_command_imports_nothing_heavy(answers, case):
    assert answers[case] == [0, []]


def test_a_misspelt_preset_is_refused_with_the_configuration_alone_imported():
    code, modules = imported_modules("train", "ppo", "--preset", "digts")
    assert code == 2
    prefix = "esper_ray.cli.commands."
    commands = {name.removeprefix(prefix) for name in modules if name.startswith(prefix)}
    assert commands == {
        "training",
        "training.train",
        "training.watching",
    }
    assert "esper_ray.leyline.config.run" in modules
    assert not modules & HEAVY
    assert not [name for name in modules if name.startswith(("esper_actors", "esper_policies", "esper_ray.tolaria"))]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command_and_no_configuration(option):
    code, modules = imported_modules(option)
    assert code == 0
    assert not modules & (HEAVY | {"pydantic", "yaml", "numpy"})
    assert not [name for name in modules if name.startswith(("esper_ray.cli.commands", "esper_ray.leyline.config"))]


@pytest.mark.parametrize(("arguments", "seconds"), [(["--help"], 2.0), (["train", "ppo", "--preset", "digts"], 4.0)])
def test_help_and_refusal_take_little_cpu_time(arguments, seconds):
    """Generous, since other processes share the machine; benchmarks/runs/command_line.py has the figures."""
    process = subprocess.Popen(
        [sys.executable, "-m", "esper_ray", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 2)
    assert usage.ru_utime + usage.ru_stime < seconds


def test_python_m_esper_ray_runs_the_command():
    process_result = subprocess.run(
        [sys.executable, "-m", "esper_ray", "--version"], capture_output=True, text=True, check=True
    )
    assert process_result.stdout == "esper-ray 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "number", "completions"),
    [
        ("esper tr", 1, ["train"]),
        ("esper train ", 2, ["ppo", "heuristic"]),
        ("esper train ppo --preset digi", 4, ["digits", "digits_long"]),
        ("esper evaluate --ep", 2, ["--episode-length"]),
        ("esper train ppo --gpu", 3, ["--gpus-per-actor"]),
    ],
)
def test_the_shell_completes_commands_options_and_presets(arguments, number, completions):
    variables = {"_ESPER_COMPLETE": "complete_bash", "COMP_WORDS": arguments, "COMP_CWORD": str(number)}
    process_result = subprocess.run(
        [sys.executable, "-m", "esper_ray"], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert process_result.stdout.split() == completions


@pytest.mark.parametrize(
    ("program", "command", "expected"),
    [
        ("/usr/bin/esper", ["/usr/bin/python", "/usr/bin/esper", "--help"], True),
        ("-m", ["python", "-m", "esper_ray", "--help"], True),
        ("-m", ["python", "-X", "dev", "-m", "esper_ray.cli.main"], True),
        ("-m", ["python", "-m", "esper_ray.nissa.catalogue.pages"], False),
        ("-m", ["python", "-m", "mine", "-m", "esper_ray"], False),
        ("train.py", ["python", "train.py", "-m", "esper_ray"], False),
        ("-c", ["python", "-c", "import esper_ray"], False),
        ("", ["python"], False),
    ],
)
def test_only_the_command_skips_the_registration_with_gymnasium(monkeypatch, program, command, expected):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "orig_argv", command)
    assert _is_command_line() is expected


@pytest.mark.parametrize("imports", ["esper_ray, gymnasium", "gymnasium, esper_ray"])
def test_the_environment_is_registered_in_either_order_of_imports(imports):
    program = f'import {imports}; print(gymnasium.spec("esper_ray/Morphogenesis-v0").entry_point)'
    process_result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process_result.stdout == "esper_ray.environment:make_environment\n"

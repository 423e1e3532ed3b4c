"""Exception classes: what a user can correct derives from UserError and says what to do."""

import ast
from pathlib import Path

import pytest

from esper_ray.cli.errors import reported
from esper_ray.leyline.errors import UsageError, UserError

ROOT = Path(__file__).parents[1]
PACKAGES = ("esper_ray", "actors", "policies")
INTERNAL = {
    "DocumentError": "a text that is not YAML or JSON of ours; what reads it adds the file and raises its own error",
    "Interrupted": "a request to stop, handled by the controller",
    "RecordError": "a record of ours that is not as its kind is declared: a fault of the program",
    "RewardError": "a measurement that is not finite; the environment's user sees it, no command raises it",
    "LifecycleError": "a misuse of the Python interface of a growing model",
    "LayoutError": "features of a slot that no seed can work on; a command reports it as a fault of the own host",
    "CopyError": "a host that cannot be copied; the Python interface of a growing model reports it",
    "NoStepError": "a call between two layers that may mix channels; the search of spans reports it with the layers",
    "PlaceError": "a submodule that no seed can be built in behind; a command reports it as a fault of the own host",
    "LearnerStateError": "a state that does not fit the learner; what reads a checkpoint adds the file",
    "StateError": "a summary of another version, handled by folding the events",
    "RecordingError": "a damaged snapshot of an episode, handled by playing the episode from its beginning",
}
"""Exception classes that no command raises for a user's mistake, and why."""


def exception_classes():
    """Name to (bases, whether the class has a remedy) of every exception class in our packages."""
    classes = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                    assigned = [
                        target.id for part in node.body if isinstance(part, ast.Assign) for target in part.targets
                    ]
                    classes[node.name] = (bases, "remedy" in assigned)
    error_names = {"Exception", "BaseException", "ValueError", "RuntimeError", "OSError", "TypeError", "KeyError"}
    errors, grown = {}, True
    while grown:
        new = {name for name, (bases, _) in classes.items() if name not in errors and error_names & {*bases}}
        error_names |= new
        errors |= {name: classes[name] for name in new}
        grown = bool(new)
    return errors


def derives(name, classes):
    return name == "UserError" or any(derives(base, classes) for base in classes.get(name, ((), False))[0])


def test_every_exception_class_is_a_user_error_or_listed_as_internal():
    classes = exception_classes()
    rest = {name for name in classes if not derives(name, classes)}
    assert rest == set(INTERNAL)
    assert len(classes) > 25


def test_a_long_line_of_a_message_is_shown_without_its_middle():
    error = UsageError("a" * 1500 + "b" * 1500 + "\nanother line")
    long, short = str(error).split("\n")
    assert (long, short) == ("a" * 1000 + " ... " + "b" * 1000, "another line")
    assert str(UsageError("a" * 2000)) == "a" * 2000


def test_control_characters_of_a_message_are_escaped():
    assert str(UsageError("a\x0fb\x1b[31m\rc\nd \ud83d ä")) == "a\\x0fb\\x1b[31m\\rc\nd \\ud83d ä"


def test_every_user_error_has_a_remedy_of_its_own():
    classes = exception_classes()
    without = [name for name, (_, remedy) in classes.items() if derives(name, classes) and not remedy]
    assert without == ["UserError"]


def test_a_user_error_is_printed_line_by_line_without_traceback(capsys):
    with pytest.raises(SystemExit) as end, reported():
        raise UsageError("--seed -1\nmust be at least 0")
    assert end.value.code == 2
    assert capsys.readouterr().err == "esper: error: --seed -1\nesper: error: must be at least 0\n"


def test_a_user_error_exits_with_its_own_code(capsys):
    class Lost(UserError):
        exit_code = 1

    with pytest.raises(SystemExit) as end, reported():
        raise Lost
    assert end.value.code == 1
    assert capsys.readouterr().err == "esper: error: Lost\n"


def test_another_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), reported():
        raise ZeroDivisionError


def test_a_path_that_is_too_long_is_a_user_error_of_every_command(capsys):
    with pytest.raises(SystemExit) as end, reported():
        Path("x" * 300).read_bytes()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("esper: error: 'xxx")
    with pytest.raises(FileNotFoundError), reported():
        Path("/nowhere/x").read_bytes()

"""``esper sanctum`` where it cannot show anything."""

import sys

import pytest
from cli_builders import call

from esper_ray.leyline.errors import MissingExtraError


@pytest.fixture
def terminal(monkeypatch):
    """Standard input and output count as a terminal."""
    import esper_ray.cli.commands.inspection.sanctum as module

    monkeypatch.setattr(module, "is_terminal", lambda: True)


def test_without_a_terminal_nothing_is_shown(tmp_path):
    answer = call("sanctum", tmp_path)
    assert answer.code == 2
    assert answer.err.startswith("esper: error: esper sanctum needs a terminal")


def test_an_unknown_run_is_one_line_and_exit_code_2(terminal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call("sanctum", "runs/none")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "there is no run 'runs/none': it does not exist" in answer.err


def test_without_the_extra_the_message_says_how_to_install_it(terminal, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "esper_ray.karn.sanctum.app", raising=False)
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.chdir(tmp_path)
    answer = call("sanctum")
    assert answer.code == MissingExtraError.exit_code == 2
    assert "install it with `uv sync --extra karn`" in answer.err

"""What surrounds a command: arguments, working folder, standard output, files of a run that are none."""

import os
import subprocess
import sys

import pytest
from cli_builders import call
from report_builders import small_run

pytestmark = pytest.mark.integration


def ended(*words, **streams):
    """Exit code and standard error of a command with other outputs."""
    command = [sys.executable, "-m", "esper_ray.cli.main", *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    done = subprocess.run(command, **streams, text=True, timeout=120, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words", [["events", "a\udcff"], ["config", "show", "--set", "name=\udcff"], ["report", "run", "-o", "\udcff.html"]]
)
def test_an_argument_that_is_not_utf_8_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(*words)
    assert (answer.code, os.listdir(tmp_path)) == (2, [])
    assert answer.err.startswith("esper: error: the argument '")
    assert answer.err.endswith("\\udcff.html' is not UTF-8\n" if "-o" in words else "\\udcff' is not UTF-8\n")


def test_a_working_folder_that_was_removed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    answer = call("config", "presets")
    monkeypatch.chdir(tmp_path)
    assert answer.code == 2
    assert answer.err.startswith("esper: error: the working folder cannot be used: No such file or directory")


def test_a_working_folder_whose_name_is_not_utf_8_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "a\udcff"
    folder.mkdir()
    monkeypatch.chdir(folder)
    answer = call("config", "presets")
    assert answer.code == 2
    assert "a\\udcff' is not UTF-8; change to another one" in answer.err


@pytest.mark.parametrize("words", [["config", "presets"], ["--help"]])
def test_a_full_standard_output_is_one_message_and_exit_code_1(words):
    with open("/dev/full", "w") as full:
        code, err = ended(*words, stdout=full)
    assert (code, err) == (1, "esper: error: the standard output cannot be written: No space left on device\n")


def test_a_full_standard_error_leaves_the_exit_code():
    with open("/dev/full", "w") as full:
        code, _ = ended("config", "show", "--set", "a=1", stderr=full)
    assert code == 2


@pytest.fixture
def run(tmp_path):
    return small_run(tmp_path / "runs").path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["faults.jsonl", "live.jsonl", "pulse.json", "console.log", "integrity.json"])
@pytest.mark.parametrize("command", ["flight", "report", "events"])
def test_a_pipe_in_place_of_a_file_of_a_run_is_not_waited_for(command, name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    answer = call(command, run)
    assert answer.code in (0, 2)
    if answer.code == 2:
        assert len(answer.err.splitlines()) == 1
        assert name in answer.err
    assert (run / name).is_fifo()

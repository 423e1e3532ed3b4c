"""The command ``esper report``: one file, or one line that says why not."""

import os

import pytest
from cli_builders import call
from report_builders import small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(answer, *words):
    """Exit code 2 with one line that has these words."""
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1, answer.err
    for word in words:
        assert word in answer.err
    return answer


def test_the_file_is_written_twice_with_equal_bytes(run, tmp_path):
    answer = call("report", run.path, "-o", "a.html")
    assert answer.code == 0
    assert answer.out.startswith("a.html, ")
    call("report", run.path, "--output", tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_without_a_name_the_file_has_that_of_the_run(run, tmp_path):
    assert call("report", run.path).code == 0
    assert os.listdir(tmp_path) == ["run-1.html"]


def test_a_file_that_is_no_page_is_never_replaced(run, tmp_path):
    before = (run.path / "manifest.json").read_bytes()
    (tmp_path / "notes.html").write_text("my notes")
    for path in (run.path / "manifest.json", tmp_path / "notes.html"):
        refused(call("report", run.path, "-o", path), f"--output {path}: the file exists and is not a page of HTML")
    assert (run.path / "manifest.json").read_bytes() == before
    assert (tmp_path / "notes.html").read_text() == "my notes"


def test_what_is_no_file_is_never_replaced(run, tmp_path):
    pipe, link = tmp_path / "pipe.html", tmp_path / "link.html"
    os.mkfifo(pipe)
    link.symlink_to("nothing-there")
    for path in (pipe, link):
        refused(call("report", run.path, "-o", path), f"--output {path}: the file exists and is not a page of HTML")
    assert pipe.is_fifo()
    assert os.readlink(link) == "nothing-there"
    assert sorted(os.listdir(tmp_path)) == ["link.html", "pipe.html"]


def test_an_existing_page_is_replaced(run, tmp_path):
    (tmp_path / "a.html").write_text("<!doctype html><p>old")
    call("report", run.path, "-o", "a.html")
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


def test_no_run_is_refused_and_nothing_written(tmp_path):
    refused(call("report", "nowhere", "-o", "a.html"), "nowhere")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", [["report"], ["flight"], ["events"]])
def test_a_run_of_a_similar_name_is_named(run, command):
    wrong = run.path.with_name(f"{run.path.name}x")
    refused(call(*command, wrong), f"did you mean {run.path}?")


def test_an_output_that_is_a_folder_is_refused(run, tmp_path):
    (tmp_path / "out").mkdir()
    refused(call("report", run.path, "-o", "out"), "--output out", "it is a folder")
    assert os.listdir(tmp_path / "out") == []


def test_an_output_in_no_folder_is_refused(run):
    refused(call("report", run.path, "-o", "missing/a.html"), "missing/a.html cannot be written")


def test_a_damaged_log_is_refused_and_nothing_written(tmp_path):
    run = small_run(tmp_path / "runs")
    (part,) = run.event_log.parts()
    (part.path / "round.parquet").write_bytes(b"nothing")
    refused(call("report", run.path, "-o", "a.html"), "round.parquet")
    assert not (tmp_path / "a.html").exists()

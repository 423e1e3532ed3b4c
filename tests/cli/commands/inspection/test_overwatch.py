"""``esper overwatch`` where it cannot serve."""

import sys

import pytest
from cli_builders import call

from esper_ray.karn.overwatch.access import TOKEN_VARIABLE
from esper_ray.karn.overwatch.server import bound_socket


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def refused(*arguments):
    answer = call("overwatch", *arguments)
    assert (answer.code, answer.err.count("\n"), answer.out) == (2, 1, "")
    return answer.err


def test_a_port_that_is_taken(tmp_path):
    with bound_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port} is taken on 127.0.0.1; --port 0 chooses a free one" in refused("--port", str(port))


def test_a_folder_that_does_not_exist(tmp_path):
    (tmp_path / "runs").mkdir()
    assert "rnus cannot be watched: it does not exist; did you mean runs?" in refused("rnus")


def test_a_storage_without_runs(tmp_path):
    assert "holds no run: it has no manifest.json" in refused(f"file://{tmp_path}/copies")


def test_a_storage_with_too_few_slashes():
    assert "it is neither a folder nor a URI" in refused("s3:/bucket/runs")


def test_a_token_that_is_too_short(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("short\n")
    text = refused("--host", "0.0.0.0", "--token-file", "token")
    assert "the token in --token-file token has 5 characters, at least 16 are needed" in text
    monkeypatch.setenv(TOKEN_VARIABLE, "brief")
    text = refused("--host", "0.0.0.0")
    assert f"the token in {TOKEN_VARIABLE} has 5 characters" in text
    assert "brief" not in text


@pytest.mark.parametrize(
    ("option", "value"), [("--root-path", "/a b"), ("--allowed-host", "http://box"), ("--host", "256.1.1.1")]
)
def test_a_wrong_value_is_named_with_its_option(option, value):
    assert option in refused(option, value, "--port", "0")


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "the package uvicorn is not installed; install it with `uv sync --extra karn`" in refused()

"""``esper submit``: refusals before the connection to a cluster."""

import pytest
from head_builders import free_ports, run_esper

pytestmark = pytest.mark.integration

CASES = {
    "no command": ([], ["exactly one is needed"]),
    "two things": (["--stop", "a", "--follow", "b"], ["exactly one is needed"]),
    "unknown command": (["--", "trian"], ["esper trian: no such command", "evaluate", "train"]),
    "no subcommand": (["--", "train"], ["esper train nothing: no such command", "ppo"]),
    "itself": (["--", "submit", "--", "version"], ["esper submit: no such command to run on a cluster"]),
    "unknown option": (["--", "train", "ppo", "--presett", "x"], ["esper train ppo", "--presett"]),
    "environment": (["--env", "A", "--", "version"], ["--env takes KEY=VALUE, got 'A'"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_command_that_cannot_be_submitted_is_refused(esper, case):
    words, messages = CASES[case]
    answer = esper("submit", "--address", "http://127.0.0.1:1", *words)

    assert answer.code == 2
    assert all(message in answer.err for message in messages), answer.err


@pytest.fixture
def large_folder(tmp_path):
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(101 * 1024**2)  # sparse
    (tmp_path / "small.py").write_text("pass\n")
    return tmp_path


def submit(*words):
    """Run in another process, so that this one does not import Ray before the tests that set its variables."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    answer = run_esper(["submit", *map(str, words), "--", "version"], {"RAY_API_SERVER_ADDRESS": address})
    assert answer.returncode == 2
    return answer.stderr, address


def test_a_missing_folder_is_refused():
    assert "/nowhere does not exist" in submit("--working-dir", "/nowhere")[0]


def test_a_folder_above_the_limit_is_refused_before_the_upload(large_folder):
    output, _ = submit("--working-dir", large_folder)

    assert "101.0 MiB in 2 files exceed the 100 MiB that Ray accepts: 101.0 (big.bin)" in output


@pytest.mark.parametrize("method", ["option", ".rayignore", ".gitignore"])
def test_excluded_files_do_not_count(large_folder, method):
    if method != "option":
        (large_folder / method).write_text("*.bin\n")
    output, address = submit("--working-dir", large_folder, *(["--exclude", "*.bin"] if method == "option" else []))

    assert f"{1 if method == 'option' else 2} files, 0.0 MiB" in output
    assert f"no cluster at {address}" in output

"""``esper submit`` refusals before a cluster is contacted."""

import pytest
from head_builders import free_ports, run_esper

pytestmark = pytest.mark.integration

CASES = {
    "no command": ([], ["say what to run"]),
    "two things": (["--stop", "a", "--follow", "b"], ["say what to run"]),
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
def heavy(tmp_path):
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(101 * 1024**2)  # sparse
    (tmp_path / "small.py").write_text("pass\n")
    return tmp_path


def submit(*words):
    """In a process of its own: this one keeps Ray unloaded for the tests that choose its settings first."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    answer = run_esper(["submit", *map(str, words), "--", "version"], {"RAY_API_SERVER_ADDRESS": address})
    assert answer.returncode == 2
    return answer.stderr, address


def test_a_folder_that_does_not_exist_is_refused():
    assert "/nowhere does not exist" in submit("--working-dir", "/nowhere")[0]


def test_a_folder_above_the_limit_is_refused_before_the_upload(heavy):
    output, _ = submit("--working-dir", heavy)

    assert "101.0 MiB in 2 files exceed the 100 MiB that Ray takes: 101.0 (big.bin)" in output


@pytest.mark.parametrize("how", ["option", ".rayignore", ".gitignore"])
def test_excluded_files_do_not_count(heavy, how):
    if how != "option":
        (heavy / how).write_text("*.bin\n")
    output, address = submit("--working-dir", heavy, *(["--exclude", "*.bin"] if how == "option" else []))

    assert f"{1 if how == 'option' else 2} files, 0.0 MiB" in output
    assert f"no cluster at {address}" in output

"""Packages and settings of a job before the upload."""

import platform
import socket
from contextlib import closing
from pathlib import Path

import pytest

from esper_actors.jobs.package import (
    ENTRY_BYTES,
    JobPackage,
    SubmissionError,
    choose_address,
    entrypoint,
    exit_code,
    key_values,
    probe,
    refuse_other_versions,
    refuse_without_token,
)

MIB = 1024**2
HERE = platform.python_version()


def test_the_total_includes_the_overhead_of_the_archive():
    package = JobPackage(Path("/w"), {Path("a/b"): 100, Path("c"): 7})

    assert package.total == 107 + 2 * ENTRY_BYTES + 2 * 3 + 2 * 1
    assert package.largest() == [("a", 100), ("c", 7)]


def test_a_folder_above_the_limit_is_refused_with_the_sum():
    sizes = {Path("data/x"): 60 * MIB, Path("data/y"): 30 * MIB, Path("code"): 20 * MIB, Path("notes"): MIB}

    with pytest.raises(SubmissionError, match=r"111.0 MiB in 4 files exceed the 100 MiB") as refused:
        JobPackage(Path("/w"), sizes).refuse_if_too_large()

    assert "90.0 (data) + 20.0 (code) + 1.0 (notes) + 0.0 (the rest)" in str(refused.value)


def test_a_folder_below_the_limit_is_accepted():
    package = JobPackage(Path("/w"), {Path("x"): 99 * MIB})

    package.refuse_if_too_large()
    assert package.total < 100 * MIB


@pytest.mark.parametrize(
    ("given", "environment", "chosen"),
    [
        ("http://a", {"RAY_API_SERVER_ADDRESS": "http://b"}, "http://a"),
        (None, {"RAY_ADDRESS": "c:6379", "RAY_API_SERVER_ADDRESS": "http://b"}, "http://b"),
        (None, {"RAY_ADDRESS": "c:6379", "RAY_DASHBOARD_ADDRESS": "http://d"}, "http://d"),
        (None, {"RAY_ADDRESS": "c:6379"}, "c:6379"),
        (None, {}, "http://127.0.0.1:8265"),
    ],
)
def test_the_option_takes_precedence_over_the_environment(given, environment, chosen):
    assert choose_address(given, environment) == chosen


def test_the_command_is_quoted_for_the_shell():
    assert entrypoint(["train", "ppo", "--set", "a=[1, 2]"]) == (
        "python -m esper_ray.cli.main train ppo --set 'a=[1, 2]'"
    )


def test_pairs_need_a_key_and_one_value():
    assert key_values("--env", ["A=1", "B=x=y", "C="]) == {"A": "1", "B": "x=y", "C": ""}
    for pairs, message in ((["A"], "got 'A'"), (["=1"], "got '=1'"), (["A=1", "A=2"], "given twice: '1' and '2'")):
        with pytest.raises(SubmissionError, match=message):
            key_values("--env", pairs)


def test_other_versions_are_refused():
    refuse_other_versions("2.60.0", HERE, "2.60.0")
    refuse_other_versions("2.60.0", None, "2.60.0")
    with pytest.raises(SubmissionError, match=r"the cluster runs Ray 2.59.1, this client Ray 2.60.0"):
        refuse_other_versions("2.59.1", HERE, "2.60.0")
    with pytest.raises(SubmissionError, match=rf"the cluster runs Python 3.1.4, this client Python {HERE}"):
        refuse_other_versions("2.60.0", "3.1.4", "2.60.0")


def test_an_address_without_a_listener_is_refused():
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"  # bound, but not listening
        with pytest.raises(SubmissionError, match=f"no cluster at {address}"):
            probe(address)


@pytest.mark.parametrize("address", ["http://[::1", "http://a:99999", "http://", "ray://", "http://a:b"])
def test_an_address_that_is_none_is_refused_with_its_text(address):
    with pytest.raises(SubmissionError) as error:
        probe(address)
    assert f"address {address!r}" in str(error.value)


def test_a_missing_token_is_refused_with_the_variable_to_set():
    for environment, state in (({}, "not set"), ({"RAY_AUTH_MODE": "disabled"}, "disabled")):
        with pytest.raises(SubmissionError, match=f"RAY_AUTH_MODE is {state}: set RAY_AUTH_MODE=token"):
            refuse_without_token(401, "http://a", environment)
    refuse_without_token(401, "http://a", {"RAY_AUTH_MODE": "token"})
    refuse_without_token(200, "http://a", {})


@pytest.mark.parametrize(
    ("status", "code", "result"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 143)],
)
def test_the_exit_code_is_that_of_the_job(status, code, result):
    assert exit_code(status, code) == result

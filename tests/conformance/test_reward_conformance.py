"""Conformance with the recorded cases of the reference, and sensitivity of the comparison.

The cases live beside the repository, in ``../shared/spec/reward_examples.json``; without that file these tests are
skipped.
"""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import rewards
from conformance_skips import BY_ID, reason_to_skip

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[2] / "shared" / "spec" / "reward_examples.json"
RUNNER = HERE / "rewards.py"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not EXAMPLES.is_file(), reason=f"the recorded cases are not at {EXAMPLES}"),
]


@pytest.fixture(scope="module")
def document():
    return json.loads(EXAMPLES.read_text(encoding="utf-8"))


def test_our_formulas_equal_every_case_that_pins_no_defect(document):
    failed, skipped, passed = rewards.check(document)
    assert failed == []
    assert passed >= 178
    assert len(skipped) <= 12
    assert all(reason for _, reason in skipped)


def test_every_kind_of_case_is_run(document):
    run = {case["kind"] for case in document["cases"] if reason_to_skip(case) is None}
    assert run == {"reward", "loss_reward", "helper", "attribution", "normalizer", "trainer_step", "sequence"}


def test_every_reward_of_a_single_step_is_compared(document):
    assert all(reason_to_skip(c) is None for c in document["cases"] if c["kind"] in ("reward", "loss_reward"))


def shifted(value, by):
    """``value`` with every number in it changed."""
    if isinstance(value, dict):
        return {key: shifted(inner, by) for key, inner in value.items()}
    if isinstance(value, list):
        return [shifted(inner, by) for inner in value]
    return value + by if isinstance(value, (int, float)) and not isinstance(value, bool) else value


@pytest.mark.parametrize("by", [1e-6, -3.0])
def test_the_comparison_finds_wrong_numbers(document, by):
    """Every case that is run and has a number in its outputs fails once they are changed."""
    broken = copy.deepcopy(document)
    for case in broken["cases"]:
        case["outputs"] = shifted(case["outputs"], by)
    failed, _, passed = rewards.check(broken)
    silent = [c for c in document["cases"] if reason_to_skip(c) is None and shifted(c["outputs"], 1) == c["outputs"]]
    assert passed == len(silent)
    assert len(failed) > 150


def test_the_comparison_finds_an_error_that_is_not_raised(document):
    broken = copy.deepcopy(document)
    (case,) = [case for case in broken["cases"] if case["id"] == "shaped-wait-empty"]
    case["outputs"] = {"error": "ValueError", "reason_code": "made_up"}
    (error,) = [case for case in broken["cases"] if case["id"] == "sparse-error"]
    error["outputs"]["reason_code"] = "another"
    failed, _, _ = rewards.check(broken)
    assert [name for name, _ in failed] == ["shaped-wait-empty", "sparse-error"]


def run(*arguments):
    return subprocess.run([sys.executable, RUNNER, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.nightly
def test_the_command_prints_the_counts(document):
    answer = run(EXAMPLES)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == "178 passed, 0 failed, 12 skipped\n"
    listed = run("--skipped", EXAMPLES).stdout.splitlines()
    assert len(listed) == 13
    assert all(line.startswith("skip ") and ": " in line for line in listed[:-1])


def test_differences_are_named(document, tmp_path, capsys):
    broken = {**document, "cases": [copy.deepcopy(document["cases"][0])]}
    broken["cases"][0]["outputs"]["reward"] += 0.5
    (tmp_path / "cases.json").write_text(json.dumps(broken))
    assert rewards.main([str(tmp_path / "cases.json")]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"FAIL {broken['cases'][0]['id']}: reward: was 0.5, is ")
    assert last == "0 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_an_unusable_file_is_refused(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "cases.json").write_text(content)
    assert rewards.main([str(tmp_path / "cases.json")]) == 2
    assert "cases.json cannot be used" in capsys.readouterr().err


def test_each_reason_names_a_defect():
    assert all(reason.startswith(("defect", "section")) for reason in BY_ID.values())

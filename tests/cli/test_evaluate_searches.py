"""Searches among the controls of ``esper evaluate``: their cost, the script that is found, and refusals."""

import csv

import pytest
from cli_builders import call

from esper_policies.scripts import read_script

pytestmark = pytest.mark.integration

QUICK = [
    *("--serial", "--set", "training.steps_per_epoch=1", "--set", "training.batch_size=16"),
    *("--set", "task.validation_size=52", "--set", "task.test_size=52"),
]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Evaluations without their picture, which takes longer than a small evaluation."""
    monkeypatch.setattr("esper_ray.cli.jobs.evaluate.evaluation_report.draw_comparison", lambda *_: None)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_searches_are_played_with_their_cost_and_the_script_is_written(tmp_path):
    out = tmp_path / "first"
    names = ["heuristic", "schedule:best", "best-of-2", "random-search-1x", "asha-1x"]
    common = [
        *QUICK,
        "--seeds",
        "2",
        "--no-controls",
        "--episode-length",
        "12",
        "--set",
        "growth.min_training_epochs=1",
    ]
    search = ["--script-lives", "32", "--out", out]
    answer = call("evaluate", *names, "static", "--task", "digits", *common, *search)
    assert (answer.code, answer.err) == (0, "")
    rows = {row["policy"]: row for row in rows_of(out / "summary.csv")}
    assert list(rows) == ["heuristic", "best-of-2", "static", "schedule-best", "random-search-1x", "asha-1x"]
    assert [name for name, row in rows.items() if row["finding_gflops"]] == ["schedule-best"]
    cost = {name: float(row["train_gflops"]) for name, row in rows.items()}
    assert cost["best-of-2"] > 1.5 * cost["heuristic"]
    assert float(rows["schedule-best"]["finding_gflops"]) > 8 * cost["static"]
    script = read_script(out / "schedule-best.json")
    assert {line.op for line in script} == {"germinate", "fossilize"}
    assert "schedule-best: the best of 8 random scripts after 32 episodes on seeds from 1000 on" in answer.out
    assert "asha-1x: successive halving (ASHA) over random topologies" in " ".join(answer.out.split())
    again = call("evaluate", f"schedule:{out / 'schedule-best.json'}", "static", *common, "--out", out.parent / "again")
    assert again.code == 0
    (row,) = [row for row in rows_of(out.parent / "again" / "summary.csv") if row["policy"] == "schedule-best"]
    assert row["test_accuracy_pp_mean"] == rows["schedule-best"]["test_accuracy_pp_mean"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["asha-2x"], "asha-2x: controls need a policy that they follow; name one first"),
        (["heuristic", "schedule:best", "--script-lives", "31"], "--script-lives must lie in [32, 1,000,000], got 31"),
        (["asha-0x"], "policy 'asha-0x'"),
        (["best-of-0"], "policy 'best-of-0'"),
    ],
)
def test_impossible_searches_are_refused(tmp_path, words, message):
    answer = call(
        "evaluate", *words, *QUICK, "--out", tmp_path / "new", "--task", "digits", "--seeds", "2", "--no-controls"
    )
    assert answer.code == 2
    assert message in " ".join(answer.err.split())

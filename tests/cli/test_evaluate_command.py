"""``esper evaluate``: table, files and picture; refusals; Ctrl-C."""

import csv
import json
import os
import signal
import subprocess
import sys
from datetime import datetime

import pytest
from cli_builders import call
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.cli.commands.training.evaluate import seed_list
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.errors import UsageError

pytestmark = pytest.mark.integration

QUICK = [
    *("--serial", "--episode-length", "3", "--set", "training.steps_per_epoch=1", "--set", "training.batch_size=16"),
    *("--set", "task.validation_size=52", "--set", "task.test_size=52"),
]
FILES = ["comparison.md", "comparison.png", "evaluation.json", "scores.csv", "summary.csv"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def played(folder):
    return [(row["policy"], int(row["seed"])) for row in rows_of(folder / "scores.csv")]


@pytest.fixture
def out(tmp_path):
    """Output folder of an evaluation; it does not exist yet."""
    return tmp_path / "deep" / "evaluation"


@pytest.fixture
def undrawn(monkeypatch):
    """Evaluations without their picture, which takes longer than a small evaluation."""
    monkeypatch.setattr("esper_ray.cli.jobs.evaluate.evaluation_report.draw_comparison", lambda *_: None)


@pytest.fixture
def evaluate(out):
    """``evaluate("random", ...)`` is a small serial evaluation into ``out``."""
    return lambda *more: call("evaluate", *more, *QUICK, "--out", out)


def test_policies_are_played_on_paired_seeds_and_compared(evaluate, out):
    answer = evaluate("random", "mine=schedule", "--task", "digits", "--seeds", "2")
    assert (answer.code, answer.err) == (0, "")
    assert sorted(os.listdir(out)) == FILES
    names = ["random", "mine", "static", "heuristic", "wide-host", "from-scratch", "from-scratch-flops"]
    assert played(out) == [(name, seed) for name in names for seed in (0, 1)]
    assert [row["policy"] for row in rows_of(out / "summary.csv")] == names
    assert all(row["test_gain_pp_mean"] for row in rows_of(out / "summary.csv") if row["policy"] != "static")
    manifest = json.loads((out / "evaluation.json").read_text())
    assert (manifest["control"], manifest["seeds"], manifest["sample"]) == ("static", [0, 1], False)
    config = RunConfig.model_validate(manifest["config"])
    assert (config.episode_length, config.digest()) == (3, manifest["config_sha256"])
    assert [summary["policy"] for summary in manifest["summaries"]] == names
    assert all(summary["fossilised"] == 0 for summary in manifest["summaries"] if summary["policy"] == "static")
    assert (out / "comparison.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Answer and files of one evaluation with all controls."""
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    return call("evaluate", "random", "--seeds", "2", *QUICK, "--out", folder), folder


@pytest.mark.nightly
def test_the_table_equals_the_files(evaluation):
    answer, folder = evaluation
    lines = answer.out.split("Gains are over static, paired by seed")[0].splitlines()
    assert lines[0] == "note: episodes of 3 epochs are too short to commit a seed, which needs 8"
    assert lines[1].startswith("digits: task digits, 2 seeds from 0, episodes of 3 epochs; random, static, heuristic")
    assert lines[2] == "one process on cpu"
    assert lines[3].split()[:3] == ["policy", "test", "%"]
    markdown = [line.strip("|").split("|") for line in (folder / "comparison.md").read_text().splitlines()]
    cells = {row[0].strip(): [cell.strip() for cell in row] for row in markdown if len(row) > 5}
    for row in rows_of(folder / "summary.csv"):
        (line,) = [line for line in lines if line.startswith(f"{row['policy']} ")]
        assert line.split() == " ".join(cells[row["policy"]]).split()
        assert f"{float(row['test_accuracy_pp_mean']):.1f} [" in line
        assert ("frontier" in line) == (row["on_frontier"] == "True")
    for policy_name in ("static", "heuristic", "wide-host", "from-scratch", "from-scratch-flops"):
        (line,) = [line for line in lines if line.startswith(f"gain of random over {policy_name}: test ")]
        (row,) = [[cell.strip() for cell in row] for row in markdown if len(row) == 3 and row[0].strip() == policy_name]
        assert row[1:] == line.partition(": test ")[2].split(", objective ")
    assert answer.out.splitlines()[-1] == f"written to {folder}"
    assert "Controls follow the final networks of random, seed by seed. wide-host: the host alone" in answer.out


def test_equal_evaluations_give_equal_scores(evaluation, tmp_path):
    _, folder = evaluation
    again = call("evaluate", "random", "--seeds", "2", *QUICK, "--out", tmp_path)
    assert again.code == 0
    for name in ("scores.csv", "summary.csv", "comparison.md"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("columns", ["80", "120"])
def test_narrow_terminals_show_whole_cells(columns, evaluation, monkeypatch, capsys):
    """Every number of the widest layout is printed in one piece, and no line is too long."""
    from esper_ray.cli.jobs.evaluate import EvaluationJob
    from esper_ray.leyline.config.loading import build, read_preset
    from esper_ray.leyline.results.evaluation import Interval, Summary

    monkeypatch.setenv("COLUMNS", columns)
    gain = Interval(-11.1, -22.2, -10.5)
    summary = Summary(
        *("from-scratch", 20, Interval(33.1, 31.5, 36.2), gain, gain),
        *(1234567.0, 3456.0, 4.5, 17, 1.5, None),
        *(gain, None, True),
    )
    control = Summary(
        *("static", 20, Interval(33.1, 31.5, 36.2), gain, gain, 160.0, 0.0123, 4.5, 17, 1.5, None, None, None, False),
    )
    job = EvaluationJob(build(read_preset("digits")), [], (), "static", [0, 1], evaluation[1], sample=False)
    job._show([summary, control], [])
    shown = capsys.readouterr().out
    table = shown.split("Gains are over")[0]
    assert max(map(len, table.splitlines())) <= int(columns)
    for text in ("from-scratch", "[31.5, 36.2]", "[-22.2, -10.5]", "1,234,567", "3,456", "0.0123", "17", "frontier"):
        assert text in table


@pytest.mark.usefixtures("undrawn")
def test_a_range_of_seeds_and_no_controls(evaluate, out):
    answer = evaluate("heuristic", "static", "--seeds", "100-101", "--no-controls", "--control", "heuristic")
    assert answer.code == 0
    assert played(out) == [("heuristic", 100), ("heuristic", 101), ("static", 100), ("static", 101)]
    assert "control" in next(line for line in answer.out.splitlines() if line.startswith("heuristic "))
    assert "follow the final networks" not in answer.out


@pytest.mark.usefixtures("undrawn")
def test_a_trained_policy_uses_its_training_environment_by_default(finished, evaluate, out):
    """Its configuration says 2 steps an epoch and a policy of 16 features; the flags say 1 step."""
    answer = evaluate(finished.run.path, "--seeds", "2", "--no-controls", "--control", "digits")
    assert (answer.code, answer.err) == (0, "")
    config = RunConfig.model_validate(json.loads((out / "evaluation.json").read_text())["config"])
    assert (config.policy.feature_size, config.training.steps_per_epoch) == (16, 1)
    assert played(out) == [("digits", 0), ("digits", 1)]
    other = out.with_name("elsewhere")
    options = ("--task", "patterns", "--seeds", "2", "--sample", *QUICK, "--out", other)
    elsewhere = call("evaluate", f"mine={finished.run.path}", *options)
    assert elsewhere.code == 0
    assert elsewhere.out.splitlines()[1].startswith("patterns: task patterns")
    assert played(other)[0] == ("mine", 0)
    assert "sampled actions, without exploration" in (other / "comparison.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_policy_given_twice_has_two_labels(evaluate, out):
    assert evaluate("random", "random", "--seeds", "2", "--no-controls", "--control", "random").code == 0
    scores = rows_of(out / "scores.csv")
    assert [row["policy"] for row in scores] == ["random", "random", "random-2", "random-2"]
    assert [row["test_accuracy_pp"] for row in scores[:2]] == [row["test_accuracy_pp"] for row in scores[2:]]


REFUSED = {
    "no seed": (["random", "--seeds", "0"], ["--seeds 0: an interval needs at least two seeds, got 0"]),
    "one seed": (["random", "--seeds", "1"], ["an interval needs at least two seeds, got 1"]),
    "backwards": (["random", "--seeds", "9-3"], ["--seeds 9-3", "at least two seeds, got 0"]),
    "words": (["random", "--seeds", "many"], ["--seeds takes a number or a range such as 100-119, got 'many'"]),
    "negative": (["random", "--seeds=-3"], ["--seeds takes a number or a range", "got '-3'"]),
    "huge": (["random", "--seeds", "4294967290-4294967296"], ["seeds must be below 4294967296"]),
    "enormous": (["random", "--seeds", "9" * 25], ["seeds must be below 4294967296"]),
    "policy": (["heuristik"], ["unknown policy 'heuristik'; did you mean 'heuristic'?"]),
    "label": (["static=random"], ["'static' means another policy"]),
    "control": (["random", "--control", "best"], ["--control best", "random, static, heuristic, wide-host"]),
    "no controls": (
        ["random", "--no-controls"],
        ["--control static: only what is evaluated can be the control"],
    ),
    "oracle": (
        ["oracle", "--task", "digits"],
        ["oracle cannot play under this configuration: no oracle for task 'digits'", "patterns"],
    ),
    "task": (["random", "--task", "digit"], ["unknown task 'digit'", "did you mean 'digits'"]),
    "workers": (["random", "--workers", "0"], ["--workers"]),
    "serial workers": (["random", "--workers", "2", "--serial"], ["--workers 2: with --serial there are no actors"]),
    "nothing": ([], ["POLICY"]),
    "script": (["schedule:/nowhere/x.yaml"], ["script /nowhere/x.yaml cannot be read"]),
    "device": (["random", "--devices", "cuda:99"], ["'cuda:99' does not exist"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_value_and_constraint(case, evaluate, out):
    flags, expected = REFUSED[case]
    answer = evaluate(*flags)
    assert answer.code == 2
    for text in expected:
        assert text in answer.err
    assert "Traceback" not in answer.err
    assert not out.exists()


def test_a_script_with_an_unknown_slot_is_refused_before_any_episode(evaluate, out, tmp_path):
    (tmp_path / "wrong.yaml").write_text("- {epoch: 0, op: germinate, slot: 3}\n")
    answer = evaluate(f"schedule:{tmp_path / 'wrong.yaml'}")
    assert answer.code == 2
    assert (
        "esper: error: wrong cannot play under this configuration: script line 1: slot 3; the run has 0 to 2"
        in answer.err
    )
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_episode(out, evaluate):
    out.parent.mkdir()
    out.write_text("a file")
    answer = evaluate("random", "--seeds", "2")
    assert answer.code == 2
    assert f"esper: error: cannot write to the folder {out}" in answer.err
    assert out.read_text() == "a file"


def test_a_folder_that_is_not_empty_is_refused_and_stays(evaluation, evaluate, out):
    out.mkdir(parents=True)
    (out / "learning.png").write_bytes(b"of an earlier evaluation")
    answer = evaluate("random", "--seeds", "2")
    assert answer.code == 2
    assert answer.err == f"esper: error: --out {out}: it is not empty; choose a new folder\n"
    assert os.listdir(out) == ["learning.png"]
    finished = evaluation[1]
    before = {name: (finished / name).read_bytes() for name in os.listdir(finished)}
    assert call("evaluate", "static", "--seeds", "2", "--no-controls", *QUICK, "--out", finished).code == 2
    assert {name: (finished / name).read_bytes() for name in os.listdir(finished)} == before


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_ends_an_evaluation_and_keeps_the_scores_so_far(number, evaluate, out, monkeypatch):
    from esper_ray.cli.jobs import evaluate as evaluating

    original = evaluating.all_scores

    def struck(players, labels, controls, reference, seeds, on_score, stop):
        arrivals = []

        def listening(score):
            arrivals.append(score)
            on_score(score)
            if len(arrivals) == 3:
                os.kill(os.getpid(), number)

        return original(players, labels, controls, reference, seeds, listening, stop)

    monkeypatch.setattr(evaluating, "all_scores", struck)
    answer = evaluate("random", "--seeds", "2")
    assert answer.code == CODES[number]
    assert f"{number.name}: stopping" in answer.err
    assert "Traceback" not in answer.err
    assert "stopped after 3 of 12 episodes, without a comparison; their scores are in" in answer.out
    assert os.listdir(out) == ["scores.csv"]
    assert played(out) == [("random", 0), ("random", 1), ("static", 0)]


def test_an_error_in_the_middle_keeps_the_scores_so_far(evaluate, out, monkeypatch):
    from esper_actors.evaluation.evaluator import Evaluator

    monkeypatch.setattr(Evaluator, "unsteered", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate("random", "--seeds", "2")
    assert len(played(out)) == 6


@pytest.mark.slow
@pytest.mark.nightly
def test_a_signal_from_another_process_ends_an_evaluation_in_the_same_way(out):
    """A real process that gets the signal after the line about its workers."""
    command = [sys.executable, "-m", "esper_ray.cli.main", "evaluate", "random", "--seeds", "5000", *QUICK]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout:
            if line.startswith("one process"):
                process.send_signal(signal.SIGINT)
                break
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "of 30000 episodes, without a comparison" in rest
    assert os.listdir(out) == ["scores.csv"]


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "undrawn")
@pytest.mark.timeout(240)
def test_an_evaluation_on_ray_writes_the_same_files(evaluation, out):
    _, folder = evaluation
    on_ray = [flag for flag in QUICK if flag != "--serial"]
    answer = call("evaluate", "random", "--seeds", "2", *on_ray, "--out", out)
    assert answer.code == 0
    assert answer.out.splitlines()[2] == "Ray actors: 2 on cpu"
    assert (out / "scores.csv").read_bytes() == (folder / "scores.csv").read_bytes()


def test_without_a_folder_a_new_one_is_created(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    assert call("evaluate", "static", "--seeds", "2", "--no-controls", *QUICK).code == 0
    (created,) = os.listdir(tmp_path / "evaluations")
    assert created.endswith("-digits")


def test_evaluations_started_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch, undrawn):
    class StoppedClock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 30, 12, 0, 0, tzinfo=tz)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("esper_ray.cli.commands.training.evaluate.datetime", StoppedClock)
    for _ in range(2):
        assert call("evaluate", "static", "--seeds", "2", "--no-controls", *QUICK).code == 0
    assert sorted(os.listdir(tmp_path / "evaluations")) == ["20261130-120000-digits", "20261130-120000-digits-1"]


def test_help_names_every_kind_of_policy():
    text = " ".join(call("evaluate", "--help").out.replace("│", " ").split())
    for word in (
        "heuristic, random, static, schedule, oracle, and tamiyo",
        "schedule:FILE",
        "run directory",
        "wide-host",
    ):
        assert word in text


@given(st.integers(0, 2**32 - 1), st.integers(1, 1000))
def test_a_range_of_seeds_holds_both_its_ends(first, more):
    last = min(first + more, 2**32 - 1)
    if last > first:
        parsed = seed_list(f"{first}-{last}")
        assert (parsed[0], parsed[-1], len(parsed)) == (first, last, last - first + 1)
    assert list(seed_list(f" {more + 1} ")) == list(range(more + 1))


@pytest.mark.parametrize("text", ["", "-", "3-", "1-2-3", "1,2", "1.5", "٣ ", "2 - 4"])
def test_a_text_that_is_not_a_range_of_seeds_is_refused(text):
    with pytest.raises(UsageError, match="--seeds"):
        seed_list(text)

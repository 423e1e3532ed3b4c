"""Comparison of two reward modes: two runs and a verdict."""

import csv
import json
import re

import pytest
from cli_builders import SMALL, call

from esper_ray.cli.jobs.compare import describe, split
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.reward_pair import Pair, parse_pair
from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.results.evaluation import ComparisonVerdict, Interval
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.integration


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*more):
    return call("train", "ppo", *SMALL, "--rounds", 2, "--ab-seeds", 3, *more)


def check(folder):
    """Both sides are there, and the verdict is that of the paired scores."""
    verdict = json.loads((folder / "verdict.json").read_text())
    with (folder / "evaluation" / "scores.csv").open(newline="") as file:
        scores = {(row["policy"], int(row["seed"])): float(row["objective_pp"]) for row in csv.DictReader(file)}
    differences = [scores["escrow", seed] - scores["basic", seed] for seed in range(3)]
    assert verdict["difference"]["mean"] == pytest.approx(sum(differences) / 3)
    assert (verdict["pair"], verdict["seeds"]) == ({"first": "escrow", "second": "basic"}, 3)
    sides = [RunDirectory.open(folder / name) for name in ("A-escrow", "B-basic")]
    assert [side.config().reward.mode for side in sides] == ["escrow", "basic"]
    seeds = [[e["seed"] for e in side.events() if e["kind"] == "episode_started"] for side in sides]
    assert seeds[0] == seeds[1]
    assert len(seeds[0]) == 4
    names = [{(e["run"], e["group"]) for e in side.events()} for side in sides]
    assert names == [{(folder.name, "A-escrow")}, {(folder.name, "B-basic")}]
    return [(side.path / "rounds.csv").read_bytes() for side in sides]


def test_a_comparison_in_one_process(work):
    answer = train("--serial", "--dual-ab", "escrow-vs-basic", "--run-id", "ab")
    assert answer.code == 0, answer.err
    assert "A-escrow  round 2/2" in answer.out
    assert "verdict: " in answer.out
    check(work / "runs" / "ab")
    again = train("--serial", "--dual-ab", "escrow-vs-basic", "--run-id", "ab")
    assert (again.code, again.out.count("is finished")) == (0, 2)


@pytest.mark.nightly
def test_a_comparison_evaluated_again_keeps_the_earlier_evaluation(work):
    folder = work / "runs" / "ab"
    command = ("--serial", "--dual-ab", "escrow-vs-basic", "--run-id", "ab")
    assert train(*command).code == 0
    first = (folder / "evaluation" / "scores.csv").read_bytes()
    assert train(*command, "--ab-seeds", 2).code == 0
    assert (folder / "evaluation-earlier" / "scores.csv").read_bytes() == first
    assert (folder / "evaluation" / "scores.csv").read_bytes() == b"".join(
        line for line in first.splitlines(keepends=True) if not re.match(rb"[^,]*,2,", line)
    )


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(600)
def test_a_comparison_on_ray_has_the_results_of_one_process(work):
    on_ray, serial = (
        train(*where, "--dual-ab", "escrow-vs-basic", "--run-id", name)
        for where, name in ((("--envs-per-actor", "1"), "on-ray"), (("--serial",), "serial"))
    )
    assert (on_ray.code, serial.code) == (0, 0), on_ray.err + serial.err
    assert "environment actors 2 on cpu" in on_ray.out
    assert check(work / "runs" / "on-ray") == check(work / "runs" / "serial")
    verdicts = [(work / "runs" / name / "verdict.json").read_text() for name in ("on-ray", "serial")]
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dual-ab", "shaped"), "takes MODE-vs-MODE"),
        (("--dual-ab", "shaped-vs-"), "takes MODE-vs-MODE"),
        (("--dual-ab", "shaped-vs-simplifed"), "unknown reward mode 'simplifed'; did you mean 'simplified'?"),
        (("--dual-ab", "shaped-vs-shaped"), "a mode cannot be compared with itself"),
        (("--dual-ab", "shaped-vs-sparse", "--reward-mode", "basic"), "leave --resume, --reward-mode and --save out"),
        (("--dual-ab", "shaped-vs-sparse", "--ab-seeds", "1"), "--ab-seeds"),
    ],
)
def test_a_text_that_is_not_a_pair_is_refused(work, arguments, message):
    answer = train("--serial", *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert not (work / "runs").exists()


def config(**system):
    return build(read_preset("digits"), {f"system.{key}": value for key, value in system.items()})


def test_gpus_are_divided_between_the_sides():
    devices = ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    first, second = split(config(devices=devices, device="cuda:0"), Pair("shaped", "sparse"))
    assert (first.system.devices, first.system.device) == (("cuda:0", "cuda:2"), "cuda:0")
    assert (second.system.devices, second.system.device) == (("cuda:1", "cuda:3"), "cuda:1")
    assert (first.reward.mode, second.reward.mode) == ("shaped", "sparse")
    assert first.seed == second.seed


def test_one_gpu_is_not_enough():
    with pytest.raises(UsageError, match="a device for each side, got --devices cuda:0"):
        split(config(devices=["cuda:0"]), Pair("shaped", "sparse"))


@pytest.mark.parametrize(
    ("better", "needed", "words"),
    [
        (
            "first",
            7,
            "A is better: shaped. Objective of shaped minus sparse: +2.0 [+1.0, +3.0] points on 5 paired seeds",
        ),
        ("second", 7, "B is better: sparse"),
        ("undecided", 321, "undecided. "),
        ("undecided", None, "the difference is 0"),
        ("undecided", 321, "about 321 seeds"),
    ],
)
def test_the_verdict_is_described_with_its_interval(better, needed, words):
    assert words in describe(ComparisonVerdict(better, Interval(2.0, 1.0, 3.0), 5, needed), Pair("shaped", "sparse"))


def test_a_pair_is_read():
    assert parse_pair("basic_plus-vs-settlement") == Pair("basic_plus", "settlement")

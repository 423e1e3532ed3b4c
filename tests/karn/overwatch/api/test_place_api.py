"""Comparisons, sweeps and evaluations through the server."""

import json
from dataclasses import asdict

import pytest
from learner_builders import small_config
from overwatch_builders import served
from report_builders import run_of, small_records

from esper_ray.karn.questions.comparisons import curve_interval, differing_keys
from esper_ray.leyline.config.sweep import expand, sweep_config
from esper_ray.leyline.policy import stored_name
from esper_ray.leyline.results.evaluation import Interval, PairedComparison, Summary
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

ROWS = "round,val_accuracy_ratio,committed_accuracy_ratio,growth_ratio\n0,{0},0.2,1.5\n1,{1},nan,1.75\n"


def run_with_rounds(folder, name, accuracies=(0.25, 0.5), **changes):
    run = run_of(folder, small_records(), run_id=name, status="running", **changes)
    (run.path / "rounds.csv").write_text(ROWS.format(*accuracies))
    return run


def evaluation(folder):
    folder.mkdir(parents=True)
    gain, interval = Interval(9.0, 7.0, 11.0), Interval(49.0, 47.0, 51.0)
    values = {
        "episodes": 3, "test_accuracy_pp": interval, "val_accuracy_pp": interval, "objective_pp": interval,
        "train_gflops": 1.0, "spread_pp": 1.5, "rollbacks": 1, "fossilized": 2.0, "total_reward": None,
        "objective_gain_pp": gain, "on_frontier": True,
    }  # fmt: skip
    summaries = [
        Summary(policy="tamiyo", parameters=1500.0, test_gain_pp=gain, **values),
        Summary(policy="static", parameters=1000.0, test_gain_pp=None, **values),
    ]
    tree = {
        "config": small_config().model_dump(mode="json"), "control": "static", "seeds": [0, 1, 2],
        "summaries": [{stored_name(name): value for name, value in asdict(entry).items()} for entry in summaries],
        "comparisons": [asdict(PairedComparison("tamiyo", "static", gain, gain))],
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(tree))
    (folder / "scores.csv").write_text("policy,seed,test_accuracy_pp\ntamiyo,0,48.0\ntamiyo,1,50.0\n")


def test_runs_are_compared_by_settings_and_grouped_over_seeds(tmp_path):
    run_with_rounds(tmp_path, "one", (0.2, 0.4), seed=1)
    run_with_rounds(tmp_path, "two", (0.4, 0.6), seed=2)
    run_with_rounds(tmp_path, "three", seed=1, gamma=0.9)
    with served(tmp_path) as client:
        tree = client.get("/api/v1/compare?run=one&run=two&run=three&run=one").json()
    assert [run["id"] for run in tree["runs"]] == ["one", "two", "three"]
    assert tree["settings"] == [
        {"key": "seed", "values": [1, 2, 1]},
        {"key": "gamma", "values": [0.995, 0.995, 0.9]},
    ]
    first, second = tree["groups"]
    assert (first["name"], first["runs"], first["n"]) == ("gamma 0.995", ["one", "two"], 2)
    assert first["val_accuracy_ratio"]["mean"] == pytest.approx([0.3, 0.5])
    assert first["val_accuracy_ratio"]["low"][0] == pytest.approx(0.2)
    assert first["val_accuracy_ratio"]["high"][1] == pytest.approx(0.6)
    assert second["val_accuracy_ratio"] == {"mean": [0.25, 0.5], "low": [None, None], "high": [None, None]}
    columns = tree["runs"][2]["columns"]
    assert columns["committed_accuracy_ratio"] == [0.2, None]
    assert columns["control_accuracy_ratio"] == [0.25, 0.25]
    assert tree["runs"][0]["gain"]["mean_pp"] == pytest.approx(13.0)
    assert tree["verdict"] is None


@pytest.mark.parametrize("query", ["", "run=one", "run=one&run=one", "&".join(f"run=r{i}" for i in range(11))])
def test_too_few_or_too_many_runs_are_refused(tmp_path, query):
    run_with_rounds(tmp_path, "one")
    with served(tmp_path) as client:
        response = client.get(f"/api/v1/compare?{query}")
    assert response.status_code == 400
    assert "choose 2 to 10" in response.json()["error"]


def test_an_unknown_run_of_a_comparison_is_404(tmp_path):
    run_with_rounds(tmp_path, "one")
    with served(tmp_path) as client:
        assert client.get("/api/v1/compare?run=one&run=onee").json()["nearest"] == "one"


def pair(folder):
    for name in ("shaped", "sparse"):
        run = run_with_rounds(folder, name)
        run.write_manifest(run.read_manifest() | {"run": folder.name, "group": name})


def test_a_comparison_has_no_verdict_before_its_evaluation(tmp_path):
    pair(tmp_path / "ab")
    with served(tmp_path) as client:
        tree = client.get("/api/v1/comparisons/ab").json()
    assert [run["group"] for run in tree["runs"]] == ["shaped", "sparse"]
    assert (tree["verdict"], tree["evaluation"]) == (None, None)
    assert "the evaluation of these runs is not over" in tree["verdict_missing"]


def test_a_comparison_has_the_verdict_of_its_evaluation(tmp_path):
    pair(tmp_path / "ab")
    evaluation(tmp_path / "ab" / "evaluation")
    tree = {
        "better": "undecided",
        "difference": {"mean": 2.0, "low": -0.5, "high": 3.5},
        "seeds": 3,
        "seeds_needed": 12,
    }
    (tmp_path / "ab" / "verdict.json").write_text(json.dumps(tree | {"pair": {"first": "shaped", "second": "sparse"}}))
    with served(tmp_path) as client:
        found = client.get("/api/v1/comparisons/ab").json()
    assert found["verdict"]["text"] == (
        "It is undecided which is better. The objective of shaped minus that of sparse is +2.0 points (95 % interval "
        "-0.5 to +3.5, n = 3 paired seeds). A difference of this size needs about 12 seeds."
    )
    assert (found["verdict"]["low_pp"], found["verdict_missing"]) == (-0.5, None)
    assert [policy["name"] for policy in found["evaluation"]["policies"]] == ["tamiyo", "static"]


def test_an_evaluation_has_policies_with_growth_over_the_control(tmp_path):
    evaluation(tmp_path / "last")
    with served(tmp_path) as client:
        tree = client.get("/api/v1/evaluations/last").json()
    first = tree["policies"][0]
    assert (first["accuracy_pp"], first["low_pp"], first["gain_pp"], first["growth_ratio"]) == (49.0, 47.0, 9.0, 1.5)
    assert tree["comparisons"][0] == {
        "first": "tamiyo", "second": "static", "mean_pp": 9.0, "low_pp": 7.0, "high_pp": 11.0, "seeds": 3,
    }  # fmt: skip
    assert tree["scores"] == {"tamiyo": [48.0, 50.0]}


def test_a_sweep_has_trials_with_their_runs_and_rankings(tmp_path):
    base = small_config(ppo__rounds=2)
    sweep = sweep_config({"name": "grid", "reward_modes": ["basic"], "seeds": 2})
    trials = expand(sweep, base)
    folder = tmp_path / "sweeps" / "grid"
    directory = SweepDirectory.create(folder, sweep, base, {trial.name: 160 for trial in trials}, ["esper"])
    name = trials[0].name
    run = run_of(directory.trials_path, small_records(), run_id=name, status="running")
    (run.path / "rounds.csv").write_text(
        "round,val_accuracy_ratio,committed_accuracy_ratio,growth_ratio,fossilised_mean,return_mean,env_steps,rollbacks\n"
        "0,0.5,0.4,1.5,1.0,0.1,30,1\n"
    )
    (folder / "ranking.csv").write_text(
        "ranking,choice,trials,score_pp,score_pp_low,score_pp_high\nmode,basic,2,40,30,50\n"
    )
    with served(tmp_path / "sweeps") as client:
        tree = client.get("/api/v1/sweeps/grid").json()
    assert (tree["name"], tree["status"], len(tree["trials"])) == ("grid", "running", 2)
    first = tree["trials"][0]
    assert (first["accuracy_pp"], first["parameters"], first["rollbacks"]) == (50.0, 240.0, 1)
    assert first["url"] == f"/runs/grid~{name}"
    assert tree["trials"][1]["url"] is None
    assert tree["rankings"] == [
        {"title": "mode", "rows": [{"choice": "basic", "mean_pp": 40.0, "low_pp": 30.0, "high_pp": 50.0, "trials": 2}]}
    ]


def test_a_damaged_sweep_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.json").write_text("{")
    with served(tmp_path) as client:
        response = client.get("/api/v1/sweeps/broken")
    assert response.status_code == 400
    assert "sweep.json cannot be used" in response.json()["error"]


def test_intervals_need_two_values():
    assert curve_interval([[1.0], [], [1.0, 1.0]]) == {
        "mean": [1.0, None, 1.0], "low": [None, None, 1.0], "high": [None, None, 1.0],
    }  # fmt: skip


def test_keys_that_some_lack_differ():
    assert differing_keys([{"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3}]) == ["b", "c"]
    assert differing_keys([]) == []

"""Reports of evaluations, comparisons and sweeps, and of folders that hold none of them."""

import json
from dataclasses import asdict

import pytest
from learner_builders import small_config
from report_builders import checked, run_of, small_records, visible_text

from esper_ray.karn.reports.html.place_report import place_report
from esper_ray.leyline.config.sweep import expand, sweep_config
from esper_ray.leyline.policy import stored_name
from esper_ray.leyline.results.evaluation import Interval, PairedComparison, Summary
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

pytestmark = pytest.mark.integration

EVIL = "<script>x</script>"


def summary(policy, accuracy, gain):
    interval = Interval(accuracy, accuracy - 2.0, accuracy + 2.0)
    return Summary(
        policy=policy,
        episodes=3,
        test_accuracy_pp=interval,
        val_accuracy_pp=interval,
        objective_pp=interval,
        parameters=1080.0,
        train_gflops=1.25,
        spread_pp=1.5,
        rollbacks=1,
        fossilized=2.0,
        total_reward=None,
        objective_gain_pp=gain,
        test_gain_pp=gain,
        on_frontier=True,
    )


def evaluation(folder, first="tamiyo"):
    folder.mkdir(parents=True)
    better, unclear = Interval(9.0, 7.0, 11.0), Interval(1.0, -1.0, 3.0)
    summaries = [summary(first, 49.0, better), summary("random", 41.0, unclear), summary("static", 40.0, None)]
    comparisons = [
        PairedComparison(first, "static", better, better),
        PairedComparison(first, "random", unclear, unclear),
    ]
    tree = {
        "config": small_config().model_dump(mode="json"),
        "config_sha256": "c0ffee",
        "control": "static",
        "seeds": [0, 1, 2],
        "sample": False,
        "summaries": [{stored_name(name): value for name, value in asdict(entry).items()} for entry in summaries],
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    (folder / "evaluation.json").write_text(json.dumps(tree))
    scores = "".join(f"{first},{seed},{48.0 + seed}\n" for seed in range(3))
    (folder / "scores.csv").write_text(f"policy,seed,test_accuracy_pp\n{scores}")
    return folder


def comparison(folder, better):
    for name in ("one", "two"):
        run_of(folder, small_records(), run_id=name)
    evaluation(folder / "evaluation")
    tree = {"better": better, "difference": {"mean": 2.0, "low": 0.5, "high": 3.5}, "seeds": 3, "seeds_needed": 12}
    (folder / "verdict.json").write_text(json.dumps(tree | {"pair": {"first": "shaped", "second": "sparse"}}))


def test_an_evaluation_has_a_verdict_and_all_policies(tmp_path):
    page = place_report(evaluation(tmp_path / "eval"))
    words = visible_text(page)
    assert "On 3 seeds (0 to 2) tamiyo reached 49.0 % test accuracy (95 % interval 47.0 to 51.0 %, n = 3)" in words
    assert "It was better than static by +9.0 points (+7.0 to +11.0, n = 3)." in words
    assert "A difference from random is not shown: +1.0 points (-1.0 to +3.0, n = 3)." in words
    assert page == place_report(tmp_path / "eval")


def test_names_of_policies_are_escaped(tmp_path):
    page = place_report(evaluation(tmp_path / "eval", first=EVIL))
    checked(page)
    assert "<script" not in page


@pytest.mark.parametrize("text", ["[]", "{}", '{"summaries": [{}]}', "no json"])
def test_a_damaged_evaluation_is_an_error(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"evaluation\.json"):
        place_report(tmp_path)


@pytest.mark.parametrize(
    ("better", "text"),
    [
        ("first", "shaped is better. The objective of shaped minus that of sparse is +2.0 points"),
        ("second", "sparse is better."),
        ("undecided", "A difference of this size needs about 12 seeds."),
    ],
)
def test_a_comparison_has_its_verdict_both_runs_and_the_evaluation(tmp_path, better, text):
    comparison(tmp_path / "pair", better)
    words = visible_text(place_report(tmp_path / "pair"))
    assert text in words
    assert "Both runs have the same configuration." in words
    assert "Run one" in words
    assert "Gain over static" in words


def test_a_comparison_without_an_evaluation_has_no_verdict(tmp_path):
    for name in ("one", "two"):
        run_of(tmp_path, small_records(), run_id=name)
    assert "There is no verdict on one and two: their evaluation is not over." in visible_text(place_report(tmp_path))


@pytest.fixture
def sweep(tmp_path):
    base = small_config(ppo__rounds=3)
    config = sweep_config({"name": "mine", "reward_modes": ["basic", "sparse"], "seeds": 1})
    hosts = {trial.name: 160 for trial in expand(config, base)}
    directory = SweepDirectory.create(tmp_path / "sweep", config, base, hosts, ["/opt/bin/esper", "sweep", EVIL])
    run = RunDirectory.create(directory.trials_path, next(iter(directory.trials.values())).config, ["t"], min(hosts))
    for index in range(3):
        means = dict.fromkeys(("val_accuracy_ratio", "growth_ratio", "fossilised_mean", "return_mean"), 1.0)
        row = {"round": index, "env_steps": 10, "committed_accuracy_ratio": 0.1 * index, "rollbacks": 0}
        run.add_round(row | means, {"round": index, "play_seconds": 1.0})
    run.set_status("finished")
    return directory.path


def test_a_sweep_has_its_ranking_trials_and_curves(sweep):
    header = "ranking,rank,choice,trials,score_pp,score_pp_low,score_pp_high,spread_pp,best_share,stopped\n"
    (sweep / "ranking.csv").write_text(
        f"{header}all,1,basic {EVIL},3,20.0,15.0,25.0,1,1,0\nall,2,sparse,3,18,14,22,1,0,0\n"
    )
    page = place_report(sweep)
    words = visible_text(page)
    assert f"all: the best choice is basic {EVIL}, n = 3, with an objective of 20.0 points" in words
    assert "The interval of the second, sparse, n = 3, overlaps with it (18.0 points)." in words
    assert "3 of 3" in words
    assert "0 of 3" in words
    assert "Objective of the trials" in words
    assert "<script" not in page


def test_a_sweep_that_is_not_over_has_no_ranking(sweep):
    assert "There is no ranking yet: 1 of 2 trials are over." in visible_text(place_report(sweep))


def test_a_damaged_ranking_is_an_error(sweep):
    (sweep / "ranking.csv").write_text("ranking,choice\nall,basic\n")
    with pytest.raises(RunDirectoryError, match=r"ranking\.csv"):
        place_report(sweep)


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_a_folder_of_something_else_is_an_error(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(RunDirectoryError, match="is not a folder of a run"):
        place_report(tmp_path)

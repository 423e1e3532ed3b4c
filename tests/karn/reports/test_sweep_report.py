"""Files of a sweep: the folder, scores by hand, tables, and pictures that can be drawn."""

import csv

import pytest

from esper_ray.karn.reports.sweep_report import (
    choice_name,
    draw_sweep,
    table_rows,
    write_markdown,
    write_ranking,
    write_sweep,
)
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.sweep import expand, sweep_config
from esper_ray.leyline.evaluation_results import Interval
from esper_ray.leyline.sweep_results import RankedChoice, TrialResult
from esper_ray.nissa.runs.run_directory import RunDirectory, RunDirectoryError
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

BASE = build(read_preset("digits"), {"ppo.rounds": 4})
TREE = {"name": "mine", "reward_modes": ["basic", "sparse"], "seeds": 2, "grid": {"ppo.lr": [1e-4, 1e-3]}, "window": 2}


def row(index, committed, growth=1.0, rollbacks=0):
    return {
        "round": index,
        "env_steps": 40 * (index + 1),
        "committed_accuracy_ratio": committed,
        "val_accuracy_ratio": committed + 0.1,
        "growth_ratio": growth,
        "fossilised_mean": 1.0,
        "return_mean": float(index),
        "rollbacks": rollbacks,
    }


@pytest.fixture
def sweep(tmp_path):
    config = sweep_config(TREE)
    return SweepDirectory.create(
        tmp_path / "sweep", config, BASE, {t.name: 160 for t in expand(config, BASE)}, ["esper", "sweep"]
    )


def standing(mode, seed, score, lr=1e-4, status="finished", curve=None):
    curve = (score - 10.0, score) if curve is None else curve
    settings = {"reward.mode": mode, "seed": seed, "ppo.lr": lr}
    return TrialResult(f"{mode}-{lr}-{seed}", settings, status, len(curve), 4, score, curve, {}, 0, 80)


class TestDirectory:
    """A sweep is its folder."""

    def test_it_opens_as_what_it_was(self, sweep):
        again = SweepDirectory.open(sweep.path)
        assert again.sweep == sweep.sweep
        assert again.base == BASE
        assert again.trials == sweep.trials
        assert again.differences(sweep.sweep, BASE) == []

    def test_only_what_decides_results_counts_as_a_difference(self, sweep):
        changed = sweep.sweep.model_copy(update={"concurrent": 3, "retries": 0, "window": 7})
        assert sweep.differences(changed, BASE) == ["window: 2 -> 7"]

    def test_a_trial_that_has_not_begun_is_waiting(self, sweep):
        standing = sweep.standing("0-basic-lr=0.0001-s42")
        assert (standing.status, standing.round_index, standing.score_pp, standing.run) == ("waiting", 0, None, "")

    def test_a_score_by_hand(self, sweep):
        """160 parameters of the host, grown to 2.5 times as many: 240 at 0.005 points each are 1.2 points."""
        name = "0-basic-lr=0.0001-s42"
        run = RunDirectory.create(sweep.trials_path, sweep.trials[name].config, ["test"], name)
        for entry in (row(0, 0.2), row(1, 0.4, rollbacks=2), row(2, 0.6, 2.5, rollbacks=1)):
            run.add_round(entry, {"round": 0})
        standing = sweep.standing(name)
        assert standing.curve_pp == pytest.approx((20.0, 40.0, 58.8))
        assert standing.score_pp == pytest.approx(49.4)
        assert standing.reported_pp(2) == pytest.approx([20.0, 30.0, 49.4])
        assert standing.means["committed_accuracy_ratio"] == pytest.approx(0.5)
        assert (standing.round_index, standing.rounds, standing.rollbacks, standing.env_steps) == (3, 4, 3, 120)
        assert standing.run == f"trials/{name}"

    def test_the_price_is_that_of_the_base_whatever_a_trial_is_charged(self, tmp_path):
        config = sweep_config({"seeds": 1, "grid": {"reward.param_penalty_weight": [0.1, 50.0]}})
        names = [trial.name for trial in expand(config, BASE)]
        sweep = SweepDirectory.create(tmp_path / "priced", config, BASE, dict.fromkeys(names, 160), ["test"])
        cheap, dear = (sweep.objective(name, [row(0, 0.6, 2.0)]) for name in names)
        assert cheap == dear == pytest.approx((59.2,))

    def test_a_line_that_is_being_written_is_not_read(self, sweep):
        name = "0-basic-lr=0.0001-s42"
        run = RunDirectory.create(sweep.trials_path, sweep.trials[name].config, ["test"], name)
        run.add_round(row(0, 0.2), {"round": 0})
        with (run.path / "rounds.csv").open("a") as file:
            file.write("1,80,0.")
        assert sweep.standing(name).round_index == 1

    def test_trials_of_another_sweep_are_refused(self, sweep):
        name = "0-basic-lr=0.0001-s42"
        RunDirectory.create(sweep.trials_path, sweep.trials["1-sparse-lr=0.0001-s42"].config, ["test"], name)
        with pytest.raises(RunDirectoryError, match=r"belongs to another sweep:\nreward\.mode: 'sparse' -> 'basic'"):
            sweep.check()

    def test_it_is_locked_once(self, sweep):
        with sweep.lock(), pytest.raises(RunDirectoryError, match="another process runs the sweep"), sweep.lock():
            pass
        with sweep.lock():
            pass


def ranked(choice, mean, trials=3, stopped=0):
    return RankedChoice(choice, trials, Interval(mean, mean - 4.0, mean + 3.0), 2.5, 0.125, stopped)


def test_choices_in_words():
    settings = {"reward.mode": "basic", "seed": 3, "ppo.lr": 1e-4, "growth.slots": ["r0c0"]}
    assert choice_name(settings, ["reward.mode", "ppo.lr", "growth.slots"]) == "basic, lr=0.0001, slots=['r0c0']"


def test_rows_for_people():
    assert table_rows([ranked("basic", 71.0), ranked("sparse", 61.0, trials=1, stopped=1)]) == [
        ("1", "basic", "3", "71.0", "[67.0, 74.0]", "2.5", "12%", ""),
        ("2", "sparse", "1", "61.0", "", "", "12%", "1"),
    ]


def test_tables_are_written(tmp_path, sweep):
    with write_sweep(tmp_path, sweep.standings()).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [entry["trial"] for entry in lines] == list(sweep.trials)
    assert (lines[1]["reward.mode"], lines[1]["seed"], lines[1]["ppo.lr"]) == ("sparse", "42", "0.0001")
    assert (lines[1]["status"], lines[1]["score_pp"]) == ("waiting", "")
    with write_ranking(tmp_path, {"choices": [ranked("basic", 71.0)]}).open(newline="") as file:
        (entry,) = csv.DictReader(file)
    assert (entry["ranking"], entry["choice"], entry["score_pp"], entry["score_pp_low"]) == (
        "choices",
        "basic",
        "71.0",
        "67.0",
    )
    text = write_markdown(tmp_path, {"choices": [ranked("basic", 71.0)]}, "a title", ["a note"]).read_text()
    assert "# a title" in text
    assert "| 1 | basic | 3 | 71.0 | [67.0, 74.0] | 2.5 | 12% |  |" in text
    assert "a note" in text


@pytest.mark.parametrize("choices", [1, 8, 30])
def test_pictures_are_drawn_of_few_and_of_many_choices(tmp_path, choices):
    groups = {f"c{i}": [standing(f"c{i}", seed, 50.0 + i + seed) for seed in range(3)] for i in range(choices)}
    order = [ranked(name, 50.0 + index) for index, name in enumerate(groups)]
    assert draw_sweep(tmp_path, groups, order, "a title").stat().st_size > 10_000


def test_a_picture_of_single_rounds(tmp_path):
    groups = {"basic": [standing("basic", 1, 50.0, curve=(50.0,))]}
    assert draw_sweep(tmp_path, groups, [ranked("basic", 50.0, trials=1)], "a title").stat().st_size > 5_000

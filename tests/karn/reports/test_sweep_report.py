"""Report of a sweep: tables and charts."""

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
from esper_ray.leyline.results.evaluation import Interval
from esper_ray.leyline.results.sweep import RankedChoice, TrialResult
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

pytestmark = pytest.mark.integration

BASE = build(read_preset("digits"), {"ppo.rounds": 4})
TREE = {"name": "mine", "reward_modes": ["basic", "sparse"], "seeds": 2, "grid": {"ppo.lr": [1e-4, 1e-3]}, "window": 2}


@pytest.fixture
def sweep(tmp_path):
    config = sweep_config(TREE)
    return SweepDirectory.create(
        tmp_path / "sweep", config, BASE, {t.name: 160 for t in expand(config, BASE)}, ["esper", "sweep"]
    )


def trial_result(mode, seed, score, lr=1e-4, status="finished", curve=None):
    curve = (score - 10.0, score) if curve is None else curve
    settings = {"reward.mode": mode, "seed": seed, "ppo.lr": lr}
    return TrialResult(f"{mode}-{lr}-{seed}", settings, status, len(curve), 4, score, curve, {}, 0, 80)


def ranked(choice, mean, trials=3, stopped=0):
    return RankedChoice(choice, trials, Interval(mean, mean - 4.0, mean + 3.0), 2.5, 0.125, stopped)


def test_the_name_of_a_choice_lists_its_settings():
    settings = {"reward.mode": "basic", "seed": 3, "ppo.lr": 1e-4, "growth.slots": ["r0c0"]}
    assert choice_name(settings, ["reward.mode", "ppo.lr", "growth.slots"]) == "basic, lr=0.0001, slots=['r0c0']"


def test_table_rows_are_formatted_and_single_trials_have_no_interval():
    assert table_rows([ranked("basic", 71.0), ranked("sparse", 61.0, trials=1, stopped=1)]) == [
        ("1", "basic", "3", "71.0", "[67.0, 74.0]", "2.5", "12%", ""),
        ("2", "sparse", "1", "61.0", "", "", "12%", "1"),
    ]


def test_tables_have_every_trial_and_choice(tmp_path, sweep):
    with write_sweep(tmp_path, sweep.results()).open(newline="") as file:
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
def test_a_chart_is_drawn_for_few_and_many_choices(tmp_path, choices):
    groups = {f"c{i}": [trial_result(f"c{i}", seed, 50.0 + i + seed) for seed in range(3)] for i in range(choices)}
    order = [ranked(name, 50.0 + index) for index, name in enumerate(groups)]
    assert draw_sweep(tmp_path, groups, order, "a title").stat().st_size > 10_000


def test_a_chart_is_drawn_for_trials_of_a_single_round(tmp_path):
    groups = {"basic": [trial_result("basic", 1, 50.0, curve=(50.0,))]}
    assert draw_sweep(tmp_path, groups, [ranked("basic", 50.0, trials=1)], "a title").stat().st_size > 5_000

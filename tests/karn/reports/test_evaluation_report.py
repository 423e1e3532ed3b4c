"""Files of an evaluation: tables that round-trip, and a chart with visible content."""

import csv
from dataclasses import fields, replace

import matplotlib.image
import numpy as np
import pytest

from esper_ray.karn.reports import evaluation_report
from esper_ray.leyline.policy import attribute_of
from esper_ray.leyline.results.evaluation import Interval, PairedComparison, Score, Summary

pytestmark = pytest.mark.integration

READ = {"seed": int, "parameters": int, "grown_parameters": int, "rollbacks": int, "fossilized": int, "policy": str}


def score(policy, seed, **changes):
    result = Score(
        policy=policy,
        seed=seed,
        test_accuracy_pp=61.123456789012345,
        val_accuracy_pp=60.0,
        objective_pp=58.0 + seed,
        committed_accuracy_pp=59.5,
        parameters=300,
        grown_parameters=140,
        train_flops=1.5e9,
        rollbacks=0,
        fossilized=1,
        total_reward=-0.1,
        seeds_grown=(("r0c0", "conv_light"), ("r0c2", "norm")),
    )
    return replace(result, **changes)


def summary(policy, **changes):
    result = Summary(
        policy=policy,
        episodes=20,
        test_accuracy_pp=Interval(61.04, 60.0, 62.25),
        val_accuracy_pp=Interval(60.0, 59.0, 61.0),
        objective_pp=Interval(58.0, 57.0, 59.0),
        parameters=12345.6,
        train_gflops=1.23456,
        spread_pp=2.34,
        rollbacks=3,
        fossilized=1.25,
        total_reward=None,
        objective_gain_pp=Interval(8.0, -7.04, 9.0),
        test_gain_pp=Interval(-1.25, -2.0, 10.0),
        on_frontier=True,
    )
    return replace(result, **changes)


FOUND = summary("grown", finding_gflops=1450.6)
CONTROL = summary("alone", objective_gain_pp=None, test_gain_pp=None, on_frontier=False, train_gflops=1234.5)
SCORES = [
    score("grown", 0),
    score("grown", 1, test_accuracy_pp=55.0, parameters=500, train_flops=2e9 / 3),
    score("alone", 0, total_reward=None, seeds_grown=(), parameters=160, test_accuracy_pp=20.0),
    score("alone", 1, total_reward=None, seeds_grown=(), parameters=160, test_accuracy_pp=25.0),
]
ROW = (
    *("grown", "61.0 [60.0, 62.2]", "-1.2 [-2.0, +10.0]", "58.0 [57.0, 59.0]", "+8.0 [-7.0, +9.0]"),
    *("12,346", "1.23", "1,451", "2.3", "3", "1.2", "frontier"),
)


def read_again(path):
    """Scores written to a file and read back."""

    def value(name, text):
        if name == "seeds_grown":
            return tuple(tuple(pair.split(":")) for pair in text.split())
        return None if text == "" else READ.get(name, float)(text)

    with path.open(newline="") as file:
        return [
            Score(**{attribute_of(name): value(attribute_of(name), text) for name, text in row.items()})
            for row in csv.DictReader(file)
        ]


def test_scores_round_trip_through_their_file(tmp_path):
    scores = [*SCORES, score('a,b "c" | d', 4294967295, test_accuracy_pp=100.0 / 3.0)]
    assert read_again(evaluation_report.write_scores(tmp_path, scores)) == scores


def test_a_file_without_scores_has_headings_only(tmp_path):
    path = evaluation_report.write_scores(tmp_path, [])
    assert path.read_text() == (
        "policy,seed,test_accuracy_pp,val_accuracy_pp,objective_pp,committed_accuracy_pp,parameters,"
        "grown_parameters,train_flops,rollbacks,fossilised,total_reward,seeds_grown\n"
    )


def test_the_summary_has_one_row_per_policy_and_three_columns_per_interval(tmp_path):
    path = evaluation_report.write_summary(tmp_path, [summary("grown"), CONTROL])
    with path.open(newline="") as file:
        grown, alone = csv.DictReader(file)
    intervals = ("test_accuracy_pp", "val_accuracy_pp", "objective_pp", "objective_gain_pp", "test_gain_pp")
    assert len(grown) == len(fields(Summary)) + 2 * len(intervals)
    assert [grown[f"test_gain_pp_{part}"] for part in ("mean", "low", "high")] == ["-1.25", "-2.0", "10.0"]
    assert [alone[f"test_gain_pp_{part}"] for part in ("mean", "low", "high")] == ["", "", ""]
    assert (grown["policy"], grown["parameters"], grown["on_frontier"]) == ("grown", "12345.6", "True")
    assert grown["fossilised"] == "1.25"
    assert (grown["total_reward"], alone["on_frontier"]) == ("", "False")


def test_a_row_of_the_table_by_hand():
    first, second = evaluation_report.table_rows([FOUND, CONTROL])
    assert first == ROW
    assert len(evaluation_report.COLUMNS) == len(first)
    assert (second[2], second[4], *second[6:8], second[-1]) == ("control", "control", "1,234", "", "")


def test_narrower_layouts_have_the_same_cells_in_more_lines():
    (_, single), (headings, stacked), (few, dense) = evaluation_report.layouts([FOUND, CONTROL])
    assert single[0] == ROW
    assert stacked[0][:3] == ("grown\nfrontier", "61.0\n[60.0, 62.2]", "-1.2\n[-2.0, +10.0]")
    assert stacked[1][0] == "alone"
    assert len(headings) == len(stacked[0]) == 10
    assert stacked[0][6] == "1.23\n1,451"
    assert dense[0] == (*stacked[0][:3], "+8.0\n[-7.0, +9.0]", "12,346\n1.23\n1,451", "2.3\n3")
    assert len(few) == len(dense[0]) == 6


@pytest.mark.parametrize(("layout", "columns"), [(1, 110), (2, 80)])
def test_layouts_fit_their_terminal_widths(layout, columns):
    wide = summary(
        "from-scratch",
        test_gain_pp=Interval(-10.0, -20.0, -10.0),
        objective_gain_pp=Interval(-10.0, -20.0, 10.0),
        parameters=1e6,
    )
    headings, rows = evaluation_report.layouts([wide])[layout]
    widths = [
        max(len(line) for text in column for line in text.split("\n")) for column in zip(headings, *rows, strict=True)
    ]
    assert sum(widths) + len(widths) - 1 <= columns


def test_the_markdown_report_has_table_notes_and_picture(tmp_path):
    notes = ["First.", "Second."]
    text = evaluation_report.write_markdown(tmp_path, [FOUND, CONTROL], [], "title", notes).read_text()
    lines = text.splitlines()
    assert lines[:6] == ["# title", "", "First.", "", "Second.", ""]
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == "| " + " | ".join(evaluation_report.COLUMNS) + " |"
    assert table[1] == "|---|" + "---:|" * 10 + "---|"
    assert table[2] == "| " + " | ".join(ROW) + " |"
    assert {line.count("|") for line in table} == {len(evaluation_report.COLUMNS) + 1}
    assert lines[-1] == "![comparison](comparison.png)"


def test_a_label_cannot_break_the_markdown_table(tmp_path):
    text = evaluation_report.write_markdown(tmp_path, [summary("a|b")], [], "title", []).read_text()
    (row,) = [line for line in text.splitlines() if "61.0" in line]
    assert row.count("|") == len(evaluation_report.COLUMNS) + 1
    assert "a&#124;b" in row


def drawn(folder, summaries, scores=SCORES):
    """Pixels of the chart in [0, 1], and the share of those that are not white."""
    path = evaluation_report.draw_comparison(folder, scores, summaries, "digits: 2 paired seeds")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = matplotlib.image.imread(path)[..., :3]
    return pixels, float((pixels.min(axis=2) < 0.99).mean())


def shown(pixels, colour):
    """Number of pixels of a colour."""
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return int((np.abs(pixels - rgb).max(axis=2) < 0.01).sum())


def test_the_chart_shows_quality_of_all_policies_and_gains_over_the_control(tmp_path):
    pixels, ink = drawn(tmp_path, [summary("grown"), CONTROL])
    assert pixels.shape == (624, 1440, 3)
    assert 0.01 < ink < 0.5
    middle = pixels.shape[1] * 11 // 20
    grown, alone = evaluation_report.COLOURS[:2]
    assert shown(pixels[:, :middle], grown) > 20
    assert shown(pixels[:, :middle], alone) > 20
    assert shown(pixels[:, middle:], grown) > 100
    assert shown(pixels[:, middle:], alone) == 0


@pytest.mark.parametrize("count", [1, 14])
def test_a_chart_of_any_number_of_policies_is_drawn(count, tmp_path):
    """Also of the control alone, of equal costs, and of several orders of magnitude."""
    policies = [summary(f"policy {i}", parameters=10.0 ** (i // 2 + 2)) for i in range(count - 1)]
    pixels, ink = drawn(tmp_path, [CONTROL, *policies])
    assert pixels.shape[0] >= 48 * count
    assert 0.005 < ink < 0.5


def test_labels_with_formula_characters_are_drawn_literally(tmp_path):
    _, ink = drawn(tmp_path, [summary("$\\frac{$ a_b^c"), replace(CONTROL, policy="$x$ $")])
    assert ink > 0.01


def test_equal_scores_give_equal_charts(tmp_path):
    first, _ = drawn(tmp_path, [summary("grown"), CONTROL])
    repeated, _ = drawn(tmp_path, [summary("grown"), CONTROL])
    assert np.array_equal(first, repeated)


@pytest.mark.parametrize(
    ("value", "text"), [(100.0, "100"), (2000.0, "2,000"), (30.0, "30"), (50000.0, "50,000"), (700.0, ""), (40.0, "")]
)
def test_ticks_are_plain_numbers_without_overlap(value, text):
    assert evaluation_report._thousands(value, 0) == text


def test_paired_comparisons_have_their_own_table(tmp_path):
    comparison = PairedComparison("a", "b|c", Interval(1.0, -2.0, 3.5), Interval(10.0, 5.0, 15.0))
    text = evaluation_report.write_markdown(tmp_path, [summary("a"), CONTROL], [comparison], "title", []).read_text()
    table = ["| a over | test gain | objective gain |", "|---|---:|---:|"]
    table.append("| b&#124;c | +1.0 [-2.0, +3.5] | +10.0 [+5.0, +15.0] |")
    assert "\n".join(table) in text
    assert (
        evaluation_report.comparison_line(comparison)
        == "gain of a over b|c: test +1.0 [-2.0, +3.5], objective +10.0 [+5.0, +15.0]"
    )


def test_the_ringed_policies_are_the_frontier_of_what_is_drawn():
    """Quality and size alone: `worse` would be on the frontier of four criteria, for its spread."""
    points = {"small": (50.0, 100.0), "best": (70.0, 300.0), "worse": (60.0, 300.0), "equal": (70.0, 300.0)}
    drawn = [
        summary(
            name,
            test_accuracy_pp=Interval(mean, mean, mean),
            parameters=size,
            spread_pp=0.1 if name == "worse" else 5.0,
        )
        for name, (mean, size) in points.items()
    ]
    assert evaluation_report._best_for_size(drawn) == {"small", "best", "equal"}

"""Tables of the documentation against the CSV files that they are made of."""

import pytest

from evidence import paths, tables

SUMMARY = """policy,test_accuracy_pp_mean,test_accuracy_pp_low,test_accuracy_pp_high,objective_gain_pp_mean,\
objective_gain_pp_low,objective_gain_pp_high,parameters,train_gflops,finding_gflops,rollbacks
digits,81.25,78.04,83.96,42.4,38.54,46.55,1080.4,1.5312,1450.2,0
static,28.9,24.9,32.5,,,,160,0.1,,2
mine,50,49.5,50.5,-1,-2.25,0.25,12345,123.4,12.34,0
"""
ABLATION = """arm,seed,rounds,return_half,return_last,explained_variance,entropy_last,objective_pp,test_pp,\
over_preset_pp
preset,42,40,1.0,2.0,0.512,1.9,70.04,71,0.000
preset,43,40,1.0,2.0,0.4,2.0,60,61,0.000
wide,42,20,0.5,0.6,0.1,2.1,,,
wide,43,20,0.5,0.6,0.2,2.2,,,
narrow,42,40,2.5,2.6,0.6,1.1,73.55,,3.506
"""


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "summary.csv").write_text(SUMMARY)
    (tmp_path / "ablations.csv").write_text(ABLATION)
    return tmp_path


def test_every_table_of_the_documentation_equals_its_results():
    """``python -m evidence --tables`` writes them."""
    for path in tables.PAGES:
        text = path.read_text()
        assert tables.with_tables(text) == text, path


def test_a_comparison_has_one_line_per_policy(results):
    assert tables.comparison_table("one")[2:] == [
        "| **Tamiyo, learned** | 81.2 [78.0, 84.0] | +42.4 [+38.5, +46.5] | 1,080 | 1.53 | 1,450 | 0 |",
        "| static: the host alone | 28.9 [24.9, 32.5] |  | 160 | 0.1 |  | 2 |",
        "| mine | 50.0 [49.5, 50.5] | -1.0 [-2.2, +0.2] | 12,345 | 123 | 12.3 | 0 |",
    ]


def test_an_ablation_shows_all_trainings_and_stopped_arms(results):
    assert tables.ablation_table("ablations")[2:] == [
        "| preset | 42, 43 | 40 | 70.0 / 60.0 |  | 0.51 / 0.40 | 1.90 / 2.00 |",
        "| wide | 42, 43 | 20 | stopped at half | stopped at half | 0.10 / 0.20 | 2.10 / 2.20 |",
        "| narrow | 42 | 40 | 73.5 | +3.5 | 0.60 | 1.10 |",
    ]


def test_tables_are_written_between_their_marks(results):
    text = "before\n<!-- table: one -->\nold\n<!-- end of table -->\nafter <!-- other -->\n"
    once = tables.with_tables(text)
    assert once.startswith("before\n<!-- table: one -->\n\n| policy |")
    assert once.endswith("| 0 |\n\n<!-- end of table -->\nafter <!-- other -->\n")
    assert tables.with_tables(once) == once
    (results / "one" / "summary.csv").write_text(SUMMARY.replace("81.25", "80.25"))
    assert tables.with_tables(once) == once.replace("81.2 [", "80.2 [")


def test_a_table_without_results_is_refused(results):
    with pytest.raises(ValueError, match="table 'two' has no results; there are one, one gains, ablations"):
        tables.with_tables("<!-- table: two -->\n<!-- end of table -->\n")


def test_gains_are_paired_and_in_falling_order(results):
    """Learned 80 and 82; worse is behind by 10 and 14, better ahead by 1 and 1."""
    scores = {"learned": (80.0, 82.0), "better": (81.0, 83.0), "worse": (70.0, 68.0)}
    header = "policy,seed,test_accuracy_pp,val_accuracy_pp,objective_pp,committed_accuracy_pp,parameters,"
    header += "grown_parameters,train_flops,rollbacks,fossilised,total_reward,seeds_grown"
    lines = [f"{name},{i},{v},50,{v},50,300,140,1e9,0,1,," for name, row in scores.items() for i, v in enumerate(row)]
    (results / "one" / "scores.csv").write_text("\n".join([header, *lines]) + "\n")
    assert tables.gains_table("one")[2:] == [
        "| worse | +12.0 [+10.0, +14.0] | +12.0 [+10.0, +14.0] |",
        "| better | -1.0 [-1.0, -1.0] | -1.0 [-1.0, -1.0] |",
    ]

"""Learning curve: objective by round, and lines of the other policies."""

import csv

import pytest
from matplotlib.image import imread

from esper_ray.karn.reports.learning_curve import draw_learning, objective_by_round, smooth
from esper_ray.leyline.results.evaluation import Interval, Summary


class Rounds:
    """Run directory with the rounds of the learning curve."""

    def __init__(self, path):
        self.path = path

    def rounds(self, *columns):
        with self.path.open() as file:
            return list(csv.DictReader(file))


def summary(name, objective):
    interval = Interval(objective, objective - 2.0, objective + 2.0)
    gain = None if name == "static" else interval
    return Summary(name, 2, interval, interval, interval, 100.0, 1.0, 0.5, 0, 1.0, None, gain, gain, False)


def test_the_objective_of_a_round_is_its_accuracy_minus_the_price_of_growth(tmp_path):
    """A host of 160 parameters, 0.005 points each: growth to 3.5 times its size adds 400 and costs 2 points."""
    path = tmp_path / "rounds.csv"
    path.write_text("val_accuracy_ratio,growth_ratio\n0.5,1.0\n0.75,3.5\n")
    assert objective_by_round(Rounds(path), 160, 0.005) == [pytest.approx(50.0), pytest.approx(73.0)]


def test_the_moving_average_uses_past_rounds_only():
    assert smooth([1.0, 3.0, 5.0, 7.0], window=3) == [1.0, 2.0, 3.0, 5.0]
    assert smooth([4.0]) == [4.0]


def test_the_chart_shows_the_curve_and_the_lines(tmp_path):
    summaries = [summary("tamiyo", 60.0), summary("static", 30.0)]
    with_curve = imread(draw_learning(tmp_path / "a.png", {"tamiyo": [40.0, 50.0, 60.0]}, summaries, "title"))
    image = imread(draw_learning(tmp_path / "b.png", {"tamiyo": [40.0, 50.0, 60.0]}, summaries[:1], "title"))
    assert with_curve.shape == image.shape
    assert (with_curve != image).any(), "the line of the control is missing"

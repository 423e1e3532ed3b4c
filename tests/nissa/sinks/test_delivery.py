"""Sinks that fail, hang or dawdle cost a run nothing but what they would have shown."""

import math
import threading
import time

import pytest

from esper_ray.nissa.sinks.delivery import QUEUE_SIZE, TRIES, Delivery
from esper_ray.nissa.sinks.protocol import RunFacts, scalar_values

FACTS = RunFacts("run", "A", None, {"seed": 1})


class Notes:
    """Remembers what it was told; fails as often as it is asked to."""

    name = "notes"

    def __init__(self, failing=(), at_opening=0):
        self.failing, self.at_opening = set(failing), at_opening
        self.opened, self.rounds, self.closed = [], [], []

    def open(self, facts):
        self.opened.append(facts)
        if len(self.opened) <= self.at_opening:
            raise ConnectionError("nobody answers\nand more")

    def round(self, values, round_index):
        if round_index in self.failing:
            raise ValueError(f"round {round_index}")
        self.rounds.append((round_index, values))

    def close(self, status, picture):
        self.closed.append((status, picture))


class Hanging(Notes):
    """Hangs in its first round until it is let go."""

    def __init__(self):
        super().__init__()
        self.began, self.let_go = threading.Event(), threading.Event()

    def round(self, values, round_index):
        self.began.set()
        assert self.let_go.wait(60)
        super().round(values, round_index)


def delivered(sink, rounds, patience_s=30.0):
    """What a sink could not do with so many rounds."""
    delivery = Delivery([sink], FACTS)
    for index in range(rounds):
        delivery.round({"a": float(index)}, index)
    delivery.close("finished", None, patience_s)
    return [problem.what for problem in delivery.problems()]


def test_a_sink_gets_every_round_in_order_and_how_it_ended():
    sink = Notes()
    assert delivered(sink, 3) == []
    assert sink.opened == [FACTS]
    assert sink.rounds == [(0, {"a": 0.0}), (1, {"a": 1.0}), (2, {"a": 2.0})]
    assert sink.closed == [("finished", None)]


def test_a_failure_is_told_and_the_rest_arrives():
    sink = Notes(failing=[1])
    assert delivered(sink, 4) == ["ValueError: round 1", "1 messages failed"]
    assert [index for index, _ in sink.rounds] == [0, 2, 3]
    assert sink.closed == [("finished", None)]


def test_opening_is_tried_again():
    sink = Notes(at_opening=2)
    assert delivered(sink, 3) == ["ConnectionError: nobody answers", "1 messages failed"]
    assert [index for index, _ in sink.rounds] == [1, 2]


def test_a_sink_is_disabled_after_consecutive_failures():
    sink = Notes(at_opening=10**6)
    told = delivered(sink, 20)
    assert told == ["ConnectionError: nobody answers", f"disabled after {TRIES} consecutive failures: {told[0]}"]
    assert len(sink.opened) == TRIES


def test_a_hanging_sink_delays_no_other_and_its_dropped_rounds_are_counted():
    sink, other = Hanging(), Notes()
    delivery = Delivery([sink, other], FACTS)
    delivery.round({}, 0)
    assert sink.began.wait(30)
    began = time.monotonic()
    for index in range(1, QUEUE_SIZE + 11):
        delivery.round({}, index)
        time.sleep(0.0001)
    delivery.close("finished", None, 0.5)
    assert time.monotonic() - began < 15
    told = {problem.what for problem in delivery.problems() if problem.sink == "notes"}
    assert f"not drained in time; {QUEUE_SIZE} messages are left" in told
    assert "12 messages were dropped: the sink is too slow" in told
    assert len(other.rounds) == QUEUE_SIZE + 11
    sink.let_go.set()


def test_without_sinks_there_is_nothing_to_do():
    delivery = Delivery([], FACTS)
    delivery.round({}, 0)
    delivery.close("failed", None)
    assert delivery.problems() == []


def test_numbers_have_names_in_folders_and_what_is_not_finite_is_left_out():
    row = {
        "round": 3,
        "val_accuracy_ratio": 0.5,
        "op_germinate": 2,
        "kl": 0.1,
        "entropy_op": math.nan,
        "grad_norm": None,
    }
    assert scalar_values(row, {"round": 3, "play_seconds": 1.5}) == {
        "round/val_accuracy_ratio": 0.5,
        "op/germinate": 2.0,
        "ppo/kl": 0.1,
        "time/play_seconds": 1.5,
    }


@pytest.mark.parametrize(("group", "name"), [("", "run"), ("A", "run/A")])
def test_a_run_of_a_group_has_both_names(group, name):
    assert RunFacts("run", group, None, {}).name == name

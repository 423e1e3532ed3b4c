"""Delivery to sinks: a failing, hanging or slow sink delays neither the run nor other sinks."""

import math
import threading
import time

import pytest

from esper_ray.nissa.sinks.delivery import QUEUE_SIZE, TRIES, Delivery
from esper_ray.nissa.sinks.protocol import RunFacts, scalar_values

FACTS = RunFacts("run", "A", None, {"seed": 1})


class RecordingSink:
    """Sink that records its calls and fails in the given rounds and the first openings."""

    name = "notes"

    def __init__(self, failing=(), at_opening=0):
        self.failing, self.at_opening = set(failing), at_opening
        self.opened, self.rounds, self.closed = [], [], []

    def open(self, facts):
        self.opened.append(facts)
        if len(self.opened) <= self.at_opening:
            raise ConnectionError("no answer\nand more")

    def round(self, values, round_index):
        if round_index in self.failing:
            raise ValueError(f"round {round_index}")
        self.rounds.append((round_index, values))

    def close(self, status, picture):
        self.closed.append((status, picture))


class HangingSink(RecordingSink):
    """Sink that blocks in its first round until it is released."""

    def __init__(self):
        super().__init__()
        self.began, self.released = threading.Event(), threading.Event()

    def round(self, values, round_index):
        self.began.set()
        assert self.released.wait(60)
        super().round(values, round_index)


def delivery_problems(sink, rounds, patience_s=30.0):
    """Problems of the delivery of ``rounds`` rounds to ``sink``."""
    delivery = Delivery([sink], FACTS)
    for index in range(rounds):
        delivery.round({"a": float(index)}, index)
    delivery.close("finished", None, patience_s)
    return [problem.what for problem in delivery.problems()]


def test_a_sink_receives_every_round_in_order_and_the_final_status():
    sink = RecordingSink()
    assert delivery_problems(sink, 3) == []
    assert sink.opened == [FACTS]
    assert sink.rounds == [(0, {"a": 0.0}), (1, {"a": 1.0}), (2, {"a": 2.0})]
    assert sink.closed == [("finished", None)]


def test_a_failed_round_is_reported_and_the_others_arrive():
    sink = RecordingSink(failing=[1])
    assert delivery_problems(sink, 4) == ["ValueError: round 1", "1 messages failed"]
    assert [index for index, _ in sink.rounds] == [0, 2, 3]
    assert sink.closed == [("finished", None)]


def test_a_failed_opening_is_retried():
    sink = RecordingSink(at_opening=2)
    assert delivery_problems(sink, 3) == ["ConnectionError: no answer", "1 messages failed"]
    assert [index for index, _ in sink.rounds] == [1, 2]


def test_a_sink_is_disabled_after_consecutive_failures():
    sink = RecordingSink(at_opening=10**6)
    problems = delivery_problems(sink, 20)
    assert problems == [
        "ConnectionError: no answer",
        f"disabled after {TRIES} consecutive failures: {problems[0]}",
    ]
    assert len(sink.opened) == TRIES


def test_a_hanging_sink_delays_no_other_and_its_dropped_rounds_are_counted():
    hanging, healthy = HangingSink(), RecordingSink()
    delivery = Delivery([hanging, healthy], FACTS)
    delivery.round({}, 0)
    assert hanging.began.wait(30)
    began = time.monotonic()
    for index in range(1, QUEUE_SIZE + 11):
        delivery.round({}, index)
        time.sleep(0.0001)
    delivery.close("finished", None, 0.5)
    assert time.monotonic() - began < 15
    problems = {problem.what for problem in delivery.problems() if problem.sink == "notes"}
    assert f"not drained in time; {QUEUE_SIZE} messages are left" in problems
    assert "12 messages were dropped: the sink is too slow" in problems
    assert len(healthy.rounds) == QUEUE_SIZE + 11
    hanging.released.set()


def test_without_sinks_delivery_has_no_problems():
    delivery = Delivery([], FACTS)
    delivery.round({}, 0)
    delivery.close("failed", None)
    assert delivery.problems() == []


def test_scalars_are_named_by_folder_and_nonfinite_values_left_out():
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

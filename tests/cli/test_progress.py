"""What a run prints while it runs."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from esper_ray.karn.console import progress
from esper_ray.karn.console.progress import (
    LiveProgress,
    PlainProgress,
    RoundClock,
    describe_duration,
    describe_operations,
    progress_for,
)
from esper_ray.leyline.config.loading import build, read_preset

CONFIG = build(read_preset("digits"), {"ppo.rounds": 3, "system.envs": 2})
TIMING = {"env_steps_per_second": 12.345}
ROW = {
    "round": 0,
    "return_mean": -1.234,
    "val_accuracy_ratio": 0.4567,
    "growth_ratio": 1.5,
    "fossilised_mean": 0.5,
    "op_wait": 90,
    "op_germinate": 2,
    "op_set_alpha_target": 0,
    "op_prune": 7,
    "op_fossilize": 2,
    "op_advance": 0,
}


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def test_a_plain_line_by_hand(clock):
    out = io.StringIO()
    with progress_for(CONFIG, Console(file=out)) as listener:
        assert isinstance(listener, PlainProgress)
        clock.seconds += 30.0
        listener.round_finished(ROW, TIMING)
    assert out.getvalue() == (
        "round 1/3  12.3 steps/s  return -1.23  accuracy 45.7%  growth 1.50x  prune 7 germ 2 foss 2  left 1:00\n"
    )


def test_a_terminal_gets_a_table_with_the_round_and_the_one_at_work():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    episode = SimpleNamespace(
        operations={"GERMINATE": 3}, total_reward=2.0, val_accuracy_pp=30.0, growth_ratio=1.25, fossilised=1
    )
    with progress_for(CONFIG, console) as listener:
        assert isinstance(listener, LiveProgress)
        listener.round_finished(ROW, TIMING)
        listener.episode_finished(episode)
        shown = io.StringIO()
        Console(file=shown, width=120).print(listener._render())
        listener.updating()
    text = shown.getvalue()
    assert re.search(r"1/3 +12\.3 +-1\.23 +45\.7% +1\.50x +0\.5 +prune 7 germ 2 foss 2", text)
    assert re.search(r"\n +2 +\+2\.00 +30\.0% +1\.25x +1\.0 +germ 3", text)
    assert "1/2 episodes" in text
    assert "time left: about 0:0" in text
    assert "prune 7 germ 2 foss 2" in out.getvalue()


def test_the_round_at_work_is_numbered_as_the_run_counts_it_after_a_resumption_too():
    episode = SimpleNamespace(operations={}, total_reward=0.0, val_accuracy_pp=0.0, growth_ratio=1.0, fossilised=0)
    listener = LiveProgress(CONFIG, Console(file=io.StringIO(), width=120), done=1)
    listener.episode_finished(episode)
    assert listener._running_row()[0] == "2"
    listener.round_finished(ROW | {"round": 1}, TIMING)
    listener.episode_finished(episode)
    assert listener._running_row()[0] == "3"


def test_the_time_left_is_the_mean_of_the_rounds_so_far_in_this_process(clock):
    """A run resumed in its sixth round of ten: 20 seconds for two rounds leave 30 for three."""
    rounds = RoundClock(10)
    clock.seconds += 12.0
    assert rounds.left({"round": 5}) == pytest.approx(48.0)
    clock.seconds += 8.0
    assert rounds.left({"round": 6}) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (61, "1:01"), (3599.7, "1:00:00"), (7322, "2:02:02")],
)
def test_durations_are_written_in_minutes_and_hours(seconds, text):
    assert describe_duration(seconds) == text


def test_operations_are_listed_by_frequency_without_waiting():
    assert describe_operations(ROW) == "prune 7 germ 2 foss 2"
    assert describe_operations({key: 0 for key in ROW if key.startswith("op_")} | {"op_wait": 12}) == "only wait"

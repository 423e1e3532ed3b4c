"""Progress of a run on the console."""

import io
import re
import threading
import time
from types import SimpleNamespace

import pytest
from nissa_builders import complete
from rich.console import Console
from state_builders import outcome, report, step

from esper_ray.karn.console import progress
from esper_ray.karn.console.progress import (
    LiveProgress,
    PlainProgress,
    RoundClock,
    StepCounter,
    describe_duration,
    describe_operations,
    progress_for,
)
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.nissa.runs.observer import RunContext

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


def context(rounds_done=0):
    return RunContext(CONFIG, None, rounds_done, rounds_done > 0, "one process", lambda fault: None)


def in_play(episode, number):
    return step(env=episode % 2, number=number, episode=episode, round=episode // 2)


def finished_episode(index, *, steps=4, germinations=0, reward=0.0, accuracy=0.0):
    """An episode of environment ``index % 2`` that ends with one fossilized seed."""
    clock = {"env": index % 2, "episode": index}
    slots = {"r0c0": report("FOSSILIZED")}
    log = [complete({"kind": "episode_started", "val_accuracy_pp": 10.0, **clock})]
    for number in range(1, steps + 1):
        last = number == steps
        operation = "GERMINATE" if number <= germinations else "WAIT"
        more = {"operation": operation, "reward": reward if last else 0.0, "entries": [], "growth_ratio": 1.25}
        log.append(step(number=number, accuracy=accuracy, slots=slots if last else {}, **clock, **more))
    log.append(outcome(index, reward, accuracy, env=clock["env"], step=steps, growth_ratio=1.25, rollback=False))
    return SimpleNamespace(index=index, log=tuple(log))


@pytest.fixture
def clock(monkeypatch):
    """A clock that changes only when a test sets it."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def test_a_plain_line_equals_a_literal(clock):
    out = io.StringIO()
    observer = progress_for(CONFIG, Console(file=out))
    assert isinstance(observer, PlainProgress)
    observer.run_opened(context())
    observer.run_started(context())
    clock.seconds += 30.0
    observer.round_finished(ROW, TIMING)
    observer.run_ended("finished")
    assert out.getvalue() == (
        "round 1/3  12.3 steps/s  return -1.23  accuracy 45.7%  growth 1.50x  prune 7 germ 2 foss 2  left 1:00\n"
    )


def test_a_terminal_shows_a_table_with_finished_and_running_rounds():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    observer = progress_for(CONFIG, console)
    assert isinstance(observer, LiveProgress)
    observer.run_started(context())
    observer.round_finished(ROW, TIMING)
    observer.episode_finished(finished_episode(2, germinations=3, reward=2.0, accuracy=30.0))
    rendered = io.StringIO()
    Console(file=rendered, width=120).print(observer._render())
    observer.update_started()
    observer.run_ended("finished")
    text = rendered.getvalue()
    assert re.search(r"1/3 +12\.3 +-1\.23 +45\.7% +1\.50x +0\.5 +prune 7 germ 2 foss 2", text)
    assert re.search(r"\n +2 +\+2\.00 +30\.0% +1\.25x +1\.0 +germ 3", text)
    assert "1/2 episodes" in text
    assert "time left: about 0:0" in text
    assert "prune 7 germ 2 foss 2" in out.getvalue()


def test_the_running_round_has_the_number_of_the_run_after_a_resumption():
    listener = LiveProgress(CONFIG, Console(file=io.StringIO(), width=120))
    listener.run_started(context(rounds_done=1))
    listener.episode_finished(finished_episode(2))
    assert listener._running_row(listener._round.so_far())[0] == "2"
    listener.round_finished(ROW | {"round": 1}, TIMING)
    assert listener._round.so_far() is None
    listener.episode_finished(finished_episode(4))
    assert listener._running_row(listener._round.so_far())[0] == "3"
    listener.run_ended("interrupted")


def test_steps_of_the_running_round_are_counted_from_samples_and_episodes(clock):
    """Two episodes of 40 steps a round; episode 2 belongs to the next round already."""
    counter = StepCounter(CONFIG, 0)
    assert counter.describe() == "starting the workers"
    counter.begin()
    clock.seconds += 10.0
    played = [in_play(0, 12), in_play(1, 7), {"kind": "decision", "episode": 1, "step": 8}]
    counter.add(played)
    assert counter.describe() == "round 1: 19 of 80 steps, 1.9 steps/s"
    counter.finish(finished_episode(0, steps=40))
    counter.add([in_play(2, 3)])
    assert counter.describe() == "round 1: 47 of 80 steps, 4.7 steps/s"
    counter.phase = "updating the policy"
    assert counter.describe() == "round 1: updating the policy with 47 steps"
    counter.next_round(1)
    clock.seconds += 1.0
    assert counter.describe() == "round 2: 3 of 80 steps, 3.0 steps/s"


def test_a_run_without_output_prints_a_line_after_the_interval():
    out = io.StringIO()
    observer = PlainProgress(Console(file=out), "A", every_s=0.05)
    observer.run_opened(context())
    deadline = time.monotonic() + 10.0
    while out.getvalue().count("\n") < 2 and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    observer.run_ended("failed")
    assert set(out.getvalue().splitlines()) == {"A  starting the workers"}


def test_the_time_left_uses_the_mean_of_the_rounds_in_this_process(clock):
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


def test_operations_are_listed_by_frequency_without_wait():
    assert describe_operations(ROW) == "prune 7 germ 2 foss 2"
    assert describe_operations({key: 0 for key in ROW if key.startswith("op_")} | {"op_wait": 12}) == "only wait"

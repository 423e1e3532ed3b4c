"""A run that starts, and the command that was started with Sanctum."""

import asyncio
from dataclasses import replace

import pytest
from sanctum_builders import PULSE, PlayedCommand, beat, program, recorded_run, watched

from esper_ray.karn.console_log import console_lines
from esper_ray.karn.sanctum.command import CommandState
from esper_ray.karn.sanctum.frame import frame, rows
from esper_ray.karn.sanctum.keys import pressed
from esper_ray.karn.sanctum.view import Controls
from esper_ray.leyline.names import CONSOLE_LOG

RUNNING, STOPPING = CommandState(4711), CommandState(4711, 1)


def text(view, **choices):
    return "\n".join(rows(frame(view, Controls(**choices), 80, 24)))


@pytest.fixture
def new_run(tmp_path, monkeypatch):
    """A run whose workers start."""
    monkeypatch.chdir(tmp_path)
    run = recorded_run(tmp_path / "runs", rounds=0)
    run.event_log.tail.write_text("")
    beat(run, **PULSE | {"phase": "starting", "round": 0, "episodes": 0})
    return run


def test_a_starting_run_shows_the_newest_lines_of_its_console(new_run):
    lines = [f"line {number}" for number in range(100)]
    (new_run.path / CONSOLE_LOG).write_text("\n".join(lines) + "\n\x1b[31mred\n")
    shown = text(watched(new_run.path))
    assert "The run starts" in shown
    assert "command: esper train" in shown
    assert "line 99" in shown
    assert "line 80" not in shown
    assert "\x1b" not in shown


def test_without_a_console_only_the_command_is_shown(new_run):
    shown = text(watched(new_run.path))
    assert "The run starts" in shown
    assert CONSOLE_LOG not in shown


def test_the_console_is_read_from_its_end(tmp_path):
    (tmp_path / CONSOLE_LOG).write_text("x" * 40_000 + "\nfirst\n\nsecond\n")
    assert console_lines(tmp_path, 2) == ("first", "second")
    assert console_lines(tmp_path / "nowhere", 2) == ()


def test_a_failed_run_shows_the_end_of_its_console(run):
    (run.path / CONSOLE_LOG).write_text("one\ntwo\nthree\nesper: error: no worker is left\n")
    beat(run, phase="ended", status="failed")
    run.set_status("failed")
    shown = text(watched(run.path))
    assert "esper: error: no worker is left" in shown
    assert "one" not in shown.split()


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
def test_leaving_a_running_command_is_a_question(view, key):
    commanded = replace(view, command=RUNNING)
    asked = pressed(Controls(), key, commanded)
    assert (asked.leave, asked.stop, asked.controls.prompt) == (False, False, "leave")
    assert "let it run" in text(commanded, prompt="leave")
    left = pressed(asked.controls, "l", commanded)
    assert (left.leave, left.stop) == (True, False)
    stopped = pressed(asked.controls, "s", commanded)
    assert (stopped.leave, stopped.stop, stopped.controls.prompt) == (False, True, "")
    assert pressed(asked.controls, "escape", commanded) == pressed(Controls(), "escape", commanded)


def test_the_question_is_asked_in_a_small_terminal_too(view):
    shown = rows(frame(replace(view, command=RUNNING), Controls(prompt="leave"), 60, 10))
    assert "let it run" in shown[1]


@pytest.mark.parametrize("key", ["q", "ctrl+c", "x", "enter", "1"])
def test_other_keys_do_not_answer_the_question(view, key):
    commanded = replace(view, command=RUNNING)
    answer = pressed(Controls(prompt="leave"), key, commanded)
    assert (answer.leave, answer.stop, answer.controls.prompt) == (False, False, "leave")


def test_an_ended_command_is_left_at_once(view):
    ended = replace(view, command=CommandState(4711, 0, 1))
    assert pressed(Controls(), "q", ended).leave
    assert "the command has ended with exit code 1" in text(ended)


def test_a_second_stop_is_named_as_one_that_saves_nothing(view):
    stopping = replace(view, command=STOPPING)
    assert "stopping: the present step ends" in text(stopping)
    assert "stop it at once, without saving" in text(stopping, prompt="leave")


def drive(path, keys, end=None, screen=1):
    """The program after these keys: its command, and whether it has left."""
    command = PlayedCommand()

    async def scenario():
        app = program(path, command=command, screen=screen)
        async with app.run_test(size=(80, 24)) as pilot:
            await app.workers.wait_for_complete()
            for key in keys:
                await pilot.press(key)
            if end is not None:
                command.present = replace(command.present, exit_code=end)
            app._poll()
            while app._reading and not app._exit:
                await pilot.pause()
            return app._exit

    return command, asyncio.run(scenario())


def test_the_program_stops_the_command_and_leaves_when_it_has_ended(run):
    command, left = drive(run.path, ["q", "s"])
    assert (command.present.stops, left) == (1, False)
    command, left = drive(run.path, ["q", "s"], end=130)
    assert (command.present.stops, left) == (1, True)


def test_the_program_leaves_a_command_that_goes_on(run):
    command, left = drive(run.path, ["ctrl+c", "l"])
    assert (command.present.stops, left) == (0, True)


def test_the_program_stays_when_the_command_ends_by_itself(run):
    assert drive(run.path, [], end=0)[1] is False


def test_the_program_leaves_when_the_command_ends_before_its_run_begins(new_run):
    assert drive(new_run.path, [], end=1)[1] is True


def test_the_program_stays_at_the_list_of_a_sweep_whose_command_ends(run):
    assert drive(run.path.parent, [], end=0, screen=7)[1] is False


def test_the_program_leaves_a_sweep_whose_command_ends_before_a_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    assert drive(tmp_path / "sweep", [], end=1, screen=7)[1] is True

"""Keys that act: the SQL of what is shown, the flight recorder, the palette, groups of a comparison."""

import asyncio
from dataclasses import replace

import pytest
from sanctum_builders import PULSE, beat, program, watched

from esper_ray.karn.places import RunLine
from esper_ray.karn.sanctum.frame import frame, rows
from esper_ray.karn.sanctum.keys import pressed
from esper_ray.karn.sanctum.queries import shown_query
from esper_ray.karn.sanctum.screens.commands import COMMANDS, matching
from esper_ray.karn.sanctum.view import Controls
from esper_ray.nissa.log.sql import EventDatabase


def text(view, controls):
    return "\n".join(rows(frame(view, controls, 80, 24)))


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"screen": 1}, 3),
        ({"screen": 2}, 3),
        ({"screen": 3, "env": 1}, None),
        ({"screen": 4, "env": 1}, 12),
        ({"screen": 4, "env": 1, "step": 3}, 2),
        ({"screen": 5, "env": 1, "slot": "r0c0"}, None),
        ({"screen": 6, "filter": "kind=rollback"}, 1),
    ],
)
def test_the_query_of_a_screen_finds_what_it_shows(run, view, choices, expected):
    query = shown_query(view, Controls(**choices))
    answer = EventDatabase(run.event_log, run.samples).ask(query)
    assert len(answer.rows) == expected if expected else answer.rows


def test_the_query_of_an_event_names_its_kind_and_number(run, view):
    controls = Controls(screen=6, filter="kind=rollback")
    (row,) = EventDatabase(run.event_log).ask(shown_query(view, controls)).rows
    assert "validation_loss_diverges" in row


def test_y_copies_the_query_and_shows_it(view):
    result = pressed(Controls(screen=4, env=1), "y", view)
    assert result.copy.startswith("SELECT step, operation")
    assert "copied: SELECT step, operation" in text(view, result.controls)
    assert text(view, result.controls).count("\n") == 23
    nothing = pressed(Controls(screen=7), "y", view)
    assert (nothing.copy, nothing.controls.message) == ("", "this screen shows nothing of a log")


def test_the_program_puts_the_query_on_the_clipboard(run):
    async def scenario():
        app = program(run.path)
        async with app.run_test(size=(80, 24)) as pilot:
            await app.workers.wait_for_complete()
            await pilot.press("2", "y")
            return app.clipboard

    assert asyncio.run(scenario()).startswith("SELECT round, kl")


def test_w_says_why_nothing_was_written(run):
    beat(run, **PULSE | {"host": "elsewhere"})

    async def scenario():
        app = program(run.path)
        async with app.run_test(size=(80, 24)) as pilot:
            await app.workers.wait_for_complete()
            await pilot.press("w")
            return app.controls.message

    assert "the driver runs on elsewhere" in asyncio.run(scenario())


def test_the_palette_finds_commands_by_words_and_executes_them(view):
    opened = pressed(Controls(), "ctrl+p", view).controls
    assert "commands: type a word" in text(view, opened)
    for letter in "net lay":
        opened = pressed(opened, letter, view).controls
    assert [key for key, _ in matching(opened.typed)] == ["3"]
    assert pressed(opened, "enter", view).controls == Controls(screen=3, back=(1,))
    assert pressed(opened, "escape", view).controls == Controls()


def test_the_cursor_of_the_palette_stays_within_the_commands(view):
    controls = pressed(Controls(), "ctrl+p", view).controls
    for _ in range(100):
        controls = pressed(controls, "down", view).controls
    assert controls.choice == len(COMMANDS) - 1
    assert pressed(controls, "enter", view).leave
    assert pressed(controls, "up", view).controls.choice == len(COMMANDS) - 2


def test_a_palette_without_commands_executes_nothing(view):
    controls = pressed(Controls(), "ctrl+p", view).controls
    for key in ("z", "z", "enter", "down"):
        controls = pressed(controls, key, view).controls
    assert (controls.prompt, controls.typed) == ("palette", "zz")
    assert "no command has these words" in text(view, controls)


@pytest.mark.parametrize("key", [key for key, _ in COMMANDS])
def test_every_command_of_the_palette_does_what_its_key_does(view, key):
    opened = Controls(prompt="palette", choice=[other for other, _ in COMMANDS].index(key))
    assert pressed(opened, "enter", view) == pressed(Controls(), key, view)


def test_t_opens_the_other_group_of_a_comparison(view):
    line = RunLine("A", "running", "", "", "digits", "digits", "1", "A")
    compared = replace(view, name="A", runs=(line, replace(line, name="B", group="B")))
    result = pressed(Controls(screen=2), "t", compared)
    assert (result.run, result.controls.screen) == ("B", 2)
    assert pressed(Controls(screen=2), "t", replace(compared, name="B")).run == "A"
    assert pressed(Controls(screen=7), "t", compared).controls.run == "B"
    assert "has no groups" in pressed(Controls(), "t", view).controls.message


def test_an_episode_that_has_no_step_yet_has_a_query(run):
    view = watched(run.path)
    assert shown_query(replace(view, name=""), Controls()) is None

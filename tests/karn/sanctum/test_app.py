"""The program itself, by Pilot."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from sanctum_builders import PULSE, beat, program, recorded_run, round_records

from esper_ray.karn.sanctum.frame import rows
from esper_ray.karn.sanctum.text import Ink


@asynccontextmanager
async def shown(path, size=(80, 24), **settings):
    """The program over a place, after its first reading."""
    app = program(path, **settings)
    async with app.run_test(size=size) as pilot:
        await read(app, pilot)
        yield app, pilot


async def read(app, pilot):
    """Wait for a whole reading."""
    await app.workers.wait_for_complete()
    app._poll()
    await app.workers.wait_for_complete()
    await pilot.pause()


def text(app):
    return "\n".join("".join(span.text for span in spans) for spans in app._canvas.rows)


def test_keys_reach_the_screens_and_q_leaves(run):
    async def scenario():
        async with shown(run.path) as (app, pilot):
            for key, words in (("2", "operations by round"), ("3", "└─ r0c0"), ("4", "operation"), ("5", "seeds in")):
                await pilot.press(key)
                assert words in text(app)
            await pilot.press("slash", *"gate", "enter")
            assert "filter: gate" in text(app)
            await pilot.press("question_mark")
            assert "e NUMBER" in text(app)
            await pilot.press("escape", "7")
            await read(app, pilot)
            assert "1 run in runs" in text(app)
            await pilot.press("1", "j", "j")
            assert "> 2" in text(app)
            await pilot.press("q")
        assert app.return_code == 0

    asyncio.run(scenario())


def test_what_the_run_writes_appears(run):
    async def scenario():
        async with shown(run.path) as (app, pilot):
            assert "update of round 3" not in text(app)
            run.log(round_records(3))
            await read(app, pilot)
            await pilot.press("2")
            assert "update of round 4" in text(app)

    asyncio.run(scenario())


def test_a_held_screen_stays_and_shows_the_newest_afterwards(run):
    async def scenario():
        async with shown(run.path) as (app, pilot):
            await pilot.press("2", "space")
            run.log(round_records(3))
            await read(app, pilot)
            assert "update of round 3" in text(app)
            await pilot.press("space")
            assert "update of round 4" in text(app)

    asyncio.run(scenario())


def test_only_the_cells_that_differ_are_drawn(run):
    async def scenario():
        async with shown(run.path) as (app, pilot):
            before = app._canvas.drawn
            await read(app, pilot)
            assert app._canvas.drawn == before
            beat(run, **PULSE | {"episodes": 3, "beat": 2})
            await read(app, pilot)
            assert app._canvas.drawn - before == 1

    asyncio.run(scenario())


def test_another_size_is_drawn_at_once(run):
    async def scenario():
        async with shown(run.path) as (app, pilot):
            await pilot.resize_terminal(160, 48)
            await pilot.pause()
            assert "blueprint        kept   lost" in text(app)
            await pilot.resize_terminal(60, 20)
            await pilot.pause()
            assert "needs 80x24, this terminal has 60x20" in text(app)

    asyncio.run(scenario())


def test_another_run_of_the_folder_is_opened(run):
    recorded_run(run.path.parent, rounds=1, name="other")

    async def scenario():
        async with shown(run.path.parent, screen=7) as (app, pilot):
            assert "2 runs in runs" in text(app)
            while "> other" not in text(app):
                await pilot.press("j")
            await pilot.press("enter")
            await read(app, pilot)
            assert app.view.name == "other"
            assert "esper > other" in text(app)

    asyncio.run(scenario())


@pytest.mark.parametrize("color", [True, False])
def test_the_background_of_the_terminal_is_left_alone(run, color):
    async def scenario():
        async with shown(run.path, color=color) as (app, _):
            styles = [segment.style for y in range(24) for segment in app._canvas.render_line(y) if segment.style]
            assert all(style.bgcolor is None for style in styles)
            assert any(style.color for style in styles) is color

    asyncio.run(scenario())


def test_the_drawn_lines_are_those_of_the_frame(run):
    async def scenario():
        async with shown(run.path) as (app, _):
            assert text(app).split("\n") == rows(app.frame())
            assert all(isinstance(span, Ink) for spans in app._canvas.rows for span in spans)

    asyncio.run(scenario())

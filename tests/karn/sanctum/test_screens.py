"""Pictures of the screens, compared with files. ``make screens`` writes them anew; they are looked at."""

import asyncio
import os
from pathlib import Path

import pytest
from sanctum_builders import PULSE, PlayedCommand, beat, config, program, recorded_run, set_times

from esper_ray.leyline.config.loading import build
from esper_ray.nissa.runs.run_directory import Names, RunDirectory

FOLDER = Path(__file__).parents[1] / "screens"
PICTURES = {
    "overview-80": ("", (80, 24), {}),
    "overview-100": ("", (100, 30), {}),
    "overview-160": ("", (160, 48), {}),
    "policy-80": ("2", (80, 24), {}),
    "policy-160": ("2", (160, 48), {}),
    "networks-80": ("3j", (80, 24), {}),
    "networks-160": ("3j", (160, 48), {}),
    "episode-80": ("4jhhhh", (80, 24), {}),
    "seed-100": ("5jjjl", (100, 30), {}),
    "log-80": ("6k", (80, 24), {}),
    "log-100-trouble": ("a", (100, 30), {}),
    "runs-80": ("7", (80, 24), {}),
    "help-80": ("?", (80, 24), {}),
    "facts-100": ("i", (100, 30), {}),
    "overview-80-ascii": ("", (80, 24), {"ascii_only": True}),
    "overview-80-no-color": ("", (80, 24), {"color": False}),
    "overview-100-light": ("", (100, 30), {"light": True}),
    "small-60": ("", (60, 20), {}),
    "palette-80": ("^seed", (80, 24), {}),
    "leave-80": ("q", (80, 24), {"command": PlayedCommand()}),
    "copied-80": ("4jhy", (80, 24), {}),
}
"""Keys, size and settings of each picture."""
PAPER = {"#292929": "#ffffff", "#c5c8c6": "#1c1c1c", "#868887": "#767676"}
"""Background, text and dim text of the dark terminal that Textual draws, to those of a light one."""


async def picture(path, keys, size, settings):
    """SVG of the program after these keys."""
    app = program(path, **settings)
    async with app.run_test(size=size) as pilot:
        await app.workers.wait_for_complete()
        for key in keys:
            await pilot.press({"?": "question_mark", "^": "ctrl+p"}.get(key, key))
        app._poll()
        await app.workers.wait_for_complete()
        await pilot.pause()
        svg = app.export_screenshot()
    if settings.get("light"):
        for dark, light in PAPER.items():
            svg = svg.replace(dark, light)
    return svg


def compared(name, svg):
    file = FOLDER / f"{name}.svg"
    if os.environ.get("ESPER_SCREENS") == "write":
        FOLDER.mkdir(exist_ok=True)
        file.write_text(svg)
    assert svg == file.read_text(), f"{name} has changed; `make screens` writes it anew, look at it"


@pytest.mark.parametrize("name", PICTURES)
def test_a_screen_is_drawn_as_it_was_looked_at(run, name):
    keys, size, settings = PICTURES[name]
    compared(name, asyncio.run(picture(run.path, keys, size, settings)))


def test_a_starting_run_is_drawn_as_it_was_looked_at(run):
    new = recorded_run(run.path.parent, rounds=0, name="digits-s43")
    new.event_log.tail.write_text("")
    set_times(new, "starting")
    beat(new, **PULSE | {"phase": "starting", "round": 0, "episodes": 0})
    lines = ["digits: task digits, 11 rounds of 8 episodes", "plan: 8 environments in 4 processes, learner on cpu"]
    (new.path / "console.log").write_text("\n".join(lines) + "\n")
    compared("starting-80", asyncio.run(picture(new.path, "", (80, 24), {"command": PlayedCommand()})))


def test_a_comparison_is_drawn_as_it_was_looked_at(run):
    for name, mode in (("A", "shaped"), ("B", "sparse")):
        changed = build(config().model_dump(mode="json"), {"reward.mode": mode})
        names = Names("ab", name)
        set_times(RunDirectory.create(run.path.parent / "ab", changed, ["test"], name, names))
    compared("comparison-100", asyncio.run(picture(run.path.parent / "ab", "j", (100, 30), {"screen": 7})))


def test_an_ended_and_damaged_run_is_drawn_as_it_was_looked_at(run):
    beat(run, phase="ended", status="failed")
    with run.event_log.tail.open("ab") as file:
        file.write(b"{no json}\n")
    compared("failed-100", asyncio.run(picture(run.path, "", (100, 30), {})))

"""What a key does, as a pure function of what is chosen and shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from esper_ray.karn.sanctum.queries import shown_query
from esper_ray.karn.sanctum.screens import commands, episode, events_log, runs, seed
from esper_ray.karn.sanctum.view import (
    EPISODE,
    LOG,
    NETWORKS,
    OVERVIEW,
    POLICY,
    RUNS,
    SCREENS,
    SEED,
    SORTS,
    Controls,
    RunView,
    sort_value,
)

UP, DOWN = ("up", "k"), ("down", "j")
LEFT, RIGHT = ("left", "h", "["), ("right", "l", "]")
FIRST, LAST = ("g", "home"), ("G", "end")
PAGES: Mapping[str, int] = {"pageup": -10, "pagedown": 10}
BACK = ("escape", "backspace")
LONGEST = 60
"""Most characters at a prompt."""


@dataclass(frozen=True, slots=True)
class Pressed:
    """What follows from a key."""

    controls: Controls
    leave: bool = False
    run: str | None = None
    """Name of the run that is to be opened."""
    stop: bool = False
    """Whether the command that trains is asked to stop."""
    copy: str = ""
    """Text for the clipboard."""
    record: bool = False
    """Whether the driver is asked for a recording."""


def pressed(controls: Controls, key: str, view: RunView) -> Pressed:
    """What follows from ``key``, a character or the name of a key."""
    if key in ("ctrl+c", "ctrl+q"):
        return _left(controls, view)
    controls = replace(controls, message="")
    if controls.prompt == "leave":
        return _answered(controls, key)
    if controls.prompt == "palette":
        return _in_palette(controls, key, view)
    if key == "ctrl+p":
        return Pressed(replace(controls, prompt="palette", typed="", choice=0, overlay=""))
    if controls.prompt:
        return Pressed(_typed(controls, key, view))
    if key == "q":
        return _left(controls, view)
    if controls.overlay:
        return Pressed(_in_overlay(controls, key))
    if key in ("y", "w", "t"):
        return _ACTIONS[key](controls, view)
    if controls.screen == RUNS and (key == "enter" or (key in BACK and view.is_nested)):
        return _opened_run(controls, key, view)
    return Pressed(_command(controls, key, view))


def _opened_run(controls: Controls, key: str, view: RunView) -> Pressed:
    """The run, comparison or sweep under the cursor, or the folder around the present one."""
    if key in BACK:
        return Pressed(Controls(screen=RUNS, sort=controls.sort), run="..")
    listed = runs.filtered(view, controls)
    if not listed:
        return Pressed(controls)
    chosen = listed[runs.cursor_of(listed, view, controls)]
    if not chosen.can_be_opened:
        return Pressed(replace(controls, message="a policy of an evaluation: `esper report` shows it"))
    if chosen.kind != "run":
        return Pressed(Controls(screen=RUNS, sort=controls.sort), run=chosen.name)
    back = (*controls.back, RUNS)[-20:]
    return Pressed(Controls(screen=OVERVIEW, back=back, sort=controls.sort), run=chosen.name)


def _left(controls: Controls, view: RunView) -> Pressed:
    """Leave, or ask what happens to the command that was started with Sanctum."""
    if view.command is None or not view.command.runs:
        return Pressed(controls, leave=True)
    return Pressed(replace(controls, prompt="leave", typed="", overlay=""))


def _answered(controls: Controls, key: str) -> Pressed:
    """The answer to the question whether the command goes on. Another key than those asked for changes nothing."""
    if key in ("l", "L"):
        return Pressed(replace(controls, prompt=""), leave=True)
    if key in ("s", "S"):
        return Pressed(replace(controls, prompt=""), stop=True)
    return Pressed(replace(controls, prompt="") if key in BACK else controls)


def _in_palette(controls: Controls, key: str, view: RunView) -> Pressed:
    """The palette after a key: a word is typed, a command is chosen or executed."""
    closed = replace(controls, prompt="", typed="", choice=0)
    found = commands.matching(controls.typed)
    if key in ("escape", "ctrl+p"):
        return Pressed(closed)
    if key == "enter":
        return pressed(closed, found[min(controls.choice, len(found) - 1)][0], view) if found else Pressed(controls)
    if key in ("up", "down"):
        return Pressed(replace(controls, choice=_moved(min(controls.choice, len(found) - 1), len(found), key)))
    return Pressed(replace(_typed(controls, key, view), choice=0))


def _copied(controls: Controls, view: RunView) -> Pressed:
    query = shown_query(view, controls)
    if query is None:
        return Pressed(replace(controls, message="this screen shows nothing of a log"))
    return Pressed(replace(controls, message=f"copied: {query}"), copy=query)


def _recorded(controls: Controls, view: RunView) -> Pressed:
    if not view.name:
        return Pressed(replace(controls, message="no run is chosen"))
    return Pressed(controls, record=True)


def _other_group(controls: Controls, view: RunView) -> Pressed:
    """The next run of the comparison, on the same screen."""
    sides = sorted({run.group: run.name for run in view.runs if run.group}.items())
    if len(sides) < 2:
        return Pressed(replace(controls, message="this folder has no groups; a comparison (--dual-ab) has two"))
    names = [name for _, name in sides]
    name = names[(names.index(view.name) + 1) % len(names)] if view.name in names else names[0]
    if controls.screen == RUNS:
        at = controls.run if controls.run in names else view.name
        name = names[(names.index(at) + 1) % len(names)] if at in names else names[0]
        return Pressed(replace(controls, run=name))
    return Pressed(
        replace(Controls(screen=controls.screen, back=controls.back, sort=controls.sort), run=name), run=name
    )


_ACTIONS: Mapping[str, Callable[[Controls, RunView], Pressed]] = {"y": _copied, "w": _recorded, "t": _other_group}


def _typed(controls: Controls, key: str, view: RunView) -> Controls:
    """The prompt after one more key."""
    if key == "escape":
        return replace(controls, prompt="", typed="")
    if key == "backspace":
        return replace(controls, typed=controls.typed[:-1])
    if key == "enter":
        closed = replace(controls, prompt="", typed="")
        if controls.prompt == "filter":
            return replace(closed, filter=controls.typed.strip(), event=None, run=None, offsets={})
        return _with_environment(closed, controls.typed, view)
    letter = " " if key == "space" else key
    if len(letter) != 1 or (controls.prompt == "environment" and not letter.isdigit()):
        return controls
    return replace(controls, typed=(controls.typed + letter)[:LONGEST])


def _with_environment(controls: Controls, typed: str, view: RunView) -> Controls:
    environments = sorted(view.state.environments)
    if typed and int(typed) in environments:
        return replace(controls, env=int(typed), step=None, scroll=0)
    if not environments:
        return replace(controls, message="no episode has started yet")
    named = f"environment {typed or '?'}"
    return replace(controls, message=f"there is no {named}; there are {environments[0]} to {environments[-1]}")


def _in_overlay(controls: Controls, key: str) -> Controls:
    """The overlay after a key: it is scrolled or closed."""
    if key in BACK or key in ("?", "i", "enter"):
        return replace(controls, overlay="", scroll=0)
    if key.isdigit() and int(key) in SCREENS:
        return replace(controls.at(int(key)), overlay="", scroll=0)
    return replace(controls, scroll=_scrolled(controls.scroll, key))


def _scrolled(scroll: int, key: str) -> int:
    if key in FIRST:
        return 0
    if key in LAST:
        return 100_000
    return max(0, scroll + PAGES.get(key, -1 if key in UP else 1 if key in DOWN else 0))


def _command(controls: Controls, key: str, view: RunView) -> Controls:
    if key.isdigit():
        return controls.at(int(key)) if int(key) in SCREENS else controls
    if key in BACK:
        if not controls.back:
            return controls
        return replace(controls, screen=controls.back[-1], back=controls.back[:-1], scroll=0)
    plain = _PLAIN.get(key)
    if plain is not None:
        return plain(controls, view)
    if key == "enter":
        return _opened(controls, view)
    return _MOVES[controls.screen](controls, key, view)


def _sorted(controls: Controls, view: RunView) -> Controls:
    """The next order. It is that of this moment: rows do not move by themselves afterwards."""
    sort = SORTS[(SORTS.index(controls.sort) + 1) % len(SORTS)]
    states = view.state.environments
    order = tuple(sorted(states, key=lambda env: (sort_value(states[env], sort), env)))
    env = controls.shown_env(view)
    return replace(controls, sort=sort, order=order if sort != "number" else (), env=env)


def _prompt(controls: Controls, view: RunView) -> Controls:
    if controls.screen not in (LOG, RUNS):
        controls = controls.at(LOG)
    return replace(controls, prompt="filter", typed=controls.filter)


def _anomalies(controls: Controls, view: RunView) -> Controls:
    if controls.screen != LOG:
        return replace(controls.at(LOG), anomalies_only=True, event=None)
    return replace(controls, anomalies_only=not controls.anomalies_only, event=None, offsets={})


_PLAIN: Mapping[str, Callable[[Controls, RunView], Controls]] = {
    "?": lambda controls, view: replace(controls, overlay="help", scroll=0),
    "i": lambda controls, view: replace(controls, overlay="facts", scroll=0),
    "/": _prompt,
    "e": lambda controls, view: replace(controls, prompt="environment", typed=""),
    "s": _sorted,
    "a": _anomalies,
    " ": lambda controls, view: replace(controls, held=not controls.held),
}


def _opened(controls: Controls, view: RunView) -> Controls:
    """What enter leads to from this screen."""
    env = controls.shown_env(view)
    if controls.screen in (OVERVIEW, NETWORKS, POLICY):
        return controls if env is None else replace(controls.at(EPISODE), env=env, step=None)
    if controls.screen == EPISODE and env is not None:
        steps = episode.steps_of(view.recent.episode(env))
        slot = steps[episode.chosen_step(steps, controls)].record["slot"] if steps else None
        return replace(controls.at(SEED), env=env, slot=slot or controls.slot, scroll=0)
    if controls.screen == LOG:
        return _opened_event(controls, view)
    return controls


def _opened_event(controls: Controls, view: RunView) -> Controls:
    events = events_log.filtered(view, controls)
    if not events:
        return controls
    record = events[events_log.cursor_of(events, controls)]
    if "env" not in record or record["env"] not in view.state.environments:
        return replace(controls, message="this event belongs to no environment")
    newest = view.recent.episodes.get(record["env"], ())
    if newest and newest[0]["episode"] != record.get("episode"):
        where = f"esper explain {view.path} --episode {record.get('episode')}"
        return replace(controls, message=f"that episode is over; {where}")
    return replace(controls.at(EPISODE), env=record["env"], step=record.get("step"))


def _moved(index: int, count: int, key: str) -> int:
    """The row of a list after a key."""
    if key in FIRST:
        return 0
    if key in LAST:
        return count - 1
    change = PAGES.get(key, -1 if key in UP else 1 if key in DOWN else 0)
    return max(0, min(count - 1, index + change))


def _environment(controls: Controls, key: str, view: RunView) -> Controls:
    order, env = controls.ordered(view), controls.shown_env(view)
    if env is None:
        return controls
    moved = order[_moved(order.index(env), len(order), key)]
    return controls if moved == controls.env else replace(controls, env=moved, step=None, scroll=0)


def _episode(controls: Controls, key: str, view: RunView) -> Controls:
    env = controls.shown_env(view)
    steps = episode.steps_of(view.recent.episode(env)) if env is not None else []
    if not steps:
        return _environment(controls, key, view)
    index = episode.chosen_step(steps, controls)
    if key in LEFT or key in RIGHT:
        index = max(0, min(len(steps) - 1, index + (1 if key in RIGHT else -1)))
    elif key in FIRST or key in LAST:
        index = 0 if key in FIRST else len(steps) - 1
    elif key == "p":
        accuracies = [step.record["val_accuracy_pp"] for step in steps]
        index = max(range(len(steps)), key=lambda place: (accuracies[place] or 0.0, -place))
    else:
        return _environment(controls, key, view)
    newest = index == len(steps) - 1 and key != "p"
    return replace(controls, step=None if newest else steps[index].record["step"])


def _seed(controls: Controls, key: str, view: RunView) -> Controls:
    slot = seed.shown_slot(view, controls)
    if slot is not None and (key in LEFT or key in RIGHT):
        index = view.slots.index(slot) + (1 if key in RIGHT else -1)
        return replace(controls, slot=view.slots[index % len(view.slots)], scroll=0)
    if key in FIRST or key in LAST or key in PAGES:
        return replace(controls, scroll=_scrolled(controls.scroll, key))
    return replace(_environment(controls, key, view), slot=slot)


def _log(controls: Controls, key: str, view: RunView) -> Controls:
    events = events_log.filtered(view, controls)
    if not events:
        return controls
    index = _moved(events_log.cursor_of(events, controls), len(events), key)
    newest = index == len(events) - 1 and (key in LAST or controls.event is None)
    return replace(controls, event=None if newest else events[index]["seq"])


def _runs(controls: Controls, key: str, view: RunView) -> Controls:
    listed = runs.filtered(view, controls)
    if not listed:
        return controls
    return replace(controls, run=listed[_moved(runs.cursor_of(listed, view, controls), len(listed), key)].name)


_MOVES: Mapping[int, Callable[[Controls, str, RunView], Controls]] = {
    OVERVIEW: _environment,
    POLICY: _environment,
    NETWORKS: _environment,
    EPISODE: _episode,
    SEED: _seed,
    LOG: _log,
    RUNS: _runs,
}

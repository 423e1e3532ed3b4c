"""Screen 5: the story of a slot's seeds in the newest logged episode."""

import math

from esper_ray.karn.reports.seed_story import SeedStory, seed_stories
from esper_ray.karn.sanctum.text import Ink, Role, TextLine, between, line, number, printable, sparkline, wrapped
from esper_ray.karn.sanctum.view import Body, Controls, RunView
from esper_ray.leyline.records import Record

INDENT = 11


def shown_slot(view: RunView, controls: Controls) -> str | None:
    """The chosen slot, or the first one that has had a seed in that episode."""
    if controls.slot in view.slots:
        return controls.slot
    env = controls.shown_env(view)
    records = () if env is None else view.recent.episodes.get(env, ())
    touched = {record["slot"] for record in records if record["kind"] == "seed_transition"}
    return next((name for name in view.slots if name in touched), view.slots[0] if view.slots else None)


def body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    """The seeds of the chosen slot."""
    env, slot = controls.shown_env(view), shown_slot(view, controls)
    if env is None or slot is None:
        return Body((line(" no episode has started yet"),))
    records = view.recent.episodes.get(env, ())
    if not records:
        return Body((line(f" environment {env}: gates and transitions are in the log when its first round has ended"),))
    stories = stories_of(view, env, slot)
    first = records[0]
    left = line(
        Ink(f"seeds in {slot}", "title"),
        f", environment {env}, episode {first['episode']}, round {first['round'] + 1}",
    )
    lines = [between(left, line(Ink("h l slot  j k env", "dim")), width)]
    if env in view.recent.live:
        lines.append(line(Ink("a newer episode is in play; its gates are in the log when the round has ended", "dim")))
    if not stories:
        lines.append(line(f" no seed germinated in {slot} in this episode"))
    for story in stories:
        lines += [(), *story_rows(story, width)]
    head, rest = lines[:1], lines[1:]
    room = max(1, height - 2)
    if len(rest) > room:
        offset = max(0, min(controls.scroll, len(rest) - room))
        tail = line(Ink(f"lines {offset + 1} to {offset + room} of {len(rest)}; g G and page keys scroll", "dim"))
        return Body((*head, *rest[offset : offset + room], tail), offset)
    return Body(tuple(lines))


def stories_of(view: RunView, env: int, slot: str) -> list[SeedStory]:
    """Histories of the slot's seeds in the newest logged episode of an environment."""
    records = [_with_nan(record) for record in view.recent.episodes.get(env, ())]
    decisions = [_with_nan(sample) for sample in view.recent.decisions.get(env, ())]
    episode = records[0]["episode"] if records else None
    return seed_stories(records, slot, [sample for sample in decisions if sample["episode"] == episode])


def _with_nan(record: Record) -> Record:
    """The record with NaN for its own numbers that were not finite."""
    return {**record, **{name: math.nan for name in record.get("nonfinite", ()) if name in record}}


def story_rows(story: SeedStory, width: int) -> list[TextLine]:
    """One seed: events by step, and its contribution."""
    ended = printable(story.end.partition(":")[2].partition(",")[0].strip() or story.end)
    role: Role = "kept" if "FOSSILIZED" in ended else "lost" if "PRUNED" in ended else "early"
    lines: list[TextLine] = [
        line(Ink(story.seed, "title"), f"  {story.blueprint or 'unknown blueprint'}   ", Ink(ended, role))
    ]
    previous = None
    for step, text in story.lines:
        for row, part in enumerate(wrapped(printable(text), width - INDENT)):
            label = f"  step {step:>3} " if row == 0 and step != previous else " " * INDENT
            lines.append(line(Ink(label, "dim"), Ink(part, "look" if "refused" in text or "rolled" in text else "")))
        previous = step
    if not story.contributions:
        return [*lines, line(Ink("  worth     ", "dim"), "not measured")]
    values = [value for _, value, _, _ in story.contributions]
    amplitudes = [alpha for _, _, _, alpha in story.contributions]
    _, last, error, _ = story.contributions[-1]
    spread = "" if error is None else f" ±{error:.1f}"
    bars = width - INDENT - 36
    lines.append(
        line(
            Ink("  worth     ", "dim"), Ink(sparkline(values, bars), "bar"),
            f"  {min(values):+.1f} .. {max(values):+.1f} pp, last {number(last, '+.1f')}{spread}",
        )
    )  # fmt: skip
    lines.append(
        line(
            Ink("  amplitude ", "dim"),
            Ink(sparkline(amplitudes, bars, (0.0, 1.0)), "dim"),
            f"  last {amplitudes[-1]:.2f}",
        )
    )
    return lines

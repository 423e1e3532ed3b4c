"""Screen 6: the event log, by kind and text."""

from esper_ray.karn.sanctum.events import ALARMING, clock, describe, role_of
from esper_ray.karn.sanctum.screens.overview import WIDE
from esper_ray.karn.sanctum.text import Ink, TextLine, fitted, line, printable, rule, window, wrapped
from esper_ray.karn.sanctum.view import LOG, Body, Controls, RunView
from esper_ray.leyline.records import Record

STEP = "env_epoch"
"""Kind that is shown if a filter asks for it."""
DETAIL = 4
"""Rows for the event under the cursor."""


def filtered(view: RunView, controls: Controls) -> list[Record]:
    """The kept events that the viewer wants to see, in the order of the log.

    Every word of the filter must occur in the kind, the clock or the description; ``kind=`` names a kind.
    """
    words = controls.filter.lower().split()
    kinds = [word.removeprefix("kind=") for word in words if word.startswith("kind=")]
    texts = [word for word in words if not word.startswith("kind=")]
    events = view.recent.events()
    if not kinds and not texts:
        events = [record for record in events if record["kind"] != STEP]
    if controls.anomalies_only:
        events = [record for record in events if record["kind"] in ALARMING]
    if kinds:
        events = [record for record in events if record["kind"] in kinds]
    if texts:
        events = [record for record in events if all(text in searched(record) for text in texts)]
    return events


def searched(record: Record) -> str:
    """The text in which the filter is looked for."""
    return f"{record['kind']} {clock(record)} {describe(record)}".lower()


def cursor_of(events: list[Record], controls: Controls) -> int:
    """Index of the event under the cursor: the newest one, or the one that was chosen."""
    if controls.event is None:
        return len(events) - 1
    for index, record in enumerate(events):
        if record["seq"] >= controls.event:
            return index
    return len(events) - 1


def body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    """The log."""
    events = filtered(view, controls)
    what = f"filter: {controls.filter}" if controls.filter else "all but the steps; / finds them: kind=env_epoch"
    what += ", trouble only" if controls.anomalies_only else ""
    total = sum(view.state.totals.events.values())
    lines: list[TextLine] = [line(Ink(f"{len(events):,} shown of {total:,} events", "title"), f"   {printable(what)}")]
    kind = f"{'kind':<17} " if width >= WIDE else ""
    lines.append(line(Ink(f"{'seq':>8}  {'clock':<12} {kind}event", "dim")))
    if not events:
        reason = "no event matches; / changes the filter, a shows all kinds" if total else "no event is in the log yet"
        return Body((*lines, line(f" {reason}")))
    rows = max(1, height - len(lines) - DETAIL)
    cursor = cursor_of(events, controls)
    offset = window(len(events), rows, cursor, controls.offsets.get(LOG, 0))
    end = min(offset + rows, len(events))
    lines += [event_line(events[index], index == cursor, width) for index in range(offset, end)]
    lines += [()] * (rows - (end - offset))
    return Body((*lines, *detail_lines(events[cursor], width)), offset)


def event_line(record: Record, chosen: bool, width: int) -> TextLine:
    """One event."""
    mark = Ink(f"{'>' if chosen else ' '}{record['seq']:>7}", "cursor" if chosen else "dim")
    text = Ink(describe(record), role_of(record))
    kind = f"{record['kind']:<17} " if width >= WIDE else ""
    return fitted(line(mark, f"  {clock(record):<12} ", Ink(kind, "dim"), text), width)


def detail_lines(record: Record, width: int) -> list[TextLine]:
    """The event under the cursor, in full."""
    texts = wrapped(describe(record), width - 2)[: DETAIL - 2]
    at = f"{record['kind']} of {record.get('source', '?')}"
    at += f", episode {record['episode']}" if "episode" in record else ""
    return [
        rule(f"event {record['seq']}", width),
        line(Ink(f"  {at}", "dim")),
        *(line(f"  {text}") for text in texts),
    ]

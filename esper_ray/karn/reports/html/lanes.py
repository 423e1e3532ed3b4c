"""One episode as lanes: stages of the seeds by step, operations, and the accuracy against the control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from esper_ray.karn.record_lines import number
from esper_ray.karn.reports.html.charts import RIGHT, Series, curve, label, svg
from esper_ray.karn.reports.html.elements import Markup, details, joined, table, tag
from esper_ray.karn.reports.html.numbers import Axis, count_axis, finite, tick_form, value_axis
from esper_ray.karn.reports.html.style import BLACK, DASHES, STAGE_FILLS
from esper_ray.leyline.records import Record
from esper_ray.leyline.slots import parse_slot_id
from esper_ray.leyline.stages import Stage

WIDTH, LEFT = 960.0, 70.0
PLOT = 130.0
"""Height of the accuracy."""
LANE = 22.0
"""Height of a slot with the space below."""
LETTER = 7.0
"""Width of a letter, at most."""
LANE_OPERATIONS = {
    "GERMINATE": ("g", "germinate"),
    "SET_ALPHA_TARGET": ("a", "set the alpha target"),
    "PRUNE": ("p", "prune"),
    "FOSSILIZE": ("f", "fossilize"),
    "ADVANCE": ("v", "advance"),
}
"""Letter and name of every operation but WAIT."""
REFUSED = "x"
"""Letter of an operation without effect."""
MOST_STEPS = 400
"""Steps of an episode that are drawn; of a longer one, the last ones."""


@dataclass(frozen=True, slots=True)
class EpisodeRecords:
    """Records of one episode."""

    name: str
    """Its place among all episodes, such as ``best``."""
    outcome: Record
    start: Record | None
    """Its ``episode_started``; ``None`` if the log lacks it."""
    steps: tuple[Record, ...]
    """Its ``env_epoch`` records."""
    rollback: Record | None
    control_pp: tuple[float | None, ...]
    """Accuracy without growth before the first step and after each: its own, or the mean of all controls."""
    own_control: bool
    """Whether the control has the same seed."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive steps of one seed in one stage."""

    first: int
    last: int
    seed: str
    stage: Stage
    blueprint: str
    is_named: bool
    """Whether it is the longest of its seed, which has the name of the blueprint."""


def lanes(episode: EpisodeRecords) -> Markup:
    """The episode with heading, picture, key and table."""
    end = episode.outcome
    title = f"The {episode.name} episode: number {end['episode']}, round {end['round'] + 1}, environment {end['env']}"
    steps = episode.steps[-MOST_STEPS:]
    if not steps:
        return tag("figure", tag("h3", title), tag("p", "The log has no steps of this episode.", class_="soft"))
    cut = len(episode.steps) - len(steps)
    note = f"The first {cut} of {len(episode.steps)} steps are not drawn." if cut else ""
    caption = tag("figcaption", " ".join(filter(None, (_sentence(episode), note))))
    return tag(
        "figure", tag("h3", title), _picture(episode, steps, title), _key(episode, steps), caption, _table(steps)
    )


def _sentence(episode: EpisodeRecords) -> str:
    end = episode.outcome
    kept = len(end["fossilised"])
    text = f"It ended at {number(end['val_accuracy_pp'], '.1f')} % validation accuracy"
    measured = [value for value in episode.control_pp if value is not None]
    if measured:
        control = "the same seed without growth" if episode.own_control else "the mean of the controls"
        text += f", {control} at {measured[-1]:.1f} %"
    text += f"; return {number(end['total_reward'], '+.2f')}, {number(end['growth_ratio'], '.2f')} times the host's "
    text += f"parameters, {kept} seed{'' if kept == 1 else 's'} fossilized."
    if episode.rollback is not None:
        back = episode.rollback
        values = f"{number(back['value'])}, threshold {number(back['threshold'])}"
        text += f" The governor rolled it back after step {back['step']}: {back['reason']} ({values})."
    return text


def _picture(episode: EpisodeRecords, steps: Sequence[Record], title: str) -> Markup:
    slots = _slots(steps)
    first, last = steps[0]["step"], steps[-1]["step"]
    across = count_axis(first, last, LEFT, WIDTH - RIGHT, most=14)
    top = PLOT + 10
    bottom = top + LANE * len(slots) + LANE
    key = f"episode{episode.outcome['episode']}{episode.name}"
    parts = [
        tag("title", title, id=f"{key}-t"),
        tag("desc", _alternative(episode, steps, slots), id=f"{key}-d"),
        _accuracy(episode, steps, across),
    ]
    for row, slot in enumerate(slots):
        parts.append(label(slot, LEFT - 6, top + LANE * row + 15, "end", "ink"))
        parts += [_block(run, across, top + LANE * row) for run in _runs(steps, slot)]
    parts.append(_operations(steps, across, bottom - LANE))
    parts += [label(f"{value:.0f}", across.at(value), bottom + 12, "middle") for value in across.ticks]
    parts.append(label("step", (LEFT + WIDTH - RIGHT) / 2, bottom + 27, "middle"))
    return tag("div", svg(joined(parts, "\n"), WIDTH, bottom + 32, f"{key}-t {key}-d"), class_="wide")


def _slots(steps: Sequence[Record]) -> list[str]:
    """Slots that were ever occupied, by row and column."""
    return sorted({slot for step in steps for slot in step["slots"]}, key=parse_slot_id)


def _accuracies(episode: EpisodeRecords, steps: Sequence[Record]) -> tuple[Series, Series]:
    first = steps[0]["step"]
    control = [(index, value) for index, value in enumerate(episode.control_pp) if first <= index <= steps[-1]["step"]]
    own = [(step["step"], step["val_accuracy_pp"]) for step in steps]
    return Series("accuracy", own), Series("without growth", control, "2", 1)


def _accuracy(episode: EpisodeRecords, steps: Sequence[Record], across: Axis) -> Markup:
    series = _accuracies(episode, steps)
    up = value_axis(finite(y for s in series for _, y in s.points), PLOT - 4, 10)
    form = tick_form(up)
    lines = [tag("line", x1=LEFT, y1=up.at(v), x2=WIDTH - RIGHT, y2=up.at(v), class_="axis") for v in up.ticks]
    ticks = [label(f"{form(value)} %", LEFT - 6, up.at(value) + 4, "end") for value in up.ticks]
    return joined([*lines, *ticks, *(curve(s, across, up) for s in reversed(series))])


def _runs(steps: Sequence[Record], slot: str) -> list[_Run]:
    """Times of a slot in which seed and stage stay the same."""
    occupied = [(step["step"], step["slots"][slot]) for step in steps if slot in step["slots"]]
    runs = list[_Run]()
    places = [(at, report, at - index) for index, (at, report) in enumerate(occupied)]
    for (seed, stage, _), group in groupby(places, key=lambda place: (place[1]["seed"], place[1]["stage"], place[2])):
        members = list(group)
        first, report, _ = members[0]
        last = members[-1][0]
        runs.append(_Run(first, last, seed, Stage[stage], report["blueprint"], is_named=False))
    longest = {run.seed: run for run in sorted(runs, key=lambda run: (run.last - run.first, -run.first))}
    return [replace(run, is_named=longest[run.seed] is run) for run in runs]


def _block(run: _Run, across: Axis, y: float) -> Markup:
    letter, fill = STAGE_FILLS.get(run.stage, ("?", "#ffffff"))
    left, right = across.at(run.first - 0.5), across.at(run.last + 0.5)
    width = max(1.0, right - left - 1.0)
    words = f"{letter} {run.blueprint}" if run.is_named else letter
    words = words if len(words) * LETTER + 4 <= width else letter if width >= LETTER + 3 else ""
    box = tag("rect", x=left, y=y + 2, width=width, height=LANE - 4, fill=fill, stroke=BLACK, stroke_width=0.5)
    return joined([box, label(words, left + 3, y + 15, class_="on") if words else Markup()])


def _operations(steps: Sequence[Record], across: Axis, y: float) -> Markup:
    """Letters of the operations; where they would overlap, ticks."""
    parts = [label("operation", LEFT - 6, y + 15, "end", "ink")]
    room = across.at(1.0) - across.at(0.0) if len(steps) < 2 else (across.end - across.begin) / len(steps)
    for step in steps:
        if step["operation"] == "WAIT":
            continue
        letter = REFUSED if not step["success"] else LANE_OPERATIONS.get(step["operation"], ("?", ""))[0]
        x = across.at(step["step"])
        if room >= LETTER + 1:
            parts.append(label(letter, x, y + 15, "middle", "ink"))
        else:
            parts.append(tag("line", x1=x, y1=y + 5, x2=x, y2=y + 15, class_="tick"))
    return joined(parts)


def _alternative(episode: EpisodeRecords, steps: Sequence[Record], slots: Sequence[str]) -> str:
    lines = [_sentence(episode)]
    for slot in slots:
        stages = [
            f"{run.blueprint} {run.stage.name.lower()} steps {run.first} to {run.last}" for run in _runs(steps, slot)
        ]
        lines.append(f"Slot {slot}: {', '.join(stages)}.")
    return " ".join(lines)


def _key(episode: EpisodeRecords, steps: Sequence[Record]) -> Markup:
    items = []
    for series in _accuracies(episode, steps):
        if finite(y for _, y in series.points):
            dash = DASHES[series.dash] or None
            line = tag("line", x1=0, y1=6, x2=28, y2=6, class_=f"s{series.color}", stroke_dasharray=dash)
            items.append(tag("li", tag("svg", line, width=28, height=12, aria_hidden="true"), series.name))
    present = {report["stage"] for step in steps for report in step["slots"].values()}
    for stage, (letter, fill) in STAGE_FILLS.items():
        if stage.name in present:
            box = tag("rect", width=16, height=14, fill=fill, stroke=BLACK, stroke_width=0.5)
            sample = tag("svg", box, label(letter, 4, 11, class_="on"), width=16, height=14, aria_hidden="true")
            items.append(tag("li", sample, stage.name.lower()))
    done = {step["operation"] for step in steps if step["success"]}
    items += [tag("li", tag("b", letter), name) for op, (letter, name) in LANE_OPERATIONS.items() if op in done]
    if any(not step["success"] for step in steps):
        items.append(tag("li", tag("b", REFUSED), "operation without effect"))
    return tag("ul", *items, class_="key")


def _table(steps: Sequence[Record]) -> Markup:
    rows = [
        (
            str(step["step"]),
            step["operation"] + ("" if step["success"] else ", no effect"),
            step["slot"] or "-",
            number(step["val_accuracy_pp"], ".2f"),
            number(step["reward"], "+.3f"),
            ", ".join(f"{slot} {_seed(report)}" for slot, report in sorted(step["slots"].items())) or "-",
        )
        for step in steps
    ]
    headings = ("step", "operation", "slot", "accuracy, %", "reward", "seeds: stage, contribution in points")
    return details("Steps", table(headings, rows, numbers_from=99))


def _seed(report: Mapping[str, object]) -> str:
    worth = report["contribution_pp"]
    value = f"{worth:+.1f}" if isinstance(worth, int | float) else "not measured"
    return f"{report['blueprint']} {str(report['stage']).lower()} ({value})"

"""The frame of every screen: status, the five answers, alerts, the keys; and the whole screen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from esper_ray.karn.sanctum.screens import (
    commands,
    episode,
    events_log,
    networks,
    overlays,
    overview,
    policy,
    runs,
    seed,
    starting,
)
from esper_ray.karn.sanctum.text import (
    ASCII,
    Ink,
    Role,
    TextLine,
    between,
    duration,
    fitted,
    line,
    local_time,
    plain,
    printable,
    wrapped,
)
from esper_ray.karn.sanctum.view import (
    EPISODE,
    LOG,
    NETWORKS,
    OVERVIEW,
    POLICY,
    RUNS,
    SCREENS,
    SEED,
    Body,
    Controls,
    RunView,
)
from esper_ray.nissa.state.answers import Answer, answers

LEAST_WIDTH, LEAST_HEIGHT = 80, 24
MESSAGE_LINES = 3
"""Most lines of a message."""
MARKS: Mapping[str, str] = {"ok": "ok", "look": "!", "wrong": "X", "unknown": "?"}
"""Symbol of each level, so that no answer is shown by color alone."""
BODIES: Mapping[int, Callable[[RunView, Controls, int, int], Body]] = {
    OVERVIEW: overview.body,
    POLICY: policy.body,
    NETWORKS: networks.body,
    EPISODE: episode.body,
    SEED: seed.body,
    LOG: events_log.body,
    RUNS: runs.body,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole screen."""

    lines: tuple[TextLine, ...]
    offset: int = 0
    """First shown row of the list of the screen."""


def frame(view: RunView, controls: Controls, width: int, height: int, *, ascii_only: bool = False) -> Frame:
    """The screen in exactly ``height`` lines of ``width`` columns."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        needed = f"esper sanctum needs {LEAST_WIDTH}x{LEAST_HEIGHT}, this terminal has {width}x{height}; q leaves"
        question = [_keys(controls, view, width)] if controls.prompt == "leave" else []
        lines, offset = [line(needed), *question], 0
    else:
        head = _head(view, controls, width)
        foot = _footer(controls, view, width)
        room = height - len(head) - len(foot)
        body = _body(view, controls, width, room)
        offset = body.offset
        lines = [*head, *body.lines[:room]]
        lines += [()] * (height - len(foot) - len(lines))
        lines += foot
    fixed = [fitted(spans, width) for spans in lines]
    if ascii_only:
        fixed = [_ascii(spans) for spans in fixed]
    return Frame(tuple(fixed), offset)


def _head(view: RunView, controls: Controls, width: int) -> list[TextLine]:
    """Status, answers and alerts; a folder has no answers."""
    if view.name or view.reading:
        given = answers(view.state, view.sight)
        return [_status(view, given["alive"], controls, width), _answers(given, view, width), *alerts(view, given)]
    title = line(Ink("esper > ", "dim"), Ink(printable(view.folder), "title"))
    lost = [line(Ink(f"! {printable(view.connection)}", "wrong"))] if view.connection else []
    return [title, line(Ink("enter opens a run", "dim")), *starting.command_lines(view), *lost]


def _ascii(spans: TextLine) -> TextLine:
    texts = (span.text.translate(ASCII) for span in spans)
    return tuple(
        Ink("".join(letter if letter.isascii() else "?" for letter in text), span.role)
        for text, span in zip(texts, spans, strict=True)
    )


def _body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    if controls.prompt == "palette":
        return commands.body(controls, width, height)
    if controls.overlay:
        return overlays.body(view, controls, width, height)
    if controls.screen == RUNS:
        return runs.body(view, controls, width, height)
    if view.failure:
        return Body(tuple(line(Ink(f" {text}", "wrong")) for text in wrapped(printable(view.failure), width - 2)))
    if view.reading and not view.name:
        return Body(((), line(f" A run of {view.folder} is being read.")))
    if not view.name:
        return Body(((), line(" No run is chosen. Press 7 for the runs of the folder.")))
    if view.reading:
        return Body(((), line(f" The event log of {view.path} is being read.")))
    if starting.is_starting(view):
        return starting.body(view, width, height)
    return BODIES[controls.screen](view, controls, width, height)


def _status(view: RunView, alive: Answer, controls: Controls, width: int) -> TextLine:
    held = (Ink(" HELD ", "cursor"), Ink("  ")) if controls.held else ()
    badge = (Ink(" EVIDENCE NOT WHOLE ", "wrong"), Ink("  ")) if view.problems else ()
    state = Ink((view.state.status or "starting").upper(), "title")
    if alive.level == "wrong":  # GONE, STUCK or failed
        state = Ink(alive.text.partition(" ")[0].strip(",").upper(), "wrong")
    pulse = view.sight.pulse
    left = line(Ink("esper > ", "dim"), Ink(printable(view.name) or view.folder, "title"))
    if view.is_over:
        right: TextLine = (state, Ink("  "), Ink(local_time(str(view.manifest.get("updated", ""))), "dim"))
    elif pulse is None:
        right = (state,)
    else:
        episodes = f" {pulse['episodes']}/{pulse['of']}" if pulse["phase"] == "playing" else ""
        phase = f"{pulse['phase']}{episodes}  round {min(pulse['round'] + 1, pulse['rounds'])}/{pulse['rounds']}"
        right = (state, Ink(f"  {phase}  {duration(view.sight.moved_age_s)}"))
    return between(left, (*held, *badge, *right), width)


def level_role(level: str) -> Role:
    """How a level is drawn."""
    roles: Mapping[str, Role] = {"ok": "ok", "look": "look", "wrong": "wrong"}
    return roles.get(level, "unknown")


def _answers(given: Mapping[str, Answer], view: RunView, width: int) -> TextLine:
    marks: list[tuple[Ink, Ink]] = []
    for name, answer in given.items():
        mark = MARKS[answer.level]
        if name == "safe" and answer.level in ("look", "wrong"):
            mark += str(len(answer.because))
        marks.append((Ink(f"{name} "), Ink(mark, level_role(answer.level))))
    timings = view.state.timings
    speed = timings[-1].get("env_steps_per_second") if timings else None
    right = "" if speed is None else f"{speed:.1f} steps/s"
    free = width - len(right) - 1 - sum(len(span.text) for pair in marks for span in pair)
    gap = Ink(" " * max(2, min(4, free // (len(marks) - 1))))
    pieces = [span for pair in marks for span in (*pair, gap)]
    return between(tuple(pieces[:-1]), (Ink(right, "dim"),), width)


def alerts(view: RunView, given: Mapping[str, Answer]) -> list[TextLine]:
    """One line for each thing that must be seen: a driver that is gone or stuck, damage, a resumption."""
    lines = starting.command_lines(view)
    if view.connection:
        lines.append(line(Ink(f"! {printable(view.connection)}", "wrong")))
    alive = given["alive"]
    if alive.level == "wrong":
        lines.append(line(Ink(f"! {printable(alive.text)}", "wrong")))
        command = f"esper train ppo --resume {view.path}"
        lines.append(line("  resume with: ", Ink(command, "title")))
        lines += [line(Ink(f"  fault: {printable(text)}", "dim")) for text in alive.because[-1:]]
    if view.problems:
        more = f" ({len(view.problems)}, i lists them)" if len(view.problems) > 1 else ""
        lines.append(line(Ink(f"! evidence is not whole{more}:", "wrong"), " ", printable(view.problems[0])))
    lines += [line(Ink("! ", "look"), printable(note)) for note in view.notes[-1:]]
    if view.live_is_full:
        lines.append(line(Ink("! ", "look"), "steps in play are not recorded any more in this round: the file is full"))
    return lines


def _footer(controls: Controls, view: RunView, width: int) -> list[TextLine]:
    """The keys, a prompt, or a message, which may need several lines."""
    if controls.message and not controls.prompt:
        texts = wrapped(printable(controls.message), width - 2)[:MESSAGE_LINES]
        return [line(Ink(f" {text}", "look")) for text in texts]
    return [_keys(controls, view, width)]


def _keys(controls: Controls, view: RunView, width: int) -> TextLine:
    if controls.prompt == "leave":
        stops = view.command is not None and view.command.stops
        saved = "stop it" if view.is_over else "stop it, a checkpoint is saved"
        stop = "stop it at once, without saving" if stops else saved
        keys = (("l", "let it run"), ("s", stop), ("esc", "stay"))
        return line(*(piece for key, text in keys for piece in (Ink(f" {key} ", "cursor"), f" {text}  ")))
    if controls.prompt:
        title = "command" if controls.prompt == "palette" else controls.prompt
        return line(
            Ink(f" {title}: ", "title"),
            controls.typed,
            Ink("_", "dim"),
            Ink("   enter applies, esc cancels", "dim"),
        )
    pieces: list[Ink] = []
    for digit, name in SCREENS.items():
        chosen = digit == controls.screen and not controls.overlay
        pieces += [Ink(" "), Ink(f"{digit} {name}", "cursor" if chosen else "")]
    return between(tuple(pieces), line(Ink("/ find  spc hold  ? help", "dim")), width)


def rows(shown: Frame) -> list[str]:
    """The text of a screen, row by row."""
    return [plain(spans) for spans in shown.lines]

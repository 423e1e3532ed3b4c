"""Panels at the side of wide windows: reasons, blueprints, operations, rewards."""

from esper_ray.karn.sanctum.text import Ink, TextLine, line, number, printable, wrapped
from esper_ray.karn.sanctum.view import RunView
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.nissa.state.answers import answers

MOST_BLUEPRINTS = 9
PANEL_OPERATIONS = {
    LifecycleOp.WAIT: "wait",
    LifecycleOp.GERMINATE: "germinate",
    LifecycleOp.SET_ALPHA_TARGET: "set alpha",
    LifecycleOp.PRUNE: "prune",
    LifecycleOp.FOSSILIZE: "fossilize",
    LifecycleOp.ADVANCE: "advance",
}


def reason_lines(view: RunView, width: int) -> list[TextLine]:
    """The five answers in words."""
    lines: list[TextLine] = [line(Ink("answers", "title"))]
    for name, answer in answers(view.state, view.sight).items():
        for number_, text in enumerate(wrapped(printable(answer.text), width - 10)):
            lines.append(line(f"{name if not number_ else '':<10}{text}"))
        for reason in answer.because[:2]:
            if reason != answer.text:
                lines += [line(" " * 10, Ink(text, "dim")) for text in wrapped(printable(reason), width - 10)]
    return lines


def blueprint_lines(view: RunView, width: int) -> list[TextLine]:
    """Ended seeds by blueprint."""
    records = sorted(view.state.blueprints.items(), key=lambda item: -item[1].fossilized)
    lines: list[TextLine] = [line(Ink("blueprint        kept   lost   worth (pp)", "title"))]
    for name, record in records[:MOST_BLUEPRINTS]:
        worth = number(record.contribution_pp, "+.1f")
        lines.append(line(f"{printable(name)[:14]:<14}{record.fossilized:>7}{record.pruned:>7}{worth:>13}"))
    if not records:
        lines.append(line(Ink("no seed has ended yet", "dim")))
    return lines


def operation_lines(view: RunView, width: int) -> list[TextLine]:
    """Operations of the whole run with those that had no effect."""
    totals = view.state.totals
    lines: list[TextLine] = [line(Ink("operation       steps  share  no effect", "title"))]
    for op, name in PANEL_OPERATIONS.items():
        count, refused = totals.operations.get(op.name, 0), totals.refused.get(op.name, 0)
        share = f"{100 * count / totals.steps:.0f} %" if totals.steps else "-"
        lines.append(line(f"{name:<12}{count:>9,}{share:>7}{refused or '-':>11}"))
    return lines


def reward_lines(view: RunView, width: int) -> list[TextLine]:
    """Reward per step of the newest round, by source."""
    tally = view.state.last_tally
    lines: list[TextLine] = [line(Ink("reward per step of the last round, by source", "title"))]
    if tally is None or not tally.steps:
        return [*lines, line(Ink("no round is over yet", "dim"))]
    for source, amount in sorted(tally.reward_by_source.items(), key=lambda item: -abs(item[1])):
        lines.append(line(f"{printable(source)[:26]:<26}{amount / tally.steps:>+10.4f}"))
    return lines

"""Screen 1: what learns, what grows, what is wrong, and every environment with its slots."""

from statistics import fmean

from esper_ray.karn.notable import lived_steps, newest_notable, worth_at
from esper_ray.karn.sanctum.events import clock, describe, role_of
from esper_ray.karn.sanctum.screens.panels import blueprint_lines, operation_lines, reason_lines, reward_lines
from esper_ray.karn.sanctum.stages import LETTERS, SHORT, slot_cell
from esper_ray.karn.sanctum.text import (
    Ink,
    Role,
    TextLine,
    beside,
    fitted,
    line,
    number,
    percent,
    printable,
    rule,
    sparkline,
    window,
)
from esper_ray.karn.sanctum.view import Body, Controls, RunView
from esper_ray.leyline.records import Record
from esper_ray.leyline.stages import Stage
from esper_ray.nissa.state.answers import gain, safe, slot_stages
from esper_ray.nissa.state.episode import EpisodeState

WIDE, WIDEST = 100, 150
"""Widths from which there are more columns, and a panel at the side."""
PANEL = 46
NOTABLE_ROWS = 3
"""Rows of the notable list that are kept free for it."""
LABEL = 10


def body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    """The overview."""
    if width >= WIDEST:
        main = _main(view, controls, width - PANEL - 3, height)
        panel = [*reason_lines(view, PANEL), (), *blueprint_lines(view, PANEL), (), *operation_lines(view, PANEL)]
        panel += [(), *reward_lines(view, PANEL)]
        return Body(tuple(beside(main.lines, panel[:height], width - PANEL - 3, width)), main.offset)
    return _main(view, controls, width, height)


def _main(view: RunView, controls: Controls, width: int, height: int) -> Body:
    lines = [*learning_lines(view, width), safe_line(view, width), growing_line(view, width)]
    order = controls.ordered(view)
    plural = "environment" if len(order) == 1 else "environments"
    lines.append(rule(f"{len(order)} {plural}, by {controls.sort}", width))
    if not order:
        lines.append(line(" no episode has started yet"))
        return Body((*lines, rule("notable", width), *notable_lines(view, width, height - len(lines) - 1)))
    lines.append(header(view, width))
    rows = max(1, min(len(order), height - len(lines) - 1 - NOTABLE_ROWS))
    chosen = controls.shown_env(view)
    offset = window(len(order), rows, order.index(chosen) if chosen in order else 0, controls.offsets.get(1, 0))
    shown = order[offset : offset + rows]
    lines += [environment_line(view, view.state.environments[env], env == chosen, width) for env in shown]
    title = "notable"
    if len(order) > rows:
        title = f"{offset + 1} to {offset + rows} of {len(order)} ---- notable"
    lines.append(rule(title, width))
    return Body((*lines, *notable_lines(view, width, height - len(lines))), offset)


def learning_lines(view: RunView, width: int) -> list[TextLine]:
    """Accuracy against the control with its gain, and the newest update."""
    state, update = view.state, view.state.update
    label = Ink("learning".ljust(LABEL), "title")
    if not state.rounds:
        live = [e.val_accuracy_pp for e in state.environments.values() if e.val_accuracy_pp is not None]
        now = f"accuracy in play {fmean(live):.1f} %" if live else "no step yet"
        return [line(label, f"no round is over yet; {now}"), line(" " * LABEL, _control(view))]
    row, found = state.rounds[-1], gain(state)
    text = f"accuracy {percent(row['val_accuracy_ratio'])} %  {_control(view)}"
    if found is not None:
        text += f"  gain {found.mean_pp:+.1f} pp [{found.low_pp:+.1f}, {found.high_pp:+.1f}]"
    bars = sparkline([r["val_accuracy_ratio"] for r in state.rounds], max(0, width - LABEL - len(text) - 2))
    first = line(label, text, "  ", Ink(bars, "bar"))
    outcomes = state.last_tally.outcomes if state.last_tally is not None else ()
    returns = [outcome.total_reward for outcome in outcomes if outcome.total_reward is not None]
    spread = f" ({min(returns):.2f} .. {max(returns):.2f})" if returns else ""
    second = f"return {number(row['return_mean'], '+.2f')}{spread}"
    if update is None:
        return [first, line(" " * LABEL, second)]
    low = update["low_variance"] == 1.0
    return [
        first,
        line(
            " " * LABEL,
            f"{second}  kl {number(update['kl'], '.3f')}  ",
            Ink(f"explained {number(update['explained_variance'], '.2f')}", "dim" if low else ""),
            f"  entropy {number(update['entropy'], '.1f')}",
        ),
    ]


def _control(view: RunView) -> str:
    control = view.state.control_accuracy_ratio
    return "control not measured" if control is None else f"control {100 * control:.1f}"


def safe_line(view: RunView, width: int) -> TextLine:
    """The first thing that is wrong, or that nothing is."""
    answer = safe(view.state)
    label = Ink("safe".ljust(LABEL - 2), "title")
    if answer.level == "ok":
        return line(label, Ink("  "), answer.text)
    role: Role = "wrong" if answer.level == "wrong" else "look"
    more = f" (and {len(answer.because) - 1} more)" if len(answer.because) > 1 else ""
    text = fitted(line(f"{printable(answer.text)}{more}"), width - LABEL - 2)
    return line(label, Ink("X " if role == "wrong" else "! ", role), text, Ink(" >", "dim"))


def growing_line(view: RunView, width: int) -> TextLine:
    """Slots of all environments by stage, and the seeds that have ended."""
    state, stages = view.state, slot_stages(view.state)
    total = len(view.slots) * len(state.environments)
    kept = sum(record.fossilized for record in state.blueprints.values())
    lost = sum(record.pruned for record in state.blueprints.values())
    parts = [f"{stages[s.name]} {SHORT[s.name]}" for s in Stage if stages[s.name] and s.name in SHORT]
    parts.append(f"{total - sum(stages.values())} empty")
    ends = line(Ink(f"kept {kept}", "kept"), "  ", Ink(f"lost {lost}", "lost"))
    room = width - LABEL - sum(len(span.text) for span in ends)
    letters = [f"{stages[name]} {letter}" for name, letter in LETTERS.items() if stages[name]]
    forms = ("  ".join(parts), " ".join(parts), " ".join([*letters, parts[-1]]))
    text = next((form for form in forms if len(form) + len(f"{total} slots:   ") <= room), forms[-1])
    return line(Ink("growing".ljust(LABEL), "title"), f"{total} slots: {text}  ", ends)


def _columns(view: RunView, width: int) -> tuple[bool, int, int]:
    """Column of returns or none, columns of a cell, and number of shown slots."""
    wide = width >= WIDE
    cell = 16 if wide else 12
    fixed = 33 + (8 if wide else 0) + 11
    return wide, cell, max(0, min(len(view.slots), (width - fixed) // cell))


def header(view: RunView, width: int) -> TextLine:
    """Names of the columns of the matrix."""
    wide, cell, shown = _columns(view, width)
    names = "".join(name.ljust(cell) for name in view.slots[:shown])
    returns = "  return" if wide else ""
    hidden = len(view.slots) - shown
    last = f"last (+{hidden})" if hidden else "last"
    return (Ink(f"env   ep step   acc   best grow{returns}  {names}{last}", "dim"),)


def environment_line(view: RunView, episode: EpisodeState, chosen: bool, width: int) -> TextLine:
    """One environment: episode, step, accuracies, growth, slots, newest operation."""
    wide, cell, shown = _columns(view, width)
    mark = f">{episode.env:>2}" if chosen else f"{episode.env:>3}"
    numbers = (
        f"{episode.episode:>5}{episode.step:>5}{number(episode.val_accuracy_pp, '.1f'):>6}"
        f"{number(episode.best_accuracy_pp, '.1f'):>7}{growth(episode.growth_ratio):>5}"
    )
    if wide:
        numbers += f"{number(episode.episode_return, '+.2f'):>8}"
    cells = [slot_cell(episode.slots.get(name), cell) for name in view.slots[:shown]]
    return line(
        Ink(mark, "cursor" if chosen else ""), Ink(numbers, "title" if chosen else ""), "  ",
        *cells, last_operation(view, episode),
    )  # fmt: skip


def growth(ratio: float | None) -> str:
    """A growth ratio in at most four characters, such as ``1.9x`` and ``13x``."""
    return "-" if ratio is None else f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:.0f}x"


def last_operation(view: RunView, episode: EpisodeState) -> Ink:
    """The newest operation, with ``!`` without an effect, or the reason of the end."""
    if episode.env in view.state.quarantined:
        return Ink("QUARANTINED", "wrong")
    if episode.rollback is not None:
        return Ink("ROLLED BACK", "wrong")
    if episode.operation is None:
        return Ink("started", "dim")
    name = {"SET_ALPHA_TARGET": "SET_ALPHA"}.get(episode.operation, episode.operation)
    if episode.success is False:
        return Ink(f"{name}!", "look")
    return Ink(name, "dim" if name == "WAIT" else "")


def notable_lines(view: RunView, width: int, count: int) -> list[TextLine]:
    """The notable list."""
    lines = [notable_line(view, record) for record in newest_notable(view.recent, count)]
    if not lines and count > 0:
        lines = [line(Ink(" nothing yet: seeds that end, rollbacks and anomalies are listed here", "dim"))]
    return [fitted(spans, width) for spans in lines]


def notable_line(view: RunView, record: Record) -> TextLine:
    """When and what, with worth and life of a seed that ended."""
    when = Ink(f"{clock(record):<12}", "dim")
    if record["kind"] != "seed_transition":
        return line(when, Ink(describe(record), role_of(record)))
    worth = worth_at(record, view.recent.by_kind.get("env_epoch", ()))
    lived = lived_steps(record, view.recent.by_kind.get("seed_transition", ()))
    text = f" {printable(record['blueprint'] or 'unknown')} by {record['initiator']}"
    text += "" if worth is None else f", worth {worth:+.1f} pp"
    text += "" if lived is None else f", lived {lived} {'step' if lived == 1 else 'steps'}"
    return line(when, f"{record['slot']} ", Ink(record["to"], role_of(record)), text)

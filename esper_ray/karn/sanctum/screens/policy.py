"""Screen 2: the newest update, the heads of the policy, and operations by round."""

from esper_ray.karn.sanctum.screens.overview import WIDE, WIDEST
from esper_ray.karn.sanctum.text import (
    Ink,
    Role,
    TextLine,
    beside,
    line,
    meter,
    number,
    percent,
    rule,
    sparkline,
    wrapped,
)
from esper_ray.karn.sanctum.view import Body, Controls, RunView
from esper_ray.leyline.actions import HEADS, LifecycleOp
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS
from esper_ray.nissa.state.measures import normalized_entropy

POLICY_CURVES = (
    ("return", "return_mean", "+.2f"),
    ("entropy", "entropy", ".2f"),
    ("approximate KL", "kl", ".3f"),
    ("share of clipped ratios", "clip_share", ".2f"),
    ("explained variance", "explained_variance", ".2f"),
    ("gradient norm", "grad_norm", ".2f"),
    ("loss of the critic", "value_loss", ".3f"),
    ("growth", "growth_ratio", ".2f"),
    ("fossilized seeds", "fossilised_mean", ".2f"),
    ("rollbacks", "rollbacks", ".0f"),
)
PANEL = 52


def body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    """The policy."""
    state = view.state
    if state.update is None:
        return Body((line(" no update has ended yet; the first one comes after the first round"),))
    main_width = width - PANEL - 3 if width >= WIDEST else width
    lines = [*update_lines(view, state.update), rule("heads", main_width), *head_lines(view, state.update, main_width)]
    lines += [
        rule("operations by round", main_width),
        *operation_rows(view, controls, main_width, height - len(lines) - 1),
    ]
    if width >= WIDEST:
        side = [*curve_lines(view, PANEL), (), *decision_lines(view, controls, PANEL)]
        return Body(tuple(beside(lines, side[:height], main_width, width)))
    return Body(tuple(lines))


def update_lines(view: RunView, update: Record) -> list[TextLine]:
    """The newest update in three lines."""
    ppo = (view.manifest.get("config") or {}).get("ppo") or {}
    limit = ppo.get("target_kl")
    stopped = ", stopped early by the KL limit" if update["stopped_by_kl"] == 1.0 else ""
    skipped = f", {update['skipped_minibatches']} minibatches skipped" if update["skipped_minibatches"] else ""
    low = update["low_variance"] == 1.0
    up, down = update.get("clip_share_up"), update.get("clip_share_down")
    sides = "" if up is None else f" (up {percent(up)}, down {percent(down)})"
    kl_role: Role = "look" if limit is not None and (update["kl"] or 0.0) > limit else ""
    return [
        line(
            Ink(f"update of round {update['round'] + 1}: ", "title"),
            f"{update['optimizer_steps']} steps{stopped}   entropy {number(update['entropy'], '.2f')} nats",
            Ink(skipped, "look"),
        ),
        line(
            "approximate KL ", Ink(number(update["kl"], ".4f"), kl_role),
            f" (limit {limit})" if limit is not None else "",
            f"   clipped {percent(update['clip_share'])} %{sides}",
        ),
        line(
            Ink(f"explained variance {number(update['explained_variance'], '.2f')}", "dim" if low else ""),
            Ink(" (returns hardly vary)" if low else "", "dim"),
            f"   error {_known(update, 'value_nrmse', '.2f')}"
            f"   correlation {_known(update, 'value_return_correlation', '.2f')}"
            f"   gradient {number(update['grad_norm'], '.2f')}",
        ),
        line(Ink("what is - here and below is not recorded by the version of this run", "dim"))
        if update.get("ratio_max") is None
        else line(
            f"largest ratio {_known(update, 'ratio_max', '.2f')}"
            f"   advantage std {_known(update, 'advantage_std', '.2f')}"
            f"   learning rate {_known(update, 'learning_rate', '.2g')}   epsilon {number(update['epsilon'], '.3f')}",
        ),
    ]  # fmt: skip


def _known(update: Record, name: str, form: str) -> str:
    return number(update.get(name), form, "-")


def head_lines(view: RunView, update: Record, width: int) -> list[TextLine]:
    """A line for each head: entropy against its floor, share of steps with a choice, gradient."""
    bar = 20 if width < WIDE else 30
    titles = (
        f"{'head':<14}{'normalized entropy':<{bar + 7}}{'floor':>6}{'choices':>9}{'with choice':>13}{'gradient':>10}"
    )
    lines: list[TextLine] = [line(Ink(titles, "dim"))]
    for head in HEADS:
        share, floor = normalized_entropy(update, head, view.choices), ENTROPY_FLOORS[head]
        gradient, chosen = update.get(f"grad_norm_{head}"), update.get(f"choice_share_{head}")
        count = view.choices.get(head)
        collapsed = share is not None and share < floor
        if share is None:
            nats = update[f"entropy_{head}"]
            text = "one choice only" if count == 1 else f"{number(nats, '.3f')} nats"
            shown: TextLine = (Ink(text.ljust(bar + 7), "dim"),)
        else:
            mark = "!" if collapsed else " "
            shown = (
                Ink(f"{share:.2f} ", "look" if collapsed else ""), Ink(mark, "look"), Ink(" "),
                *meter(share, bar, "look" if collapsed else "bar"),
            )  # fmt: skip
        lines.append(
            line(
                f"{head.replace('_', ' '):<14}", *shown,
                f"{floor:>6.2f}{count or '-':>9}{_share(chosen):>13}{number(gradient, '.3f'):>10}",
            )
        )  # fmt: skip
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def operation_rows(view: RunView, controls: Controls, width: int, height: int) -> list[TextLine]:
    """Operations of the newest rounds, newest first."""
    titles = {
        "WAIT": "wait",
        "GERMINATE": "germ",
        "SET_ALPHA_TARGET": "alpha",
        "PRUNE": "prune",
        "FOSSILIZE": "foss",
        "ADVANCE": "adv",
    }
    names = "".join(f"{titles.get(op.name, op.name.lower()):>6}" for op in LifecycleOp)
    more = f"{'growth':>8}{'kl':>7}{'expl.':>6}" if width >= WIDE else ""
    lines: list[TextLine] = [line(Ink(f"round{names}  refused  return  accuracy rollbacks{more}", "dim"))]
    for row in reversed(view.state.rounds[-max(1, height - 1) :]):
        counts = "".join(f"{row[f'op_{op.name.lower()}']:>6}" for op in LifecycleOp)
        text = (
            f"{row['round'] + 1:>5}{counts}{row['refused']:>9}{number(row['return_mean'], '+.2f'):>8}"
            f"{percent(row['val_accuracy_ratio']):>8} %"
        )
        rollbacks = Ink(f"{row['rollbacks']:>10}", "look" if row["rollbacks"] else "")
        tail = ""
        if width >= WIDE:
            tail = f"{number(row['growth_ratio'], '.2f'):>7}x{number(row['kl'], '.3f'):>7}"
            tail += f"{number(row['explained_variance'], '.2f'):>6}"
        lines.append(line(text, rollbacks, tail))
    return lines


def curve_lines(view: RunView, width: int) -> list[TextLine]:
    """Curves over the rounds."""
    lines: list[TextLine] = [line(Ink("over the rounds", "title"))]
    for title, name, form in POLICY_CURVES:
        values = [row[name] for row in view.state.rounds]
        bars = sparkline(values, width - 34)
        lines.append(line(f"{title:<24}{number(values[-1], form):>8}  ", Ink(bars, "bar")))
    return lines


def decision_lines(view: RunView, controls: Controls, width: int) -> list[TextLine]:
    """The newest sampled decision of the chosen environment, with its alternatives."""
    env = controls.shown_env(view)
    decision = None if env is None else view.state.decisions.get(env)
    title = line(Ink(f"newest sampled decision of environment {env}", "title"))
    if decision is None:
        return [
            title,
            *(line(Ink(text, "dim")) for text in wrapped("no sample: telemetry is off, or none has come yet", width)),
        ]
    where = f" {decision['slot']}" if decision["slot"] else ""
    lines = [title, line(f"episode {decision['episode']}, step {decision['step']}: {decision['operation']}{where}")]
    for name, probability in sorted(decision["operations"].items(), key=lambda item: -(item[1] or 0.0)):
        q = decision["values"].get(name)
        taken = name == decision["operation"]
        share = meter(probability or 0.0, 10)
        lines.append(
            line(
                Ink(f"{'>' if taken else ' '} {name:<17}", "title" if taken else ""),
                f"{number(probability, '.3f'):>6} ", *share, f"  Q {number(q, '+.2f')}",
            )
        )  # fmt: skip
    return lines

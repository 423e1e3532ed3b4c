"""Screen 3: all environments in short, and the network of the chosen one as a tree of layers and seeds."""

from esper_ray.karn.sanctum.screens.overview import WIDE, growth
from esper_ray.karn.sanctum.stages import SHORT, stage_span, worth
from esper_ray.karn.sanctum.text import Ink, TextLine, beside, fitted, line, number, printable, window
from esper_ray.karn.sanctum.view import NETWORKS, Body, Controls, RunView
from esper_ray.leyline.records import Record
from esper_ray.nissa.state.episode import EpisodeState, SlotState


def body(view: RunView, controls: Controls, width: int, height: int) -> Body:
    """The networks."""
    order = controls.ordered(view)
    if not order:
        return Body((line(" no episode has started yet"),))
    chosen = controls.shown_env(view)
    left_width = 17 + max(5, len(view.slots))
    left, offset = _matrix(view, controls, order, chosen, height)
    right_width = width - left_width - 3
    episode = view.state.environments[order[0] if chosen is None else chosen]
    right = network_lines(view, episode, right_width, height)
    return Body(tuple(beside(left, right, left_width, width)), offset)


def _matrix(
    view: RunView, controls: Controls, order: list[int], chosen: int | None, height: int
) -> tuple[list[TextLine], int]:
    rows = max(1, height - 2)
    cursor = order.index(chosen) if chosen in order else 0
    offset = window(len(order), rows, cursor, controls.offsets.get(NETWORKS, 0))
    lines: list[TextLine] = [line(Ink("env   acc  grow  slots", "dim"))]
    for env in order[offset : offset + rows]:
        episode = view.state.environments[env]
        mark = f">{env:>2}" if env == chosen else f"{env:>3}"
        cells = [
            stage_span(slot.stage) if (slot := episode.slots.get(name)) is not None else Ink("-", "dim")
            for name in view.slots
        ]
        text = f"{number(episode.val_accuracy_pp, '.1f'):>6}{growth(episode.growth_ratio):>6}"
        lines.append(
            line(
                Ink(mark, "cursor" if env == chosen else ""),
                Ink(text, "title" if env == chosen else ""),
                "  ",
                *cells,
            )
        )
    if len(order) > rows:
        lines.append(line(Ink(f"{offset + 1} to {offset + rows} of {len(order)}", "dim")))
    return lines, offset


def network_lines(view: RunView, episode: EpisodeState, width: int, height: int) -> list[TextLine]:
    """The network of an environment: layers of the host in order, and the seeds in the slots behind them."""
    lines: list[TextLine] = [
        line(
            Ink(f"environment {episode.env}", "title"), f", episode {episode.episode}, step {episode.step}",
        ),
        line(
            f"{number(episode.total_parameters, ',d')} parameters, {growth(episode.growth_ratio)} the host",
        ),
        line(
            f"accuracy {number(episode.val_accuracy_pp, '.1f')} %, committed "
            f"{number(episode.committed_accuracy_pp, '.1f')}, best {number(episode.best_accuracy_pp, '.1f')} "
            f"(step {episode.best_step})"
        ),
        (),
    ]  # fmt: skip
    host = view.state.host
    if host is None:
        lines.append(line(Ink("host: layers not recorded by the version of this run", "dim")))
        for name in view.slots:
            lines += slot_lines(name, episode.slots.get(name), width)
    else:
        lines.append(line(Ink(f"{'layer':<26}{'output':<14}{'parameters':>11}", "dim")))
        layers = layer_lines(host, episode, width)
        if len(lines) + len(layers) > height:
            layers = layer_lines(host, episode, width, essential=True)
        lines += layers
    values = attribution_lines(episode)
    lines += [(), *values] if values and len(lines) + len(values) < height else []
    if len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], line(Ink(f"{hidden} more lines: a higher window shows them", "dim"))]
    return lines


def layer_lines(host: Record, episode: EpisodeState, width: int, *, essential: bool = False) -> list[TextLine]:
    """Layers of the host, and the slots behind them; the ``essential`` ones have parameters."""
    lines: list[TextLine] = []
    for layer in host["layers"]:
        shape = "x".join(map(str, layer["shape"])) or "-"
        name = f"{layer['name']} ({layer['module']})"
        parameters = f"{layer['parameters']:>11,}" if layer["parameters"] else f"{'-':>11}"
        if layer["parameters"] or not essential:
            lines.append(line(f"{printable(name)[:25]:<26}", Ink(f"{shape:<14}", "dim"), parameters))
        if layer["slot"] is not None:
            lines += slot_lines(layer["slot"], episode.slots.get(layer["slot"]), width)
    return lines


def slot_lines(name: str, slot: SlotState | None, width: int) -> list[TextLine]:
    """A slot and the seed in it."""
    if slot is None:
        return [line(Ink(f" └─ {name:<6}empty", "dim"))]
    error = "" if slot.contribution_error_pp is None else f" ±{slot.contribution_error_pp:.1f}"
    value = worth(slot)
    measured = "not measured" if value is None else f"{value:+.1f}{error} pp"
    letter = stage_span(slot.stage)
    first = line(
        Ink(" └─ ", "dim"), Ink(f"{name:<6}", "title"), letter, f" {SHORT.get(slot.stage.name, '?'):<14}",
        f"{printable(slot.blueprint or 'unknown')[:13]:<14}", f"{slot.parameters:>11,}",
    )  # fmt: skip
    health = "" if slot.gradient_health is None else f", gradient health {slot.gradient_health:.2f}"
    born = "" if slot.germinated_step is None else f", since step {slot.germinated_step}"
    detail = f"amplitude {slot.alpha:.2f}, worth {measured}{born}"
    if width >= WIDE - 25:
        return [line(first, f"  {detail}{health}")]
    return [first, fitted(line(Ink(f"     {detail}", "")), width)]


def attribution_lines(episode: EpisodeState) -> list[TextLine]:
    """Shapley values at the end of the episode."""
    if episode.attribution is None or not episode.attribution["slots"]:
        return []
    parts = []
    for slot in episode.attribution["slots"]:
        error = "" if slot["shapley_error_pp"] is None else f" ±{slot['shapley_error_pp']:.1f}"
        parts.append(f"{slot['slot']} {number(slot['shapley_pp'], '+.1f', 'not measured')}{error}")
    return [line(Ink("Shapley values at the end (pp)", "title")), *(line(f"  {part}") for part in parts)]

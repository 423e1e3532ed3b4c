"""The story of a seed, from the event log: who wanted it, what the gates said, what it was worth, how it ended."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from esper_ray.leyline.records import Record

BARS = " .:-=+*#%@"
ENDS = ("FOSSILIZED", "PRUNED")


@dataclass(slots=True)
class SeedStory:
    """One seed, from germination to the end of the episode."""

    seed: str
    slot: str
    blueprint: str | None
    lines: list[tuple[int, str]] = field(default_factory=list)
    """(step, what happened), in order. Steps count from 1."""
    worth: list[tuple[int, float, float | None, float]] = field(default_factory=list)
    """(step, contribution and its standard error in percentage points, amplitude) where it was measured."""
    end: str = "still there at the end of the episode"


def stories(records: Iterable[Record], slot: str, decisions: Iterable[Record] = ()) -> list[SeedStory]:
    """The seeds of one slot in one episode, in the order of their germination.

    Args:
        records: of the episode, from its beginning.
        decisions: samples of the same episode, as far as there are any: what else might have been done.
    """
    told: dict[str, SeedStory] = {}
    thoughts = {sample["step"]: sample for sample in decisions}
    happened: list[Record] = []
    for record in records:
        if record["kind"] in ("seed_transition", "gate", "veto", "rollback"):
            happened.append(record)
        if record["kind"] == "env_epoch":
            for event in happened:
                _tell(told, event, record, slot, thoughts.get(record["step"]))
            happened = []
            _measure(told, record, slot)
    return list(told.values())


def _tell(told: dict[str, SeedStory], event: Record, step: Record, slot: str, thought: Record | None) -> None:
    if event["kind"] == "rollback":
        for story in told.values():
            why = f"rolled back: {event['reason']} ({_number(event['value'])} > {_number(event['threshold'])})"
            story.lines.append((step["step"], why))
        return
    if event["slot"] != slot or event.get("seed") is None:
        return
    story = told.setdefault(event["seed"], SeedStory(event["seed"], slot, None))
    if event["kind"] == "gate":
        story.lines.append((step["step"], _gate(event)))
    elif event["kind"] == "seed_transition":
        story.blueprint = event["blueprint"] or story.blueprint
        what = _transition(event, step, thought)
        story.lines.append((step["step"], what))
        if event["to"] in ENDS:
            story.end = f"step {step['step']}: {what}"


def _measure(told: Mapping[str, SeedStory], step: Record, slot: str) -> None:
    report = step["slots"].get(slot)
    if report is not None and report["contribution_pp"] is not None and report["seed"] in told:
        measured = (step["step"], report["contribution_pp"], report["contribution_error_pp"], report["alpha"])
        told[report["seed"]].worth.append(measured)


def _transition(event: Record, step: Record, thought: Record | None) -> str:
    what = f"{event['from']} -> {event['to']} after {event['ticks']} steps"
    if event["initiator"] != "policy":
        return f"{what}, by the clock" + (f": {event['reason']}" if event["reason"] else "")
    probability = math.exp(step["log_prob"])
    chosen = f"{what}, by the policy: {step['operation']} {step['slot']}, probability {probability:.3g}"
    chosen += f", value before {step['value']:+.3f}, pay {step['reward']:+.3f}"
    chosen += "" if thought is None else _alternative(thought)
    return chosen + (f" ({step['why']})" if step["why"] else "")


def _alternative(thought: Record) -> str:
    """The likeliest other operation, with its probability and Q."""
    others = {name: p for name, p in thought["operations"].items() if name != thought["operation"]}
    if not others:
        return ", nothing else was legal"
    name = max(others, key=lambda one: others[one])
    q, own = thought["values"].get(name), thought["values"].get(thought["operation"])
    known = "" if q is None or own is None else f", Q {q:+.3f} against {own:+.3f}"
    return f"; {thought['operation']} itself {thought['probability']:.3g}, else {name} {others[name]:.3g}{known}"


def _gate(event: Record) -> str:
    verdict = "opened" if event["passed"] else "stayed shut"
    checks = [
        f"{'' if check['passed'] else 'NOT '}{check['name']} {_number(check['value'])} "
        f"(wanted {_number(check['threshold'])})"
        for check in event["checks"]
    ]
    return f"gate {event['gate']} {verdict}: {'; '.join(checks)}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def told_lines(story: SeedStory) -> Iterator[str]:
    """The story as text."""
    yield f"seed {story.seed} in {story.slot}: {story.blueprint or 'unknown blueprint'}"
    for step, what in story.lines:
        yield f"  step {step:>3}  {what}"
    if story.worth:
        worths = [worth for _, worth, _, _ in story.worth]
        first, last = story.worth[0], story.worth[-1]
        yield f"  contribution, steps {first[0]} to {last[0]}: {_bars(worths)}"
        yield f"    lowest {min(worths):+.2f} pp, highest {max(worths):+.2f} pp, last {_worth(last)}"
    else:
        yield "  contribution: never measured"
    yield f"  end: {story.end}"


def _worth(measured: tuple[int, float, float | None, float]) -> str:
    _, worth, error, alpha = measured
    spread = "" if error is None else f" +/- {error:.2f}"
    return f"{worth:+.2f}{spread} pp at amplitude {alpha:.2f}"


def _bars(values: list[float]) -> str:
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "[" + "".join(BARS[round((value - low) * scale)] for value in values) + "]"

"""History of a seed from the event log: transitions, decisions, gates, contributions and end."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from esper_ray.leyline.records import Record

BARS = " .:-=+*#%@"
SEED_ENDS = ("FOSSILIZED", "PRUNED")


@dataclass(slots=True)
class SeedStory:
    """History of one seed, from germination to the end of the episode."""

    seed: str
    slot: str
    blueprint: str | None
    lines: list[tuple[int, str]] = field(default_factory=list)
    """(step, event as text), in order. Steps count from 1."""
    contributions: list[tuple[int, float, float | None, float]] = field(default_factory=list)
    """(step, contribution and its standard error in percentage points, amplitude) of each measurement."""
    end: str = "active at the end of the episode"


def seed_stories(records: Iterable[Record], slot: str, decisions: Iterable[Record] = ()) -> list[SeedStory]:
    """Histories of a slot's seeds in one episode, in order of germination.

    Args:
        records: records of the episode, from its beginning.
        decisions: decision samples of the same episode, with the probabilities of other operations; may be partial.
    """
    by_seed: dict[str, SeedStory] = {}
    samples = {sample["step"]: sample for sample in decisions}
    events: list[Record] = []
    for record in records:
        if record["kind"] in ("seed_transition", "gate", "veto", "rollback"):
            events.append(record)
        if record["kind"] == "env_epoch":
            for event in events:
                _add_event(by_seed, event, record, slot, samples.get(record["step"]))
            events = []
            _add_contribution(by_seed, record, slot)
    return list(by_seed.values())


def _add_event(by_seed: dict[str, SeedStory], event: Record, step: Record, slot: str, sample: Record | None) -> None:
    if event["kind"] == "rollback":
        for story in by_seed.values():
            why = f"rolled back: {event['reason']} ({_number(event['value'])} > {_number(event['threshold'])})"
            story.lines.append((step["step"], why))
        return
    if event["slot"] != slot or event.get("seed") is None:
        return
    story = by_seed.setdefault(event["seed"], SeedStory(event["seed"], slot, None))
    if event["kind"] == "gate":
        story.lines.append((step["step"], _gate(event)))
    elif event["kind"] == "seed_transition":
        story.blueprint = event["blueprint"] or story.blueprint
        transition = _transition(event, step, sample)
        story.lines.append((step["step"], transition))
        if event["to"] in SEED_ENDS:
            story.end = f"step {step['step']}: {transition}"


def _add_contribution(by_seed: Mapping[str, SeedStory], step: Record, slot: str) -> None:
    report = step["slots"].get(slot)
    if report is not None and report["contribution_pp"] is not None and report["seed"] in by_seed:
        measured = (step["step"], report["contribution_pp"], report["contribution_error_pp"], report["alpha"])
        by_seed[report["seed"]].contributions.append(measured)


def _transition(event: Record, step: Record, sample: Record | None) -> str:
    transition = f"{event['from']} -> {event['to']} after {event['ticks']} steps"
    if event["initiator"] != "policy":
        return f"{transition}, automatic" + (f": {event['reason']}" if event["reason"] else "")
    probability = math.exp(step["log_prob"])
    text = f"{transition}, by the policy: {step['operation']} {step['slot']}, probability {probability:.3g}"
    text += f", value before {step['value']:+.3f}, reward {step['reward']:+.3f}"
    text += "" if sample is None else _alternative(sample)
    return text + (f" ({step['why']})" if step["why"] else "")


def _alternative(sample: Record) -> str:
    """The most probable other operation, with its probability and Q."""
    probabilities = sample["operations"].items()
    others = {name: p for name, p in probabilities if name != sample["operation"] and p is not None}
    if not others:
        return ", no other operation was legal"
    name = max(others, key=others.__getitem__)
    q, own = sample["values"].get(name), sample["values"].get(sample["operation"])
    values = "" if q is None or own is None else f", Q {q:+.3f} against {own:+.3f}"
    return f"; {sample['operation']} itself {sample['probability']:.3g}, else {name} {others[name]:.3g}{values}"


def _gate(event: Record) -> str:
    verdict = "passed" if event["passed"] else "refused"
    checks = [
        f"{'' if check['passed'] else 'NOT '}{check['name']} {_number(check['value'])} "
        f"(needed {_number(check['threshold'])})"
        for check in event["checks"]
    ]
    return f"gate {event['gate']} {verdict}: {'; '.join(checks)}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def story_lines(story: SeedStory) -> Iterator[str]:
    """Lines of text of a history."""
    yield f"seed {story.seed} in {story.slot}: {story.blueprint or 'unknown blueprint'}"
    for step, text in story.lines:
        yield f"  step {step:>3}  {text}"
    if story.contributions:
        values = [contribution for _, contribution, _, _ in story.contributions]
        first, last = story.contributions[0], story.contributions[-1]
        yield f"  contribution, steps {first[0]} to {last[0]}: {_bars(values)}"
        yield f"    lowest {min(values):+.2f} pp, highest {max(values):+.2f} pp, last {_contribution(last)}"
    else:
        yield "  contribution: not measured"
    yield f"  end: {story.end}"


def _contribution(measured: tuple[int, float, float | None, float]) -> str:
    _, contribution, error, alpha = measured
    spread = "" if error is None else f" +/- {error:.2f}"
    return f"{contribution:+.2f}{spread} pp at amplitude {alpha:.2f}"


def _bars(values: list[float]) -> str:
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "[" + "".join(BARS[round((value - low) * scale)] for value in values) + "]"

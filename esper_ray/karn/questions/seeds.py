"""The story of one seed: in a sentence, and on a time line."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from esper_ray.karn.questions.account import PaidEntry, paid_entries
from esper_ray.karn.questions.episode import (
    UnknownEpisodeError,
    episode_decisions,
    episode_records,
    placed_events,
)
from esper_ray.karn.questions.tables import LogTables
from esper_ray.karn.reports.seed_story import SEED_ENDS, SeedStory, seed_stories
from esper_ray.leyline.errors import shortened
from esper_ray.leyline.records import Record


def seed_account(tables: LogTables, episode: int, seed: str) -> dict[str, Any]:
    """The story of a seed of an episode in the log.

    Args:
        seed: its identity such as ``r0c0-1``, or its slot for the last seed in it.

    Raises:
        UnknownEpisodeError: if the log has no such episode or seed.
    """
    records = episode_records(tables, episode)
    if not records:
        raise UnknownEpisodeError(f"there is no episode {episode} in the log; one in play has no stories yet")
    return seed_story(records, episode_decisions(tables, episode), seed)


def seed_story(records: Sequence[Record], decisions: Sequence[Record], seed: str) -> dict[str, Any]:
    """The story of a seed in an episode with these records.

    Raises:
        UnknownEpisodeError: if no seed has that identity and no slot that name.
    """
    events = [event for event in placed_events(records) if event.get("seed") is not None]
    known = dict.fromkeys((event["seed"], event["slot"]) for event in events if event["kind"] == "seed_transition")
    chosen = [pair for pair in known if seed in pair]
    if not chosen:
        names = ", ".join(name for name, _ in known) or "none"
        raise UnknownEpisodeError(f"there is no seed {shortened(seed)} in this episode; seeds: {names}")
    identity, slot = chosen[-1]
    own = [event for event in events if event["seed"] == identity and event["slot"] == slot]
    steps = [record for record in records if record["kind"] == "env_epoch"]
    story = next(story for story in seed_stories(records, slot, decisions) if story.seed == identity)
    transitions = [event for event in own if event["kind"] == "seed_transition"]
    life = _life(transitions, steps)
    rewards = [entry for entry in paid_entries(steps) if entry.slot == slot and life[0] <= entry.cause <= life[1]]
    back = next((record for record in records if record["kind"] == "rollback"), None)
    return {
        "sentence": seed_sentence(story, transitions, rewards, back),
        "lines": [{"step": step, "text": text} for step, text in story.lines],
        "seed": identity,
        "slot": slot,
        "blueprint": story.blueprint,
        "end": story.end,
        "first_step": life[0],
        "last_step": life[1],
        "steps": steps[-1]["step"] if steps else 0,
        "transitions": transitions,
        "gates": [_gate(event) for event in own if event["kind"] == "gate"],
        "contribution": [
            {"step": step, "pp": value, "error_pp": error, "alpha": alpha}
            for step, value, error, alpha in story.contributions
        ],
        "reports": [
            {"step": step["step"], **step["slots"][slot]}
            for step in steps
            if slot in step["slots"] and step["slots"][slot]["seed"] == identity
        ],
        "decisions": [
            sample for sample in decisions if sample["slot"] == slot and life[0] <= sample["step"] <= life[1]
        ],
        "rewards": [asdict(entry) for entry in rewards],
    }


def _life(transitions: Sequence[Record], steps: Sequence[Record]) -> tuple[int, int]:
    """First and last step of a seed: from its germination to its pruning, or to the end of the episode."""
    first = transitions[0]["step"] if transitions else 1
    ends = [event["step"] for event in transitions if event["to"] == "PRUNED"]
    return first, ends[-1] if ends else (steps[-1]["step"] if steps else first)


def _gate(event: Record) -> dict[str, Any]:
    return {name: event[name] for name in ("step", "gate", "passed", "checks")}


def seed_sentence(
    story: SeedStory, transitions: Sequence[Record], rewards: Sequence[PaidEntry], rollback: Record | None
) -> str:
    """What became of a seed, in a sentence or two."""
    name = story.blueprint or "a seed of an unknown blueprint"
    born = next((event for event in transitions if event["to"] == "GERMINATED"), None)
    begin = f"{name} was in {story.slot}"
    if born is not None:
        begin = f"{name} germinated in {story.slot} at step {born['step']} by the {born['initiator']}"
    parts = [begin]
    stages = [event for event in transitions if event["to"] in ("TRAINING", "BLENDING", "HOLDING")]
    parts += [f"{event['to'].lower()} from step {event['step']}" for event in stages]
    text = ", ".join(parts)
    end = next((event for event in reversed(transitions) if event["to"] in SEED_ENDS), None)
    if end is not None:
        reason = f" ({end['reason']})" if end["reason"] else ""
        text += f"; {end['to'].lower()} at step {end['step']} by the {end['initiator']}{reason}"
    elif rollback is not None:
        text += f"; the governor rolled the episode back: {rollback['reason']}"
    else:
        text += "; active at the end of the episode"
    return f"{text}. {_worth(story)} {_paid(rewards)}"


def _worth(story: SeedStory) -> str:
    if not story.contributions:
        return "Its contribution was not measured."
    step, value, error, alpha = story.contributions[-1]
    spread = "" if error is None else f" ± {error:.2f}"
    return f"Its last measured contribution, at step {step}, was {value:+.2f}{spread} pp at amplitude {alpha:.2f}."


def _paid(rewards: Sequence[PaidEntry]) -> str:
    if not rewards:
        return "No reward was paid for it."
    total = sum(entry.amount for entry in rewards if entry.amount is not None)
    return f"{len(rewards)} {'entry' if len(rewards) == 1 else 'entries'} of the reward were about it: {total:+.3f}."

"""The verdict on a run in sentences, and the five answers at its end."""

from collections.abc import Mapping
from statistics import fmean

from esper_ray.karn.reports.html.elements import Markup, joined, paragraph, table, tag
from esper_ray.karn.reports.html.numbers import counted, percent, shown
from esper_ray.karn.reports.html.run.content import RunContent
from esper_ray.nissa.state.answers import Answer, Level, Sight, answers, gain

QUESTIONS = {
    "alive": "Is it alive?",
    "learning": "Is the policy learning?",
    "growing": "Do the networks grow?",
    "explained": "Is it explained?",
    "safe": "Is it safe?",
}
LEVELS = {"ok": "\u2713 ok", "look": "! look", "wrong": "\u2717 wrong", "unknown": "? unknown"}
"""Symbol and word of each level."""
ENDS: Mapping[str, Level] = {"finished": "ok", "interrupted": "look", "failed": "wrong"}
"""Level of the first answer, by status of a run that has ended."""
FEW_CONTROLS = 5
"""Number of controls below which their spread is hardly known."""


def verdict(content: RunContent) -> list[Markup]:
    """Paragraphs: what was done, what came out, what went wrong."""
    sentences = [_done(content), _gained(content), _learned(content), _cost(content), _safety(content)]
    first, *others = [sentence for sentence in sentences if sentence]
    return [paragraph(" ".join([first, *others]), class_="lead"), paragraph(_evidence_note(content), class_="soft")]


def _done(content: RunContent) -> str:
    done, planned = len(content.state.rounds), content.config.ppo.rounds
    work = f"{counted(len(content.outcomes), 'episode')} and {counted(content.state.totals.steps, 'step')}"
    if content.status == "finished" and done == planned:
        return f"The run finished: {counted(done, 'round')} with {work}."
    words = {"interrupted": "was interrupted", "failed": "failed", "finished": "finished"}
    end = words.get(content.status, f"has the status {content.status}")
    return f"The run {end} after {done} of {counted(planned, 'round')}; its log holds {work}."


def _gained(content: RunContent) -> str:
    found = gain(content.state)
    recent = [o.val_accuracy_pp for o in content.state.recent_outcomes if o.val_accuracy_pp is not None]
    if not recent:
        return "No episode is over, so nothing can be said about its networks."
    ended = (
        f"Its {counted(len(recent), 'newest episode')} ended at {fmean(recent):.1f} % validation accuracy on average"
    )
    if len(recent) == 1:
        ended = f"Its only episode ended at {recent[0]:.1f} % validation accuracy"
    if found is None:
        return f"{ended}. No control without growth was measured, so a gain from growth is not known."
    control = fmean(content.state.control_accuracies_pp)
    direction = "more" if found.mean_pp >= 0 else "less"
    text = (
        f"{ended}, {abs(found.mean_pp):.1f} points {direction} than the same host without growth ({control:.1f} %, "
        f"n = {found.controls}); the 95 % bootstrap interval of the gain is {found.low_pp:+.1f} to "
        f"{found.high_pp:+.1f} points."
    )
    if found.low_pp <= 0 <= found.high_pp:
        text += " It includes zero: a gain is not shown."
    if found.controls < FEW_CONTROLS:
        few = counted(found.controls, "control")
        text += f" It rests on {few}: how much controls differ from seed to seed is hardly known."
    return text


def _learned(content: RunContent) -> str:
    rounds = content.state.rounds
    if len(rounds) < 2:
        return ""
    first, last = rounds[0]["val_accuracy_ratio"], rounds[-1]["val_accuracy_ratio"]
    returns = f"{shown(rounds[0]['return_mean'], '+.2f')} to {shown(rounds[-1]['return_mean'], '+.2f')}"
    return (
        f"From the first to the last round the mean accuracy went from {percent(first)} to {percent(last)} "
        f"(n = {rounds[0]['episodes']} and {rounds[-1]['episodes']} episodes), the mean return from {returns}."
    )


def _cost(content: RunContent) -> str:
    rounds = content.state.rounds
    if not rounds:
        return ""
    kept = sum(record.fossilized for record in content.state.blueprints.values())
    pruned = sum(record.pruned for record in content.state.blueprints.values())
    growth = shown(rounds[-1]["growth_ratio"], ".2f")
    text = f"In the last round a network had {growth} times the parameters of its host on average."
    return f"{text} Of all seeds {kept:,} were fossilized and {pruned:,} pruned."


def _safety(content: RunContent) -> str:
    totals = content.state.totals
    rollbacks, episodes = sum(totals.rollbacks.values()), len(content.outcomes)
    share = f" ({percent(rollbacks / episodes)} of {counted(episodes, 'episode')})" if episodes else ""
    begun = sum(totals.anomalies.values())
    parts = [
        f"{counted(rollbacks, 'rollback')}{share if rollbacks else ''}",
        counted(begun, "anomaly").replace("anomalys", "anomalies"),
        counted(sum(totals.faults.values()), "fault"),
    ]
    return f"It had {parts[0]}, {parts[1]} and {parts[2]} of processes or places."


def _evidence_note(content: RunContent) -> str:
    return (
        "Accuracies are those of the validation split, which rewards and gates use, too; the test split is used by "
        "esper evaluate alone. Intervals are of percentiles of 1,000 bootstrap samples, over episodes and controls "
        "that are not paired."
    )


def final_answers(content: RunContent) -> dict[str, Answer]:
    """The five answers. A report has no clock: whether a run that has not ended still lives is unknown."""
    found = answers(content.state, Sight(None))
    done, planned = len(content.state.rounds), content.config.ppo.rounds
    place = f"{done} of {counted(planned, 'round')} done"
    if content.status not in ENDS:
        reason = ("A report has no clock. esper flight shows the last beat of a driver.",)
        found["alive"] = Answer("unknown", f"{content.status}, {place}", because=reason)
    else:
        found["alive"] = Answer(ENDS[content.status], f"{content.status}, {place}")
    return found


def answers_table(content: RunContent) -> Markup:
    """The five answers with their reasons."""
    rows = []
    for name, answer in final_answers(content).items():
        level = tag("span", LEVELS[answer.level], class_=f"level {answer.level}")
        reasons = list(answer.because)
        if answer.since is not None:
            reasons.append(f"since round {answer.since + 1}")
        because = joined(tag("div", reason) for reason in reasons) if reasons else Markup("&ndash;")
        rows.append((QUESTIONS[name], level, answer.text, because))
    return tag("div", table(("question", "level", "answer", "because"), rows, numbers_from=99), class_="answers")

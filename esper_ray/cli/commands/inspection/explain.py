"""``esper explain``: the entries of a step's reward, and seed stories."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.records import LedgerEntry, Record
from esper_ray.simic.ledger import Ledger

if TYPE_CHECKING:
    from esper_ray.karn.questions.account import PaidEntry, StepAccount
    from esper_ray.nissa.runs.run_directory import RunDirectory

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="run directory", metavar="RUN")],
    episode: Annotated[int | None, typer.Option(min=0, help="number of the episode within the run")] = None,
    step: Annotated[
        int | None, typer.Option(min=1, help="step of the episode, counted from 1; default: the whole episode")
    ] = None,
    env: Annotated[int | None, typer.Option(min=0, help="environment whose last episode is explained")] = None,
    slot: Annotated[str | None, typer.Option(help="print the stories of the seeds in this slot")] = None,
) -> None:
    """Explain the reward of an episode, entry by entry.

    Each entry has an amount, a slot, the step that caused it and a reason; with --step only those of one step. With
    --slot: for each seed its germination with the probability of that choice, its gates, its contribution, its end.

    Example: esper explain runs/my-run --episode 0 --step 12
    """
    from esper_actors.rollout.replay import recorded_episode
    from esper_ray.karn.questions.account import paid_entries, step_account
    from esper_ray.nissa.log.parquet import EventLogError
    from esper_ray.nissa.runs.run_directory import RunDirectory

    directory = RunDirectory.open(run)
    if (episode is None) is (env is None):
        both = "" if episode is None else ", not both"
        raise UsageError(f"either --episode or --env is needed{both}: which episode is it about?")
    if slot is not None and step is not None:
        raise UsageError("--slot is about whole episodes and --step about one step: leave one of them out")
    content = directory.event_log.read(evidence=False)
    if episode is None:
        episode = _last_episode(content.records(("outcome",)), env)
    records = [with_nan(record) for record in recorded_episode(content.records(), episode)]
    if slot is not None:
        _print_stories(directory, records, episode, slot)
        return
    steps = [record for record in records if record["kind"] == "env_epoch"]
    if step is not None and step > len(steps):
        raise UsageError(f"--step {step}: episode {episode} has the steps 1 to {len(steps)}")
    try:
        ledger = Ledger(entry for record in steps for entry in entries_of(record))
    except ValueError as error:
        raise EventLogError(f"episode {episode} of {run}: {error}") from error
    config = directory.config().reward
    mode = config.mode if config.family == "contribution" else f"{config.mode} (family {config.family})"
    typer.echo(f"episode {episode} of {run}, seed {records[0]['seed']}, {len(steps)} steps, reward {mode}")
    if step is None:
        lines = episode_account(ledger, steps)
    else:
        lines = step_lines(step_account(paid_entries(steps), step), steps[step - 1], step)
    for line in lines:
        typer.echo(line)


def _last_episode(outcomes: Iterable[Record], env: int | None) -> int:
    """The last complete episode of an environment.

    Args:
        outcomes: ends of episodes, in order.

    Raises:
        UsageError: if it has none.
    """
    ends = [(event["env"], event["episode"]) for event in outcomes]
    episodes = [episode for environment, episode in ends if environment == env]
    if not episodes:
        environments = ", ".join(map(str, sorted({environment for environment, _ in ends}))) or "none"
        raise UsageError(f"--env {env}: it has no complete episode; environments with one: {environments}")
    return int(episodes[-1])


def _print_stories(directory: "RunDirectory", records: Sequence[Record], episode: int, slot: str) -> None:
    from esper_ray.karn.reports.seed_story import seed_stories, story_lines

    slots = directory.config().growth.slots
    if slot not in slots:
        raise UsageError(f"--slot {slot}: it must be one of {', '.join(slots)}")
    samples = directory.samples.of_kinds(("decision",))
    decisions = [with_nan(sample) for sample in samples if sample["episode"] == episode]
    stories = seed_stories(records, slot, decisions)
    end = records[-1]
    typer.echo(
        f"episode {episode} of environment {end['env']}, round {end['round']}: "
        f"{len(stories)} {'seed' if len(stories) == 1 else 'seeds'} in {slot}, return {end['total_reward']:+.4f}, "
        f"validation {end['val_accuracy_pp']:.2f} %"
    )
    for story in stories:
        typer.echo("")
        for line in story_lines(story):
            typer.echo(line)


def with_nan(record: Record) -> Record:
    """``record`` with NaN for its own numbers that were not finite. The log holds null for them."""
    return {**record, **{name: math.nan for name in record.get("nonfinite", ()) if name in record}}


def entries_of(record: Record) -> list[LedgerEntry]:
    """The ledger entries of one recorded step."""
    step = record["step"] - 1
    amounts = [math.nan if e["amount"] is None else e["amount"] for e in record["entries"]]
    return [
        LedgerEntry(e["source"], amount, step, e["cause_step"], e["slot"], e["why"])
        for e, amount in zip(record["entries"], amounts, strict=True)
    ]


def step_lines(account: "StepAccount", record: Record, step: int) -> list[str]:
    """Decision, reward and later payments of ``step``, counted from 1, as text.

    Args:
        account: payments around it, all of them finite.
    """
    where = f" {record['slot']}" if record["slot"] else ""
    effect = "" if record["success"] else ", without effect"
    reason = f" ({record['why']})" if record["why"] else ""
    reward, later = _sum(account.booked), _sum(account.later)
    lines = [
        f"step {step}: {record['operation']}{where}{effect}{reason}; "
        f"validation {record['val_accuracy_pp']:.2f} %, loss {_loss(record)}",
        "",
        f"reward {reward:+.4f}, the sum of {_entries(len(account.booked))}",
        *_table([_row(entry, _cause(entry)) for entry in account.booked]),
    ]
    if account.later:
        lines += [
            "",
            f"caused by step {step} and paid later {later:+.4f}, in {_entries(len(account.later))}",
            *_table([_row(entry, f"at step {entry.step}") for entry in account.later]),
        ]
    return lines


def _sum(entries: Iterable["PaidEntry"]) -> float:
    return sum((entry.amount for entry in entries if entry.amount is not None), 0.0)


def _loss(record: Record) -> str:
    return "not measured" if record["val_loss"] is None else f"{record['val_loss']:.4f}"


def episode_account(ledger: Ledger, steps: Sequence[Record]) -> list[str]:
    """Text of an episode's rewards by source and slot, and of its largest steps."""
    by_slot = {slot or "the whole network": amount for slot, amount in ledger.by_slot().items()}
    caused = ledger.by_cause(len(steps))
    ranked = sorted(range(len(steps)), key=lambda index: -abs(caused[index]))[:5]
    decisions = {
        f"step {index + 1}: {steps[index]['operation']} {steps[index]['slot'] or ''}".strip(): float(caused[index])
        for index in ranked
    }
    lines = [f"return {ledger.total():+.4f}, the sum of {_entries(len(ledger.entries))}"]
    sums: dict[str, Sequence[tuple[str, float]]] = {
        "by source": tuple(ledger.by_source().items()),
        "by slot": tuple(by_slot.items()),
        "decisions that mattered most": tuple(decisions.items()),
    }
    for title, rows in sums.items():
        ranked_rows = sorted(rows, key=lambda row: -abs(row[1]))
        lines += ["", title, *_table([(name, f"{amount:+.4f}") for name, amount in ranked_rows])]
    return lines


def _row(entry: "PaidEntry", when: str) -> tuple[str, ...]:
    return f"{entry.amount:+.4f}", entry.source, entry.slot or "-", when, entry.reason


def _cause(entry: "PaidEntry") -> str:
    return "this step" if entry.cause == entry.step else f"because of step {entry.cause}"


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows in aligned columns, indented."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]

"""Event logs as lines of JSON: a changed value is refused by every reader, a lost line as evidence."""

import json
from itertools import pairwise

from cli_builders import call
from damage_builders import places

from corpus.cases import Case, Refusal
from corpus.mutations import FOREIGN, as_json, changed, file_damage, pick, replace, tree_damage
from corpus.scenes import LINES
from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.log.events import INTEGRITY
from esper_ray.nissa.log.sql import EventDatabase
from esper_ray.nissa.runs.run_directory import RunDirectory

INPUTS = (LINES,)
TAIL = f"{LINES}/events.jsonl"


def printed(folder):
    """The events that the command prints."""
    answer = call("events", folder / LINES, "--limit", "0", "--format", "json", "--evidence")
    return answer if answer.code else [json.loads(line) for line in answer.out.splitlines()]


def tabled(folder):
    """Numbers of the events in the tables of the database, which the list of events must have, too."""
    run = RunDirectory.open(folder / LINES)
    events = list(run.event_log.records(evidence=True))
    with EventDatabase(run.event_log, evidence=True) as database:
        kinds = sorted({event["kind"] for event in events})
        counts = {kind: database.ask(f'SELECT list(seq ORDER BY seq) FROM "{kind}"').rows[0][0] for kind in kinds}
    assert counts == {kind: [event["seq"] for event in events if event["kind"] == kind] for kind in kinds}
    return counts


def unchecked(folder):
    """Without ``--evidence`` what is missing at the end is passed over with a warning."""
    answer = call("events", folder / LINES, "--limit", "0", "--format", "json")
    return Refusal(answer.err) if answer.code == 2 else [json.loads(line) for line in answer.out.splitlines()]


def explained(folder):
    """The account of an episode."""
    return call("explain", folder / LINES, "--env", "0")


def replayed(folder):
    """The replay of an episode: a difference is reported with exit code 1."""
    answer = call("replay", folder / LINES, "--episode", "0")
    return answer.out if answer.code == 1 else answer


def shorter(originals):
    """A rule: the lines of the file that hold an object are some of those of the undamaged file, in order.

    Then the events are some of them, and an account or a replay is that of a log from which lines were lost.
    """

    def rule(folder, result, _undamaged):
        places = {json.dumps(json.loads(line)): number for number, line in enumerate(originals)}
        numbers = []
        for line in (folder / TAIL).read_bytes().splitlines():
            try:
                tree = json.loads(line)
            except ValueError:
                continue
            numbers.append(places.get(json.dumps(tree), -1))
        events = [json.loads(line) for line in originals]
        known = not isinstance(result, list) or all(event | {"schema": EVENT_SCHEMA} in events for event in result)
        return known and all(one < other for one, other in pairwise([-1, *numbers]))

    return rule


def cases(rng, scenes):
    size = scenes.size(TAIL)
    lines = (scenes.path / TAIL).read_bytes().splitlines(keepends=True)
    rules = dict.fromkeys((unchecked, explained, replayed), shorter(lines))  # evidence is the undamaged log or refused
    while True:
        attempt = pick(rng, [printed, printed, tabled, unchecked, explained, replayed])
        kind = pick(rng, ["file", "file", "leaf", "leaf", "leaf", "lines", "lines", "foreign", "integrity", "folder"])
        number, other = (int(value) for value in rng.integers(len(lines), size=2))
        more = list(lines)
        if kind == "file":
            what, damage = file_damage(rng, TAIL, size)
        elif kind == "leaf":
            tree = json.loads(lines[number])
            assert list(places(tree))
            what, _, changed_tree = tree_damage(rng, tree)
            more[number] = json.dumps(changed_tree).encode() + b"\n"
            what, damage = f"line {number + 1}: {what}", lines_of(more)
        elif kind == "lines":
            what, more = rearranged(rng, lines, number, other)
            what, damage = f"line {number + 1} {what} ({other + 1})", lines_of(more)
        elif kind == "foreign":
            what = pick(rng, FOREIGN)
            more.insert(number, FOREIGN[what] + b"\n")
            what, damage = f"{what} before line {number + 1}", lines_of(more)
        elif kind == "integrity":
            name = f"{LINES}/{INTEGRITY}"
            tree = json.loads((scenes.path / name).read_bytes())
            if number % 2:
                what, damage = file_damage(rng, name, scenes.size(name))
            else:
                what, _, tree = tree_damage(rng, tree)
                what, damage = f"integrity: {what}", changed(name, lambda _, tree=tree: as_json(tree))
        else:
            what, damage = a_folder(rng, number)
        yield Case(f"{attempt.__name__}, {what}", attempt, damage, accepts=rules.get(attempt))


def rearranged(rng, lines, number, other):
    """A description and the lines, of which one is elsewhere, doubled or removed."""
    without = lines[:number] + lines[number + 1 :]
    kinds = {
        "removed": without,
        "doubled": [*lines[: number + 1], *lines[number:]],
        "moved": [*without[:other], lines[number], *without[other:]],
        "joined": [*lines[:number], lines[number].rstrip(b"\n"), *lines[number + 1 :]],
        "repeated from": lines[: number + 1] + lines[max(0, number - other) :],
    }
    what = pick(rng, kinds)
    return what, kinds[what]


def lines_of(lines):
    """A damage that replaces the lines of the log."""
    return lambda folder: replace(folder / TAIL, b"".join(lines))


def a_folder(rng, number):
    """Something foreign beside the log."""
    kinds = {
        "a copied file": lambda folder: (folder / f"{LINES}/events copy {number}.jsonl").write_bytes(b"x"),
        "a file as folder of parts": lambda folder: (folder / f"{LINES}/events").write_bytes(b"x" * number),
        "a foreign folder of parts": lambda folder: (folder / f"{LINES}/events/x{number}").mkdir(parents=True),
        "an empty part": lambda folder: (folder / f"{LINES}/events/{0:012d}-{number:012d}").mkdir(parents=True),
    }
    what = pick(rng, kinds)
    return f"{what} {number}", kinds[what]

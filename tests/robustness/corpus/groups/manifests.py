"""Manifests and configurations of runs, and their tables of rounds and faults."""

import json

from cli_builders import call

from corpus import cases as judged
from corpus.cases import MOST_LINES, Case
from corpus.mutations import (
    as_json,
    changed,
    doubled_key,
    file_damage,
    in_place_of,
    pick,
    remove,
    replace,
    tree_damage,
)
from corpus.scenes import OTHER, RUN
from esper_actors.training.run_preparation import prepare_run
from esper_ray.nissa.runs.run_directory import RunDirectory

INPUTS = (RUN, OTHER)
MANIFEST, CONFIG = f"{RUN}/manifest.json", f"{RUN}/config.yaml"
SMALL_FILES = ("rounds.csv", "timings.csv", "faults.jsonl", "integrity.json", "events.jsonl", "samples.jsonl")
LINEAGE = ({}, {"run": 5, "round": 0}, {"run": "x"}, {"run": "x", "round": True}, {"run": "x", "round": "1"}, [], "x")
EXTENSIONS = (5, "x", {}, [5], None, [{}], [{"time": 1}], [None], True)


def described(folder):
    """What commands read of the run: configuration, rounds, faults, number of events."""
    run = RunDirectory.open(folder / RUN)
    rounds = [run.rounds(), run.timings()]
    return json.dumps([run.config().digest(), rounds, [f.describe() for f in run.faults()], len(list(run.events()))])


def printed(folder):
    """The events; the command reads manifest and log."""
    return call("events", folder / RUN, "--limit", "0", "--format", "json")


def prepared(folder):
    """Configuration, rounds and tables with which the run would be resumed."""
    path = folder / RUN
    run = prepare_run(RunDirectory.open(path).config(), path)
    run.release()
    return run.config.digest(), run.rounds_done, run.directory.rounds(), run.directory.timings()


def resumed(folder):
    """The command itself; nothing is left to do for a finished run."""
    answer = call("train", "ppo", "--serial", "--resume", folder / RUN)
    return answer if answer.code else "nothing to do"


def extended(folder):
    """The run with one more round: accepted damage shows in what it becomes."""
    return judged.extended(folder / RUN, folder / "extension", 3)


def says(_folder, result, undamaged):
    """Whether only faults differ: a damaged line of theirs is left out."""
    if not result.startswith("["):
        return False
    one, other = json.loads(result), json.loads(undamaged)
    return [*one[:2], one[3]] == [*other[:2], other[3]]


def fewer_events(folder, result, undamaged):
    """Without ``--evidence`` missing events are warnings."""
    return not (folder / RUN / "events").exists() and set(result.splitlines()) <= set(undamaged.splitlines())


def cases(rng, scenes):
    tree = json.loads((scenes.path / MANIFEST).read_bytes())
    config = RunDirectory.open(scenes.run).config().model_dump(mode="json")
    small = [name for name in SMALL_FILES if (scenes.run / name).exists()]
    while True:
        attempt = pick(rng, [described, printed, prepared, resumed, extended])
        kind = pick(
            rng, ["leaf", "leaf", "leaf", "file", "config", "config", "doubled", "table", "table", "known", "swap"]
        )
        number, must = int(rng.integers(1, 1000)), False
        if kind == "leaf":
            what, _, other = tree_damage(rng, tree)
            what, damage = f"manifest: {what}", changed(MANIFEST, lambda _, other=other: as_json(other))
        elif kind == "file":
            name = pick(rng, [MANIFEST, CONFIG])
            what, damage = file_damage(rng, name, scenes.size(name))
        elif kind == "config":
            what, _, other = tree_damage(rng, config)
            what, damage = f"config: {what}", changed(CONFIG, lambda _, other=other: as_json(other))
        elif kind == "doubled":
            name, source = pick(rng, [(MANIFEST, tree), (CONFIG, config)])
            what, text = doubled_key(rng, as_json(source).decode())
            what, must = f"{name}: {what}", True

            def damage(folder, name=name, text=text):
                replace(folder / name, text.encode())

        elif kind == "table":
            name = f"{RUN}/{pick(rng, small)}"
            what, damage = file_damage(rng, name, scenes.size(name))
            attempt = pick(rng, [described, described, prepared])
        elif kind == "known":
            key, value = pick(rng, [("lineage", value) for value in LINEAGE] + [("extensions", v) for v in EXTENSIONS])
            what, must = f"manifest: {key} = {value!r}", key == "extensions"
            damage = changed(MANIFEST, lambda _, key=key, value=value: as_json(tree | {key: value}))
        else:
            what, damage = exchanged(rng, number)
        accepts = {described: says, printed: fewer_events}.get(attempt)
        yield Case(f"{attempt.__name__}, {what}", attempt, damage, accepts=accepts, must_refuse=must, lines=MOST_LINES)


def exchanged(rng, number):
    """Files of another run, missing files, and folders in their places."""
    name = f"{RUN}/{pick(rng, ['manifest.json', 'config.yaml', 'rounds.csv', 'checkpoints', 'events', 'samples'])}"
    kinds = {
        "of another run": lambda folder: (
            remove(folder / name),
            (folder / name.replace(RUN, OTHER, 1)).rename(folder / name),
        ),
        "missing": lambda folder: remove(folder / name),
        "a folder": lambda folder: (in_place_of(folder / name, "a folder"), (folder / name / f"x{number}").mkdir()),
        "a file": lambda folder: (remove(folder / name), (folder / name).write_bytes(b"x" * number)),
        "a pipe": lambda folder: in_place_of(folder / name, "a pipe"),
        "a link to itself": lambda folder: in_place_of(folder / name, "a link to itself"),
        "a link to nothing": lambda folder: in_place_of(folder / name, "a link to nothing"),
    }
    what = pick(rng, kinds)
    return f"{name}: {what} ({number})", kinds[what]

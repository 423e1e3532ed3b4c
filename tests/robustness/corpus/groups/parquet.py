"""Compacted event logs and samples: digests hold as evidence, and whatever else is read without an accident."""

import json
import shutil

from cli_builders import call

from corpus.cases import Case
from corpus.mutations import as_json, changed, copied, doubled_key, file_damage, pick, remove, replace, tree_damage
from corpus.scenes import OTHER, RUN
from esper_ray.nissa.log.sql import EventDatabase
from esper_ray.nissa.runs.run_directory import RunDirectory

INPUTS = (RUN, OTHER)


def evidence(folder):
    """Events and samples, with their digests."""
    run = RunDirectory.open(folder / RUN)
    events = list(run.events(evidence=True))
    samples = run.samples.read(evidence=True)
    return json.dumps([events, list(samples.records())], sort_keys=True)


def evidence_in_tables(folder):
    """Counts of all tables."""
    run = RunDirectory.open(folder / RUN)
    with EventDatabase(run.event_log, run.samples, evidence=True) as database:
        return {name: database.ask(f'SELECT count(*) FROM "{name}"').rows[0][0] for name in database.tables()}


def printed(folder):
    """The events without evidence."""
    return call("events", folder / RUN, "--limit", "0", "--format", "json")


def explained(folder):
    """The account of an episode, without evidence."""
    return call("explain", folder / RUN, "--env", "0")


def tabled(folder):
    """A query over all rows, without evidence."""
    run = RunDirectory.open(folder / RUN)
    with EventDatabase(run.event_log, run.samples) as database:
        return database.ask("SELECT * FROM outcome ORDER BY seq").rows


def unchecked(_folder, _result, _undamaged):
    """Digests are compared under ``--evidence`` only: other values of the right type are read as they are."""
    return True


def fewer_samples(_folder, result, undamaged):
    """Samples have no consecutive numbers: whole folders of them may be missing."""
    if isinstance(result, dict):
        return all(count == undamaged[name] or count == 0 for name, count in result.items())
    events, samples = json.loads(result)
    return events == json.loads(undamaged)[0] and samples == []


def cases(rng, scenes):
    files = [name for name in scenes.files(RUN) if "/events/" in name or "/samples/" in name]
    parts = sorted({name.rpartition("/")[0] for name in files})
    other_files = {name.rpartition("/")[2]: name for name in scenes.files(OTHER) if "/events/" in name}
    while True:
        strict = rng.random() < 0.6
        attempt = pick(rng, [evidence, evidence, evidence_in_tables] if strict else [printed, explained, tabled])
        kind = pick(rng, ["file", "file", "file", "index", "index", "doubled", "swap", "part"])
        name, number = pick(rng, files), int(rng.integers(1, 1000))
        part = pick(rng, parts)
        index = f"{part}/part.json"
        if kind == "file":
            what, damage = file_damage(rng, name, scenes.size(name))
        elif kind == "index":
            what, _, tree = tree_damage(rng, json.loads((scenes.path / index).read_bytes()))
            what, damage = f"{index}: {what}", changed(index, lambda _, tree=tree: as_json(tree))
        elif kind == "doubled":
            what, text = doubled_key(rng, as_json(json.loads((scenes.path / index).read_bytes())).decode())
            what = f"{index}: {what}"

            def damage(folder, index=index, text=text):
                replace(folder / index, text.encode())

        elif kind == "swap":
            last = name.rpartition("/")[2]
            others = [*other_files.values(), *(file for file in files if file != name)]
            source = other_files.get(last) if number % 2 and last in other_files else pick(rng, others)
            what = f"{name} is {source}"

            def damage(folder, name=name, source=source):
                remove(folder / name)
                shutil.copy(folder / source, folder / name)

        else:
            what, damage = a_part(rng, part, number)
        missing = kind == "part" and "/samples/" in part
        accepts = (fewer_samples if missing else None) if strict else unchecked
        yield Case(f"{attempt.__name__}, {what}", attempt, damage, accepts=accepts)


def a_part(rng, part, number):
    """A folder of Parquet files that is moved, copied or removed."""
    first, last = (int(text) for text in part.rpartition("/")[2].split("-"))
    above = part.rpartition("/")[0]
    kinds = {
        "a copy": lambda folder: copied(folder / part, folder / f"{part} copy {number}"),
        "renamed": lambda folder: (folder / part).rename(folder / f"{above}/x{number}"),
        "earlier": lambda folder: (folder / part).rename(folder / f"{above}/{first:012d}-{last - number % 7 - 1:012d}"),
        "later": lambda folder: (folder / part).rename(folder / f"{above}/{first + number:012d}-{last + number:012d}"),
        "an overlapping copy": lambda folder: copied(
            folder / part, folder / f"{above}/{first + number:012d}-{last + number:012d}"
        ),
        "removed": lambda folder: remove(folder / part),
        "a file": lambda folder: (remove(folder / part), (folder / part).write_bytes(b"x" * number)),
        "a link to itself": lambda folder: (remove(folder / part), (folder / part).symlink_to(part)),
        "a further file": lambda folder: (folder / part / f"more{number}.parquet").write_bytes(b"PAR1"),
        "all parts a file": lambda folder: (remove(folder / above), (folder / above).write_bytes(b"x" * number)),
    }
    what = pick(rng, kinds)
    return f"{part}: {what} ({number})", kinds[what]

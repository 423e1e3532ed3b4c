"""Sweep directories: every leaf and byte of ``sweep.json``, and trials that are none of the sweep."""

import json
import shutil

from cli_builders import call
from damage_builders import value_at

from corpus.cases import MOST_LINES, Case
from corpus.mutations import as_json, changed, copied, doubled_key, file_damage, pick, remove, replace, tree_damage
from corpus.scenes import OTHER, SWEEP
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

INPUTS = (SWEEP, OTHER)
FILE = f"{SWEEP}/sweep.json"
PEOPLE = ("started", "command", "versions")
"""Keys of ``sweep.json`` that no command reads."""


def opened(folder):
    """Definition and results."""
    sweep = SweepDirectory.open(folder / SWEEP)
    sweep.check()
    results = [(r.trial, r.status, r.round_index, r.score_pp, r.rounds) for r in sweep.results()]
    tree = {"sweep": sweep.sweep.model_dump(mode="json"), "base": sweep.base.model_dump(mode="json")}
    return json.dumps({**tree, "results": results})


def resumed(folder):
    """The command, for what cannot be resumed."""
    return call("sweep", "--serial", "--resume", folder / SWEEP)


def shows(path, tree):
    """A judge: the changed value is in effect, or the key is for people."""

    def right(_folder, result, undamaged):
        if path[0] in PEOPLE:
            return result == undamaged
        if path[0] == "host_parameters":  # a count that nothing else determines changes the objective
            value = value_at(tree, path)
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        try:
            value, present = value_at(tree, path), value_at(json.loads(result), path)
        except (KeyError, IndexError):
            return False
        return value == present and isinstance(value, bool) is isinstance(present, bool)

    return right


def cases(rng, scenes):
    tree = json.loads((scenes.path / FILE).read_bytes())
    (trial,) = (path.name for path in (scenes.path / SWEEP / "trials").iterdir())
    size, text = scenes.size(FILE), as_json(tree).decode()
    while True:
        kind = pick(rng, ["file", "file", "leaf", "leaf", "leaf", "sweep", "doubled", "trial", "trial"])
        if kind == "file":
            what, damage = file_damage(rng, FILE, size)
            yield Case(what, opened, damage, accepts=says, lines=MOST_LINES)
        elif kind == "leaf":
            what, path, other = tree_damage(rng, tree)
            damage = changed(FILE, lambda _, other=other: as_json(other))
            yield Case(what, opened, damage, accepts=shows(path, other), lines=MOST_LINES)
        elif kind == "sweep":
            key = pick(rng, ["schema", "sweep", "base", "host_parameters"])
            value = pick(rng, [None, True, 0, -1, 2, 1.5, "x", "1", [], {}, [1], {"a": 1}, 10**400])
            attempt = pick(rng, [opened, resumed])
            damage = changed(FILE, lambda _, key=key, value=value: as_json(tree | {key: value}))
            yield Case(
                f"{attempt.__name__}, {key} = {value!r:.40}",
                attempt,
                damage,
                must_refuse=True,
                lines=MOST_LINES,
            )
        elif kind == "doubled":
            what, doubled = doubled_key(rng, text)
            yield Case(
                what,
                opened,
                lambda folder, doubled=doubled: replace(folder / FILE, doubled.encode()),
                must_refuse=True,
            )
        else:
            what, damage = a_trial(rng, scenes, f"{SWEEP}/trials/{trial}")
            yield Case(what, opened, damage, accepts=other_numbers, lines=MOST_LINES)


def says(folder, result, _undamaged):
    """Whether everything in the file is in effect."""
    tree, shown = json.loads((folder / FILE).read_bytes()), json.loads(result)
    return all(tree[key] == shown[key] for key in ("sweep", "base"))


def other_numbers(_folder, result, undamaged):
    """Tables of rounds and the status have no digest; definition and number of trials are as before."""
    one, other = json.loads(result), json.loads(undamaged)
    return one["sweep"] == other["sweep"] and len(one["results"]) == len(other["results"])


def a_trial(rng, scenes, trial):
    """A damaged run directory of a trial."""
    name, number = f"{trial}/{pick(rng, ['manifest.json', 'config.yaml', 'rounds.csv'])}", int(rng.integers(1, 1000))
    kinds = {
        "a run of another sweep": lambda folder: (remove(folder / trial), copied(folder / OTHER, folder / trial)),
        "a configuration of another run": lambda folder: (
            remove(folder / trial / "config.yaml"),
            shutil.copy(folder / OTHER / "config.yaml", folder / trial / "config.yaml"),
        ),
        "a foreign folder": lambda folder: (folder / f"{SWEEP}/trials/notes {number}").mkdir(),
        "an empty generation": lambda folder: (folder / f"{trial}.g{number}").mkdir(),
        "a generation without number": lambda folder: copied(folder / trial, folder / f"{trial}.g1x{number}"),
        "no folder of checkpoints": lambda folder: remove(folder / trial / "checkpoints"),
        "a file as trial": lambda folder: (remove(folder / trial), (folder / trial).write_bytes(b"x" * number)),
        "a file as folder of trials": lambda folder: (
            remove(folder / f"{SWEEP}/trials"),
            (folder / f"{SWEEP}/trials").write_bytes(b"x" * number),
        ),
        "no folder of trials": lambda folder: remove(folder / f"{SWEEP}/trials"),
    }
    what = pick(rng, [*kinds, "file", "file", "file"])
    if what == "file":
        return file_damage(rng, name, scenes.size(name))
    return f"{what} {number}", kinds[what]

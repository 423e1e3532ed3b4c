"""Copies of runs in a storage, and places that are none."""

import json

from cli_builders import SMALL, call

from corpus.cases import MOST_LINES, Case
from corpus.mutations import PLACES, as_json, changed, copied, file_damage, in_place_of, pick, remove, tree_damage
from corpus.scenes import RUN, STORAGE
from esper_actors.training.run_preparation import prepare_run, run_to_resume
from esper_policies.bundle import weights_digest

INPUTS = (STORAGE,)
FETCHED = "fetched"
COPY = f"{STORAGE}/{RUN}"


def fetched(folder):
    """The run that would be resumed from the copy: checkpoint, events and rounds."""
    try:
        run = run_to_resume(f"file://{folder}/{COPY}", folder / FETCHED)
        prepared = prepare_run(run.config(), run)
        prepared.release()
        checkpoint = prepared.checkpoint
        events = json.dumps(list(run.events(evidence=True)))
        weights = None if checkpoint is None else weights_digest(checkpoint.learner.tensors)
        return weights, events, run.rounds()
    finally:
        if (folder / FETCHED).exists():
            remove(folder / FETCHED)


def commanded(folder):
    """The command by name; a new directory is fetched, or nothing is left."""
    words = ("--run-id", RUN, "--storage", folder / STORAGE, "--telemetry-dir", folder / FETCHED)
    answer = call("train", "ppo", "--serial", *SMALL, "--rounds", "2", "--seed", "42", *words)
    if (folder / FETCHED).exists():
        remove(folder / FETCHED)
    return answer if answer.code else "fetched"


def numbers_without_digest(_folder, result, undamaged):
    """Tables of rounds have no digest: another number in a cell is read as it is."""
    return result != "fetched" and result[:2] == undamaged[:2] and len(result[2]) == len(undamaged[2])


def an_older_checkpoint(folder, result, undamaged):
    """A checkpoint without its state is not a complete copy: the one before it is used."""
    incomplete = not (folder / COPY / "checkpoints" / "round-00002" / "state.json").is_file()
    return incomplete and (result == "fetched" or result[1:] == undamaged[1:])


def started(place, option="--storage"):
    """A new run with a copy in ``place``, or one that is resumed from there."""

    def attempt(folder):
        words = (option, place.replace("{f}", str(folder)))
        return call("train", "ppo", "--serial", *SMALL, "--rounds", "1", *words, "--telemetry-dir", folder / FETCHED)

    return attempt


SCHEMES = ("ftp", "nope", "http", "s4", "", "s3x", "file2", "../x", "S3", "gs2", "abc+def")
RESTS = (
    "://a/b",
    "://",
    "://a",
    "://a/b?x=y",
    "://user:secret@a/b",
    "://\u00e4/b",
    "://a b/c",
    "://%zz/b",
    "://a/../b",
)
FILES = ("{f}/storage/run/manifest.json", "/proc/x", "/dev/null/x", "{f}/storage/run/config.yaml/deeper", "/dev/null")


def cases(rng, scenes):
    more = {"lines": MOST_LINES, "scratch": (FETCHED, "lease.json")}
    files = scenes.files(COPY)
    tables = [name for name in files if ".csv.parts" in name]
    lengths = {name: scenes.size(name) for name in files}
    while True:
        kind = pick(rng, ["file", "file", "file", "file", "manifest", "part", "part", "place", "place"])
        attempt = pick(rng, [fetched, fetched, fetched, commanded])
        if kind == "file":
            name = pick(rng, [*files, *tables])
            what, damage = file_damage(rng, name, lengths[name])
            accepts = numbers_without_digest if name in tables else None
            yield Case(
                f"{attempt.__name__}, {what}",
                attempt,
                damage,
                accepts=accepts,
                lines=21,
                scratch=(FETCHED, "lease.json"),
            )
        elif kind == "manifest":
            name = f"{COPY}/manifest.json"
            what, _, tree = tree_damage(rng, json.loads((scenes.path / name).read_bytes()))
            damage = changed(name, lambda _, tree=tree: as_json(tree))
            yield Case(f"{attempt.__name__}, manifest: {what}", attempt, damage, **more)
        elif kind == "part":
            what, damage = a_part(rng, files)
            yield Case(f"{attempt.__name__}, {what}", attempt, damage, accepts=an_older_checkpoint, **more)
        else:
            known = rng.random() < 0.3
            place = pick(rng, FILES) if known else f"{pick(rng, SCHEMES)}{pick(rng, RESTS)}"
            option = "--storage" if known else pick(rng, ["--storage", "--resume"])
            attempt = started(place, option)
            yield Case(f"{option} {place}", attempt, must_refuse=True, scratch=(FETCHED,))


def a_part(rng, files):
    """Files and folders of a copy that are missing, renamed or foreign."""
    name, number = pick(rng, files), int(rng.integers(1, 10_000))
    folder_name = pick(rng, sorted({file.rpartition("/")[0] for file in files}))
    kinds = {
        "removed": (name, lambda folder: remove(folder / name)),
        "removed whole": (folder_name, lambda folder: remove(folder / folder_name)),
        "renamed": (name, lambda folder: (folder / name).rename(folder / f"{name}-{number}")),
        "a foreign file in": (folder_name, lambda folder: (folder / folder_name / f"x{number}.txt").write_text("x")),
        "a numbered file in": (folder_name, lambda folder: (folder / folder_name / f"{number:015d}").write_text("x\n")),
        "a foreign folder in": (folder_name, lambda folder: (folder / folder_name / f"copy {number}").mkdir()),
        "copied": (folder_name, lambda folder: copied(folder / folder_name, folder / f"{folder_name} {number}")),
        **{f"{place} as": (name, lambda folder, place=place: in_place_of(folder / name, place)) for place in PLACES},
    }  # fmt: skip
    kind = pick(rng, kinds)
    what, damage = kinds[kind]
    return f"{kind} {what} ({number})", damage

"""Checkpoints: resuming and exporting from one that was changed, also under a digest that fits."""

import json
import math
import shutil

import torch
from checkpoint_builders import rewrite, rewrite_envelope, state_of
from cli_builders import call
from damage_builders import mutated_tensors, value_at
from safetensors.torch import load

from corpus import cases as judged
from corpus.cases import Case
from corpus.groups.bundles import NUMBERS
from corpus.mutations import copied, file_damage, pick, remove, tree_damage
from corpus.scenes import OTHER, RUN
from esper_actors.training.run_preparation import prepare_run
from esper_policies.bundle import weights_digest
from esper_ray.nissa.runs.run_directory import RunDirectory

INPUTS = (RUN, OTHER)
NEWEST, OLDER = "run/checkpoints/round-00002", "run/checkpoints/round-00001"
FREE = {"seconds", "episode", "val_accuracy_pp"}
"""Numbers of the progress that nothing else determines."""


def prepared(folder):
    """The checkpoint with which the run would be resumed."""
    path = folder / RUN
    run = prepare_run(RunDirectory.open(path).config(), path)
    run.release()
    checkpoint = run.checkpoint
    position = checkpoint.position.model_dump(exclude={"events": {"lines_from", "lines_sha256"}})  # for lines only
    return (
        checkpoint.round_index,
        weights_digest(checkpoint.learner.tensors),
        json.dumps([checkpoint.learner.numbers, position, checkpoint.progress], sort_keys=True),
    )


def exported(folder):
    """What the command says about the exported policy."""
    answer = call("export-policy", folder / RUN, folder / "new.esper")
    if answer.code == 0:
        (folder / "new.esper").unlink()
    return answer if answer.code else answer.out.splitlines()[1]


def resumed(folder):
    """The command itself; nothing is left to do for a finished run."""
    answer = call("train", "ppo", "--serial", "--resume", folder / RUN)
    return answer if answer.code else "nothing to do"


def extended(folder):
    """The run with one more round: accepted damage shows in what it becomes."""
    return judged.extended(folder / RUN, folder / "extension", 3)


def own(folder):
    """Private copies of the files of the newest checkpoint, which are changed in place."""
    for file in (folder / NEWEST).iterdir():
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    return folder / NEWEST


def cases(rng, scenes):
    tree = state_of(scenes.path / NEWEST)
    tensors = load((scenes.path / NEWEST / "learner.safetensors").read_bytes())
    makers = (a_file, a_file, a_leaf, a_leaf, a_bound, a_bound, other_tensors, a_number, swapped, an_envelope, a_folder)
    while True:
        attempt = pick(rng, [prepared, extended, exported, resumed])
        yield pick(rng, makers)(rng, scenes, attempt, tree, tensors)


def case(what, attempt, damage, **more):
    return Case(f"{attempt.__name__}, {what}", attempt, damage, ("round-00002",), **more)


def a_file(rng, scenes, attempt, _tree, _tensors):
    name = f"{NEWEST}/{pick(rng, ['state.json', 'learner.safetensors'])}"
    what, damage = file_damage(rng, name, scenes.size(name))
    return case(what, attempt, damage)


def a_leaf(rng, _scenes, attempt, tree, _tensors):
    what, path, other = tree_damage(rng, tree)

    def damage(folder):
        rewrite(own(folder), lambda state: (state.clear(), state.update(other)))

    def free(_folder, _result, _undamaged):
        value = value_at(other, path)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if path[0] == "progress" and attempt is exported:  # the table of rounds is not read
            return True
        if path[0] == "progress":
            return value in ({}, []) or (number and path[-1] in FREE)
        return path[0] == "numbers" and number and isinstance(value_at(tree, path), float)

    return case(f"resealed, {what}", attempt, damage, accepts=free)


def a_bound(rng, _scenes, attempt, _tree, _tensors):
    """A number of the learner that no data have."""
    places = [("reward_offset",), ("return_moments", 0), ("return_moments", 1, 0), ("return_moments", 2, 0)]
    places += [(name, part, 0) for name in ("base_moments", "slot_moments") for part in (1, 2)]
    place, value = pick(rng, places), pick(rng, (1e300, 1e308, 1e100, 1.7e308))

    def change(state):
        *parents, last = place
        part = state["numbers"]
        for name in parents:
            part = part[name]
        part[last] = value

    what = f"resealed, numbers.{'.'.join(map(str, place))} = {value:g}"
    return case(what, attempt, lambda folder: rewrite(own(folder), change), must_refuse=True)


def other_tensors(rng, _scenes, attempt, _tree, tensors):
    what, mutated = mutated_tensors(tensors, rng)

    def damage(folder):
        rewrite(own(folder), change_tensors=lambda present: (present.clear(), present.update(mutated)))

    return case(f"resealed, {what}", attempt, damage, must_refuse=True)


def a_number(rng, _scenes, attempt, _tree, tensors):
    name = pick(rng, [name for name, tensor in tensors.items() if tensor.is_floating_point()])
    value, place = pick(rng, NUMBERS), int(rng.integers(tensors[name].numel()))

    def change(present):
        present[name] = present[name].clone()
        present[name].view(-1)[place] = value

    return case(
        f"resealed, {name}[{place}] is {value}",
        attempt,
        lambda folder: rewrite(own(folder), change_tensors=change),
        must_refuse=True,
    )


def swapped(rng, _scenes, attempt, _tree, _tensors):
    name = pick(rng, ["state.json", "learner.safetensors", ""])
    source = pick(rng, [OLDER, f"{OTHER}/checkpoints/round-00002", f"{OTHER}/checkpoints/round-00001"])

    def damage(folder):
        target = folder / NEWEST / name if name else folder / NEWEST
        remove(target)
        if name:
            shutil.copy(folder / source / name, target)
        else:
            copied(folder / source, target)

    return case(f"{name or 'all'} of {source}", attempt, damage, must_refuse=True)


def an_envelope(rng, _scenes, attempt, _tree, _tensors):
    key = pick(rng, ["kind", "version", "sha256", "content", "more"])
    values = [None, True, 0, 4, 6, 5.5, "5", "x", [], {}, "0" * 64, 10**400]
    value = pick(rng, values)
    return case(
        f"envelope {key} = {value!r:.40}",
        attempt,
        lambda folder: rewrite_envelope(own(folder), **{key: value}),
        must_refuse=key != "more",
    )


def a_folder(rng, _scenes, attempt, _tree, _tensors):
    number = int(rng.integers(3, 99999))
    kinds = {
        "a file as newest checkpoint": lambda folder: (folder / f"{NEWEST[:-5]}{number:05d}").write_bytes(b"x"),
        "an empty newest checkpoint": lambda folder: (folder / f"{NEWEST[:-5]}{number:05d}").mkdir(),
        "a renamed checkpoint": lambda folder: (folder / NEWEST).rename(folder / f"{NEWEST[:-5]}{number:05d}"),
        "a copied checkpoint": lambda folder: copied(folder / NEWEST, folder / f"{NEWEST[:-5]}{number:05d}"),
        "a foreign folder": lambda folder: (folder / f"run/checkpoints/copy of {number}").mkdir(),
        "a foreign file": lambda folder: (folder / f"run/checkpoints/notes-{number}.txt").write_text("x"),
        "a dangling link": lambda folder: (folder / f"{NEWEST[:-5]}{number:05d}").symlink_to("nowhere"),
        "a file as folder of checkpoints": lambda folder: (
            remove(folder / "run/checkpoints"),
            (folder / "run/checkpoints").write_text("x"),
        ),
        "float64 weights": lambda folder: rewrite(
            own(folder), change_tensors=lambda t: t.update({k: v.to(torch.float64) for k, v in t.items()})
        ),
    }  # fmt: skip
    what = pick(rng, kinds)
    return Case(f"{attempt.__name__}, {what}, {number}", attempt, kinds[what])

"""Policy bundles: changed files, and changed contents under digests that fit."""

import json
import math

from cli_builders import call
from damage_builders import mutated_tensors, value_at

from corpus.cases import Case
from corpus.mutations import file_damage, pick, tree_damage
from corpus.scenes import BUNDLE
from esper_policies.bundle import BUNDLE as FORMAT
from esper_policies.bundle import load_bundle, weights_digest

INPUTS = (BUNDLE,)
NUMBERS = (math.nan, math.inf, -math.inf, 1e30, -1e30)
STATISTICS = ("normaliser.", "value_")
"""Beginnings of the names of tensors that are no weights, and may be huge."""


def loaded(folder):
    """Digest of the weights, and the manifest."""
    bundle = load_bundle(folder / BUNDLE)
    return weights_digest(bundle.weights), json.dumps(bundle.manifest.model_dump(mode="json"))


def evaluated(folder):
    """The command; it is not expected to evaluate anything."""
    return call("evaluate", folder / BUNDLE, "--seeds", "2", "--serial", "--no-controls", "--out", folder / "new")


def cases(rng, scenes):
    blob = FORMAT.read(scenes.path / BUNDLE, "it")
    while True:
        kind = pick(rng, ["file", "file", "leaf", "leaf", "tensors", "number", "envelope"])
        if kind == "file":
            what, damage = file_damage(rng, BUNDLE, scenes.size(BUNDLE))
            yield Case(what, loaded, damage, (BUNDLE,))
            continue
        attempt = loaded if kind == "leaf" else pick(rng, [loaded, loaded, evaluated])
        what, content, tensors, accepts = f"{kind}", blob.content, dict(blob.tensors), None
        if kind == "leaf":
            what, path, content = tree_damage(rng, blob.content)
            accepts = shows(path, content)
        elif kind == "tensors":
            what, tensors = mutated_tensors(tensors, rng)
        elif kind == "number":
            value = pick(rng, NUMBERS)
            name = pick(rng, [n for n in tensors if not (math.isfinite(value) and n.startswith(STATISTICS))])
            place = int(rng.integers(tensors[name].numel()))
            tensors[name] = tensors[name].clone()
            tensors[name].view(-1)[place] = value
            what = f"{name}[{place}] is {value}"
        else:
            key, value = pick(rng, ["weights_sha256", "parameters"]), pick(rng, ["", "0" * 64, 5, None, [], -1])
            content, what = content | {key: value}, f"{key} = {value!r}"
        if kind in ("tensors", "number"):
            content = content | {"weights_sha256": weights_digest(tensors)}

        def damage(folder, tensors=tensors, content=content):
            (folder / BUNDLE).unlink()
            FORMAT.write(folder / BUNDLE, tensors, content)

        yield Case(
            f"{attempt.__name__}, resealed, {what}",
            attempt,
            damage,
            (BUNDLE,),
            accepts=accepts,
            must_refuse=kind != "leaf",
        )


def shows(path, content):
    """A judge: the loaded manifest has the changed value, of the same type."""

    def right(_folder, result, undamaged):
        if result[0] != undamaged[0]:
            return False
        place = path
        try:
            if isinstance(path[-1], int) and path[-1] >= len(value_at(content, path[:-1])):
                place = path[:-1]  # a list with an entry less is another list
            value, present = value_at(content, place), value_at(json.loads(result[1]), place)
        except (KeyError, IndexError):
            return False
        return value == present and isinstance(value, bool) is isinstance(present, bool)

    return right

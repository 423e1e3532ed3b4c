"""Configuration files: a wrong one is refused; of any other, what it says is in effect."""

import json
import math
from pathlib import Path

import yaml
from cli_builders import call

from corpus.cases import MOST_LINES, Case
from corpus.mutations import (
    PLACES,
    as_json,
    changed,
    doubled_key,
    file_damage,
    in_place_of,
    pick,
    replace,
    tree_damage,
)
from esper_ray.leyline.config.loading import read_preset

INPUTS = ()
LAYERS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))
DOCUMENTS = {
    "an alias bomb": f"a0: &a0 [x, x]\n{LAYERS}",
    "an alias": "ppo: &p {lr: 1}\npolicy: *p",
    "a cycle": "ppo: &p [*p]",
    "a date as key": "2024-01-01: 1",
    "bytes": "name: !!binary aGVsbG8=",
    "a Python object": "name: !!python/object/apply:os.system [ls]",
    "a merge key": "<<: {seed: 1}",
    "two documents": "preset: digits\n---\npreset: digits",
    "a tab": "ppo:\n\tlr: 1",
    "a list": "- preset: digits",
    "a text": "preset digits",
    "nothing": "",
    "1,000 levels": "ppo: " + "[" * 1000 + "]" * 1000,
    "5,000 digits": "preset: digits\nseed: " + "9" * 5000,
    "an exponent of 999999999": "preset: digits\nppo: {lr: 1e999999999}",
    "NaN": "preset: digits\nppo: {lr: .nan}",
    "no section": "preset: digits\nppo: 5",
    "an empty section": "preset: digits\nppo:",
    "a key of 10,000 characters": "preset: digits\n" + "k" * 10_000 + ": 1",
    "a value of 100,000 characters": "preset: digits\nname: " + "v" * 100_000,
    "a dotted key": "preset: digits\nppo.lr: 0.1",
    "an empty key": "preset: digits\n'': 1",
    "an octal seed": "preset: digits\nseed: 0o17",
    "a sexagesimal seed": "preset: digits\nseed: 1:30",
    "yes": "preset: digits\ntask: {augment: yes}",
    "a preset in a list": "preset: [digits]",
    "a preset as a path": "preset: ../digits",
    "a path with NUL": 'preset: digits\ntask: {data_dir: "a\\0b"}',
    "a control character": "preset: digits\nname: a\x07b",
    "a right-to-left mark": "preset: digits\nname: \u202eabc",
    "a terminal code": 'preset: digits\nname: "\\e[31mred"',
    "a key with a terminal code": 'preset: digits\n"\\e[31mred": 1',
    "20,001 values": "ppo: [" + "1," * 20_001 + "]",
    "300,000 bytes": "#" * 300_000,
}


def shown(folder: Path, name: str):
    """The tree that is in effect."""
    answer = call("config", "show", "--config", folder / name)
    return answer if answer.code else yaml.safe_load(answer.out)


def undamaged(folder: Path) -> None:
    """Both files, complete."""
    tree = read_preset("digits")
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / "mine.json").write_bytes(as_json(tree))


def whole(name: str):
    """An attempt that gives the tree of an undamaged file."""

    def attempt(folder):
        undamaged(folder)
        return shown(folder, name)

    return attempt


WHOLE = {name: whole(name) for name in ("mine.yaml", "mine.json")}


def says(folder: Path, name: str) -> object:
    """The tree of the file, as another parser reads it."""
    text = (folder / name).read_text()
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def alike(one: object, other: object) -> bool:
    """Whether two trees are equal, up to notations of a float."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    try:  # YAML 1.1 reads 1e-3 as text
        return one == other or math.isclose(float(one), float(other), rel_tol=1e-12)
    except (TypeError, ValueError):
        return False


def cases(rng, scenes):
    tree = read_preset("digits")
    yaml_size, json_size = len(yaml.safe_dump(tree)), len(as_json(tree))

    def case(name, file, damage, must_refuse=False):
        def lay_out(folder):
            undamaged(folder)
            damage(folder)

        return Case(
            name,
            lambda folder: shown(folder, file),
            lay_out,
            accepts=lambda folder, result, undamaged: alike(result, says(folder, file)),
            reference=WHOLE[file],
            must_refuse=must_refuse,
            lines=MOST_LINES,
        )

    while True:
        kind = pick(rng, ["leaf", "leaf", "leaf", "file", "file", "doubled", "document", "document", "place"])
        file = pick(rng, ["mine.yaml", "mine.json"])
        if kind == "leaf":
            what, _, other = tree_damage(rng, tree)
            yield case(what, "mine.json", changed("mine.json", lambda _, other=other: as_json(other)))
        elif kind == "file":
            what, damage = file_damage(rng, file, yaml_size if file == "mine.yaml" else json_size)
            yield case(what, file, damage)
        elif kind == "doubled":
            what, text = doubled_key(rng, as_json(tree).decode())
            name = file  # JSON is YAML, too
            yield case(
                f"{name}: {what}",
                name,
                lambda folder, name=name, text=text: replace(folder / name, text.encode()),
                True,
            )
        elif kind == "document":
            what = pick(rng, DOCUMENTS)
            content = DOCUMENTS[what].encode(errors="surrogateescape")
            yield case(
                what,
                "mine.yaml",
                lambda folder, content=content: replace(folder / "mine.yaml", content),
                True,
            )
        else:
            what = pick(rng, PLACES)
            yield case(
                f"{file}: {what}", file, lambda folder, file=file, what=what: in_place_of(folder / file, what), True
            )

"""Data of tasks: pictures in Parquet files, and text."""

import pyarrow.parquet as pq
import torch

from corpus.cases import Case
from corpus.mutations import PLACES, changed, file_damage, in_place_of, pick, replace
from corpus.picture_files import a_cell, a_column, a_label, pictures, table
from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.tasks import load_task

INPUTS = ()
CPU = torch.device("cpu")
SIZES = {"validation_size": 4, "test_size": 4}
SENTENCES = "".join(f"Line {i} of a text about {i * 7919 % 101} seeds; ä, ö and ü too.\n" for i in range(60)).encode()
CACHE = "cache"


def lay_out(folder):
    """Complete data of both tasks."""
    pq.write_table(table(pictures(12, 1), [i % 10 for i in range(12)]), folder / "train.parquet")
    pq.write_table(table(pictures(6, 2), [i % 10 for i in range(6)]), folder / "test.parquet")
    (folder / "input.txt").write_bytes(SENTENCES)


def read(name):
    """An attempt that loads a task without the data that other cases loaded."""

    def attempt(folder):
        more = {"block_size": 16} if name == "text" else {"cache_dir": str(folder / CACHE)}
        data = load_task(TaskConfig(name=name, data_dir=str(folder), **SIZES, **more), CPU)
        tensors = [value for split in (data.train, data.validation, data.test) for value in vars_of(split)]
        return [(tuple(tensor.shape), str(tensor.dtype), int(tensor.long().sum())) for tensor in tensors]

    return attempt


def vars_of(split):
    """The tensors of a split."""
    values = (getattr(split, name) for name in split.__dataclass_fields__)
    return [value for value in values if isinstance(value, torch.Tensor)]


def same_shapes(_folder, result, undamaged):
    """A file of data has no digest: other values of the right kind are read as they are."""
    return [entry[:2] for entry in result] == [entry[:2] for entry in undamaged]


def utf8(folder, result, _undamaged):
    """Any text in UTF-8 without NUL is data."""
    text = (folder / "input.txt").read_bytes().decode()
    return "\0" not in text and len(result) > 0


def names_of_files(rng):
    number = int(rng.integers(1, 1000))
    kinds = {
        "a shard beside the whole": "train-00000-of-00001.parquet",
        "a copy of a download": f"train ({number}).parquet",
        "a numbered file": f"train-{number}.parquet",
        "a backup": f"train_backup{number}.parquet",
        "a folder of shards": f"train/{number:04d}.parquet",
        "an unknown split": f"training-{number}.parquet",
        "a shard of others": f"test-00000-of-{number:05d}.parquet",
    }
    what = pick(rng, kinds)

    def damage(folder):
        path = folder / kinds[what]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((folder / "train.parquet").read_bytes())

    return f"{what} {number}", damage


def a_text(rng):
    place, number = int(rng.integers(len(SENTENCES))), int(rng.integers(1, 1000))
    kinds = {
        "a byte": lambda data: data[:place] + bytes([number % 256]) + data[place:],
        "a NUL": lambda data: data[:place] + b"\0" + data[place:],
        "UTF-16": lambda data: data.decode().encode("utf-16"),
        "Latin-1": lambda data: data.decode().encode("latin-1"),
        "UTF-32": lambda data: data.decode().encode("utf-32-le"),
        "short": lambda data: data[: place % 80],
        "one character": lambda data: b"a" * (number + 500),
        "a surrogate": lambda data: data[:place] + b"\xed\xa0\x80" + data[place:],
        "an overlong code": lambda data: data[:place] + b"\xc0\xaf" + data[place:],
        "cut within a character": lambda data: data + b"\xc3",
        "gzip": lambda data: b"\x1f\x8b" + data,
    }
    what = pick(rng, kinds)
    return f"text: {what} at {place} ({number})", changed("input.txt", kinds[what])


def files_of_text(rng):
    number = int(rng.integers(1, 1000))
    kinds = {
        "two texts": lambda folder: (
            (folder / "input.txt").rename(folder / "a.txt"),
            (folder / f"b{number}.txt").write_bytes(SENTENCES),
        ),
        "no text": lambda folder: (folder / "input.txt").rename(folder / f"text{number}.md"),
        "an empty text": lambda folder: replace(folder / "input.txt", b""),
    }
    what = pick(rng, [*kinds, *PLACES])
    return f"text: {what} {number}", kinds.get(what) or (lambda folder: in_place_of(folder / "input.txt", what))


def cases(rng, scenes):
    makers = (a_cell, a_cell, a_cell, a_label, a_column, a_column, names_of_files)
    size = 38_000
    while True:
        task = pick(rng, ["cifar10", "cifar10", "text"])
        if task == "cifar10" and rng.random() < 0.6:
            what, damage = pick(rng, makers)(rng)
            accepts = same_shapes if what.startswith("train, label") else None
        elif task == "cifar10":
            what, damage = file_damage(rng, pick(rng, ["train.parquet", "test.parquet"]), size)
            accepts = same_shapes
        elif rng.random() < 0.6:
            (what, damage), accepts = pick(rng, [a_text, files_of_text])(rng), utf8
        else:
            (what, damage), accepts = file_damage(rng, "input.txt", len(SENTENCES)), utf8

        def together(folder, damage=damage):
            lay_out(folder)
            damage(folder)

        yield Case(what, READERS[task], together, accepts=accepts, reference=whole(task), scratch=(CACHE,))


READERS = {name: read(name) for name in ("cifar10", "text")}


def whole(task):
    """The result of the undamaged data."""

    def attempt(folder):
        lay_out(folder)
        return READERS[task](folder)

    return attempt

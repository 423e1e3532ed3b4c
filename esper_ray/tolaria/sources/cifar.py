"""CIFAR-10 from Parquet files in Hugging Face layout or the official archive."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import ImageData, image_dataset
from esper_ray.tolaria.sources import cifar_archive
from esper_ray.tolaria.sources.cache import Arrays, cache_at, cache_key

CLASSES = 10
SIZE = 32
IMAGE_COLUMNS = ("img", "image")
SPLITS = ("train", "test")
DECODER_VERSION = 1
"""Version of the decoder; raise it when the content of its arrays changes."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Decoded images and their labels."""

    images: NDArray[np.uint8]
    """(N, 3, 32, 32)."""
    labels: NDArray[np.int64]
    """(N,) in 0..9."""


def load_cifar10(config: TaskConfig, device: torch.device) -> ImageData:
    """60,000 photographs of 32x32 pixels, 10 classes.

    Validation images are cut at random from the training files; test images are the first of the test files.

    Raises:
        FileNotFoundError, ValueError: if the files are missing or broken, or too few for the sizes asked for.
    """
    assert config.data_dir is not None  # check_task has seen to it
    train, test = (read_whole(config.data_dir, config.cache_dir)[split] for split in SPLITS)
    if len(test.labels) < config.test_size:
        raise ValueError(f"task.test_size is {config.test_size}, but the test files hold {len(test.labels)} images")
    total, validation_size = len(train.labels), config.validation_size
    if validation_size >= total:
        raise ValueError(f"{validation_size} validation images leave none of {total} to train on")
    if validation_size + config.train_size > total:
        raise ValueError(
            f"{config.train_size} training and {validation_size} validation images exceed the {total} there are"
        )
    order = np.random.default_rng(np.random.SeedSequence([config.split_seed])).permutation(total)
    held, rest = np.split(order, [validation_size])
    rest = rest[: config.train_size or None]
    return image_dataset(
        (train.images[rest], train.labels[rest]),
        (train.images[held], train.labels[held]),
        (test.images[: config.test_size], test.labels[: config.test_size]),
        classes=CLASSES,
        device=device,
        augment=config.augment,
    )


def find_cifar10(folder: Path) -> Mapping[str, Path]:
    """The files in ``folder`` that hold CIFAR-10, by role.

    Parquet files come first, then the unpacked folder, then the archive.

    Raises:
        FileNotFoundError: if there is none of these.
    """
    parquet = {f"{split}/{i}": path for split in SPLITS for i, path in enumerate(_parquet_files(folder, split))}
    files = parquet or cifar_archive.find_archive(folder)
    if not files:
        raise FileNotFoundError(
            f"no CIFAR-10 in {folder}: no train*.parquet and test*.parquet (columns img, the bytes of a picture file, "
            f"and label), no {cifar_archive.ARCHIVE} and no folder {cifar_archive.UNPACKED}"
        )
    for split in SPLITS:
        if parquet and f"{split}/0" not in parquet:
            raise FileNotFoundError(f"no {split}*.parquet in {folder}, which needs train*.parquet and test*.parquet")
    return files


def read_whole(folder: Path, cache_dir: Path | None) -> dict[str, LabelledImages]:
    """The full splits ``train`` and ``test``, from the cache if possible.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_cifar10`; also if the cache folder was chosen and cannot be
            written.
    """
    files = find_cifar10(folder)
    key = cache_key("cifar10", DECODER_VERSION, files)
    arrays = cache_at(cache_dir).arrays(key, lambda: _decoded_set(folder), _is_whole)
    return {split: LabelledImages(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS}


def read_cifar10(folder: Path, split: str, limit: int | None = None) -> LabelledImages:
    """The images of one split, decoded, in the order of the files.

    Args:
        folder: holds ``train*.parquet`` and ``test*.parquet``, each with a column ``img`` (or ``image``) of
            structs with the ``bytes`` of a picture file, and an integer column ``label``; or the official archive
            ``cifar-10-python.tar.gz``, or what it unpacks to.
        split: ``train`` or ``test``.
        limit: maximum number of images, from the first.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is broken or has other columns, a picture cannot be read or has another size, a label
            lies outside 0..9 or is missing, a split is empty, or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    return _read(folder, (split,), limit)[split]


def _read(folder: Path, splits: Sequence[str], limit: int | None = None) -> dict[str, LabelledImages]:
    if not any(name.startswith("train/") for name in find_cifar10(folder)):
        parts = {split: LabelledImages(*pair) for split, pair in cifar_archive.read_archive(folder, splits).items()}
        parts = {split: LabelledImages(part.images[:limit], part.labels[:limit]) for split, part in parts.items()}
    else:
        parts = {split: _read_all(_parquet_files(folder, split), limit) for split in splits}
    for split, part in parts.items():
        if not len(part.labels):
            raise ValueError(f"the {split} files in {folder} hold no images; they need at least one row")
        wrong = np.flatnonzero((part.labels < 0) | (part.labels >= CLASSES))
        if len(wrong):
            raise ValueError(f"{folder}, {split} image {wrong[0]}: {_wanted_label(part.labels[wrong[0]])}")
    return parts


def _read_all(paths: Sequence[Path], limit: int | None) -> LabelledImages:
    parts: list[LabelledImages] = []
    for path in paths:
        left = None if limit is None else limit - sum(len(part.labels) for part in parts)
        if left != 0:
            parts.append(_read_parquet(path, left))
    return LabelledImages(np.concatenate([part.images for part in parts]), np.concatenate([p.labels for p in parts]))


def _parquet_files(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}*.parquet"))


def _decoded_set(folder: Path) -> Arrays:
    parts = _read(folder, SPLITS)
    images: Arrays = {f"{split}_images": part.images for split, part in parts.items()}
    return images | {f"{split}_labels": part.labels for split, part in parts.items()}


def _is_whole(arrays: Arrays) -> bool:
    if sorted(arrays) != sorted(f"{split}_{part}" for split in SPLITS for part in ("images", "labels")):
        return False
    pairs = [(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS]
    return all(
        images.dtype == np.uint8
        and labels.dtype == np.int64
        and labels.ndim == 1
        and images.shape == (len(labels), 3, SIZE, SIZE)
        for images, labels in pairs
    )


def _read_parquet(path: Path, limit: int | None) -> LabelledImages:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no Parquet file that can be read: {error}") from error
    column = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
    if column is None or "label" not in table.column_names:
        raise ValueError(f"{path} has the columns {', '.join(table.column_names)}; needs img and label")
    if not pyarrow.types.is_integer(table["label"].type):
        raise ValueError(f"{path}: labels must be integers, got {table['label'].type}")
    table = table.slice(0, limit)
    cells, numbers = table[column].to_pylist(), table["label"].to_pylist()
    for row, number in enumerate(numbers):
        if number is None or not 0 <= number < CLASSES:
            raise ValueError(f"{path}, row {row}: {_wanted_label('null' if number is None else number)}")
    images = np.empty((len(cells), 3, SIZE, SIZE), dtype=np.uint8)
    for row, cell in enumerate(cells):
        images[row] = _decoded(cell, f"{path}, row {row}").transpose(2, 0, 1)
    return LabelledImages(images, np.asarray(numbers, dtype=np.int64))


def _wanted_label(label: object) -> str:
    return f"labels must lie in 0..{CLASSES - 1}, got {label}"


def _decoded(cell: Any, where: str) -> NDArray[np.uint8]:
    """(32, 32, 3) pixels of the picture file in ``cell``."""
    from PIL import Image

    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        raise ValueError(f"{where}: no picture, got {_kind(cell)}; needs a struct with the bytes of one")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.size == (SIZE, SIZE):  # before decoding, so that a huge picture costs nothing
                return np.asarray(image.convert("RGB"))
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: a picture that cannot be read: {error}") from error
    raise ValueError(f"{where}: an image of {width}x{height} pixels; CIFAR-10 has {SIZE}x{SIZE}")


def _kind(cell: Any) -> str:
    """Short description of a cell's content."""
    if cell is None:
        return "null"
    if not isinstance(cell, dict):
        return f"a {type(cell).__name__}"
    return "a struct with " + ", ".join(f"{key}: {_kind(value)}" for key, value in cell.items())

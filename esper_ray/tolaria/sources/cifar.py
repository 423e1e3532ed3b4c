"""CIFAR-10 from Parquet files in Hugging Face layout or the official archive."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import ImageData, image_dataset
from esper_ray.tolaria.data.splitting import equal_images, split_rows
from esper_ray.tolaria.sources import cifar_archive
from esper_ray.tolaria.sources.cache import Arrays, cache_at, cache_key, content_digests
from esper_ray.tolaria.sources.picture_table import PictureTable, picture_tables
from esper_ray.tolaria.sources.pictures import rgb_pixels
from esper_ray.tolaria.sources.shards import nested_folders, parquet_hint, split_files

CLASSES = 10
SIZE = 32
SPLITS = ("train", "test")
MOST_REPEATED = 0.01
"""Share of pictures that may be in the data twice; the published data has fewer."""
DECODER_VERSION = 3
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

    Validation images are cut at random from the training files, equal ones together; test images are the first of the
    test files.

    Raises:
        FileNotFoundError, ValueError: if the files are missing or broken, or too few for the configured sizes.
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
    groups = equal_images(train.images)
    _warn_of_copies(groups, config.data_dir)
    held, rest = split_rows(groups, (validation_size,), config.split_seed)
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
    """The files of CIFAR-10 in ``folder``, by role.

    Parquet files come first, then the unpacked folder, then the archive, then Parquet files one folder deeper, as
    ``hf download`` places them (``plain_text/``, ``data/``).

    Raises:
        FileNotFoundError: if there is none of these, or a part is missing.
        ValueError: if files exclude each other.
    """
    files = _parquet_files(folder) or cifar_archive.find_archive(folder)
    if files:
        return files
    if not folder.is_dir():
        raise FileNotFoundError(_missing(folder))
    inner = nested_folders(folder, SPLITS)
    if len(inner) > 1:
        names = ", ".join(map(str, inner[:4]))
        raise FileNotFoundError(f"{folder} holds {len(inner)} folders with Parquet files ({names}); give one of them")
    if not inner:
        raise FileNotFoundError(_missing(folder) + parquet_hint(folder))
    return _parquet_files(inner[0])


def _missing(folder: Path) -> str:
    return (
        f"no CIFAR-10 in {folder}: no train*.parquet and test*.parquet (columns img, the bytes of a picture file, "
        f"and label), no {cifar_archive.ARCHIVE} and no folder {cifar_archive.UNPACKED}"
    )


def _parquet_files(folder: Path) -> dict[str, Path]:
    """Parquet files in ``folder`` itself, by role; empty if there are none.

    Raises:
        FileNotFoundError, ValueError: see :func:`find_cifar10`.
    """
    found = {split: split_files(folder, split) for split in SPLITS}
    if not any(found.values()):
        return {}
    for split, paths in found.items():
        if not paths:
            raise FileNotFoundError(f"no {split}*.parquet in {folder}, which needs train*.parquet and test*.parquet")
    return {f"{split}/{i}": path for split, paths in found.items() for i, path in enumerate(paths)}


def read_whole(folder: Path, cache_dir: Path | None) -> dict[str, LabelledImages]:
    """The full splits ``train`` and ``test``, from the cache if possible.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_cifar10`; also if files or pictures are there twice, or the
            cache folder was chosen and cannot be written.
    """
    files = find_cifar10(folder)
    if "train/0" in files:
        _tables(files, SPLITS)  # before gigabytes are hashed
    digests = content_digests(files)
    _check_distinct(files, digests)
    key = cache_key("cifar10", DECODER_VERSION, {role: digest.encode() for role, digest in digests.items()})
    arrays = cache_at(cache_dir).arrays(key, lambda: _decoded_set(folder), _is_whole)
    return {split: LabelledImages(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS}


def read_cifar10(folder: Path, split: str, limit: int | None = None) -> LabelledImages:
    """The images of one split, decoded, in the order of the files.

    Args:
        folder: holds ``train*.parquet`` and ``test*.parquet``, each with a column ``img`` (or ``image``) of
            structs with the ``bytes`` of a PNG or JPEG file, and an integer column ``label``; or the official archive
            ``cifar-10-python.tar.gz``, or what it unpacks to. See :func:`find_cifar10` for the names of files.
        split: ``train`` or ``test``.
        limit: maximum number of images, from the first.

    Raises:
        FileNotFoundError: if there is no such file, or a shard is missing.
        ValueError: if a file is broken, too large or has other columns, a picture cannot be read exactly or has
            another size, a label lies outside 0..9 or is missing, a split is empty, or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    return _read(folder, (split,), limit)[split]


def _read(folder: Path, splits: Sequence[str], limit: int | None = None) -> dict[str, LabelledImages]:
    files = find_cifar10(folder)
    if "train/0" not in files:
        parts = {split: LabelledImages(*pair) for split, pair in cifar_archive.read_archive(folder, splits).items()}
        parts = {split: LabelledImages(part.images[:limit], part.labels[:limit]) for split, part in parts.items()}
    else:
        tables = _tables(files, splits)  # all are checked before one is decoded
        parts = {split: _read_all(tables[split], limit) for split in splits}
    for split, part in parts.items():
        if not len(part.labels):
            raise ValueError(f"the {split} files in {folder} hold no images; they need at least one row")
        wrong = np.flatnonzero((part.labels < 0) | (part.labels >= CLASSES))
        if len(wrong):
            raise ValueError(f"{folder}, {split} image {wrong[0]}: {_wanted_label(part.labels[wrong[0]])}")
    return parts


def _tables(files: Mapping[str, Path], splits: Sequence[str]) -> dict[str, list[PictureTable]]:
    """Parquet files by split, their footers checked."""
    return {
        split: picture_tables([path for role, path in files.items() if role.startswith(f"{split}/")])
        for split in splits
    }


def _read_all(tables: Sequence[PictureTable], limit: int | None) -> LabelledImages:
    parts: list[LabelledImages] = []
    for table in tables:
        left = table.rows if limit is None else min(table.rows, limit - sum(len(part.labels) for part in parts))
        parts.append(_read_table(table, left))
    return LabelledImages(np.concatenate([part.images for part in parts]), np.concatenate([p.labels for p in parts]))


def _check_distinct(files: Mapping[str, Path], digests: Mapping[str, str]) -> None:
    """Refuse files with equal content.

    Raises:
        ValueError: naming two of them.
    """
    roles: dict[str, str] = {}
    for role, digest in digests.items():
        twin = roles.setdefault(digest, role)
        if twin != role:
            raise ValueError(f"{files[twin]} and {files[role]} have the same content; remove or replace one")


def _check_disjoint(parts: Mapping[str, LabelledImages], folder: Path) -> None:
    """Refuse test images that are training images.

    Raises:
        ValueError: if they are more than the share :data:`MOST_REPEATED` of the test images.
    """
    train, test = ([blake2b(image.tobytes(), digest_size=16).digest() for image in parts[s].images] for s in SPLITS)
    known = set(train)
    common = sum(image in known for image in test)
    if common > MOST_REPEATED * len(test):
        raise ValueError(
            f"{folder}: {common} of {len(test)} test images are training images too; at most "
            f"{MOST_REPEATED:.0%} may be, for accuracy on them says nothing"
        )


def _warn_of_copies(groups: NDArray[np.int64], folder: Path) -> None:
    """Warn if more than the share :data:`MOST_REPEATED` of the training images are copies of others."""
    copies = len(groups) - len(np.unique(groups))
    if copies > MOST_REPEATED * len(groups):
        warnings.warn(
            f"{folder}: {copies} of {len(groups)} training images are copies of others; copies stay on one side of the "
            "validation split",
            RuntimeWarning,
            stacklevel=3,
        )


def _decoded_set(folder: Path) -> Arrays:
    parts = _read(folder, SPLITS)
    _check_disjoint(parts, folder)
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


def _read_table(table: PictureTable, limit: int) -> LabelledImages:
    """The first ``limit`` rows, decoded."""
    images, labels = np.empty((limit, 3, SIZE, SIZE), dtype=np.uint8), np.empty(limit, dtype=np.int64)
    if not limit:
        return LabelledImages(images, labels)
    for row, (picture, label) in enumerate(table):
        where = f"{table.path}, row {row}"
        if label is None or not 0 <= label < CLASSES:
            raise ValueError(f"{where}: {_wanted_label('null' if label is None else label)}")
        if picture is None:
            raise ValueError(f"{where}: no picture, got null; needs the bytes of a PNG or JPEG file")
        images[row], labels[row] = rgb_pixels(picture, SIZE, where).transpose(2, 0, 1), label
        if row + 1 == limit:
            break
    return LabelledImages(images, labels)


def _wanted_label(label: object) -> str:
    return f"labels must lie in 0..{CLASSES - 1}, got {label}"

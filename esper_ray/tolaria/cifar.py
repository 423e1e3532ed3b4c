"""CIFAR-10 from Parquet files in the layout of the Hugging Face data set."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = 10
SIZE = 32
IMAGE_COLUMNS = ("img", "image")


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Decoded images and their labels."""

    images: NDArray[np.uint8]
    """(N, 3, 32, 32)."""
    labels: NDArray[np.int64]
    """(N,) in 0..9."""


def read_cifar10(folder: Path, split: str, limit: int | None = None) -> LabelledImages:
    """The images of one split, in the order of the files.

    Args:
        folder: holds ``train*.parquet`` and ``test*.parquet``, each with a column ``img`` (or ``image``) of
            structs with the ``bytes`` of a picture file, and an integer column ``label``.
        split: ``train`` or ``test``.
        limit: decode at most so many, from the first.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file has other columns, pictures that cannot be read or have another size, labels outside
            0..9, or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image, got {limit}")
    import pyarrow.parquet

    paths = sorted(folder.glob(f"{split}*.parquet"))
    if not paths:
        raise FileNotFoundError(
            f"no {split}*.parquet in {folder}; CIFAR-10 is read from train*.parquet and test*.parquet "
            "with the columns img (bytes of a picture file) and label"
        )
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for path in paths:
        table = pyarrow.parquet.read_table(path)
        column = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
        if column is None or "label" not in table.column_names:
            raise ValueError(f"{path} has the columns {', '.join(table.column_names)}; needs img and label")
        left = None if limit is None else limit - len(labels)
        table = table.slice(0, left)
        images += [_decoded(cell, path) for cell in table[column].to_pylist()]
        labels += table["label"].to_pylist()
    values = np.asarray(labels, dtype=np.int64)
    if len(values) and not 0 <= values.min() <= values.max() < CLASSES:
        raise ValueError(f"labels in {folder} must lie in 0..{CLASSES - 1}, got {values.min()}..{values.max()}")
    return LabelledImages(np.stack(images).transpose(0, 3, 1, 2), values)


def _decoded(cell: Any, path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} holds a picture that cannot be read: {error}") from error
    if pixels.shape != (SIZE, SIZE, 3):
        raise ValueError(f"{path} holds an image of {pixels.shape[1]}x{pixels.shape[0]} pixels; CIFAR-10 has 32x32")
    return pixels

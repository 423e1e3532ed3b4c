"""Parquet files of pictures, whole and damaged."""

import io
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage_builders import flipped
from PIL import Image

from corpus.mutations import FOREIGN, pick


def picture(image, kind="PNG", **options):
    """A picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@lru_cache
def pictures(count, seed):
    """PNG files of 32x32 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return tuple(picture(Image.fromarray(one)) for one in pixels)


@lru_cache
def bomb():
    """A small PNG file of many pixels."""
    return picture(Image.new("1", (12_000, 12_000)))


def table(cells, labels):
    """Columns as Hugging Face names them."""
    return pa.table({"img": [{"bytes": cell, "path": None} for cell in cells], "label": labels})


def wrong_pictures(rng):
    """Cells that are not a picture of 32x32 pixels, by description."""
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    plain, place = picture(image), int(rng.integers(8, 2000))
    return {
        "null": None,
        "no bytes": b"",
        f"cut at {place}": plain[:place],
        f"flipped at {place}": flipped(plain, place),
        "31x32": picture(image.resize((31, 32))),
        "CMYK": picture(image.convert("CMYK"), "JPEG"),
        "GIF": picture(image, "GIF"),
        "BMP": picture(image, "BMP"),
        "TIFF": picture(image, "TIFF"),
        "WEBP": picture(image, "WEBP"),
        "float TIFF": picture(Image.fromarray(np.random.default_rng(0).random((32, 32)).astype(np.float32)), "TIFF"),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n",
        "transparent": picture(Image.new("RGBA", (32, 32), (1, 2, 3, 4))),
        "a bomb": bomb(),
        **FOREIGN,
    }


def a_cell(rng):
    which, row = pick(rng, ["train", "test"]), int(rng.integers(6))
    cells = list(pictures(12, 1) if which == "train" else pictures(6, 2))
    choices = wrong_pictures(rng)
    what = pick(rng, choices)
    cells[row] = choices[what]
    new = table(cells, [i % 10 for i in range(len(cells))])
    return f"{which}, row {row}: {what}", lambda folder: pq.write_table(new, folder / f"{which}.parquet")


def a_label(rng):
    which = pick(rng, ["train", "test"])
    cells = pictures(12, 1) if which == "train" else pictures(6, 2)
    row, value = int(rng.integers(len(cells))), pick(rng, [-1, 10, 255, 256, None, 2**40, -(2**40), 11, -2, 99])
    labels = [i % 10 for i in range(len(cells))]
    labels[row] = value
    return f"{which}, label {row} = {value}", lambda folder: pq.write_table(
        table(cells, labels), folder / f"{which}.parquet"
    )


def a_column(rng):
    which = pick(rng, ["train", "test"])
    cells = pictures(12, 1) if which == "train" else pictures(6, 2)
    good, count = table(cells, [i % 10 for i in range(len(cells))]), len(cells)
    columns = {
        "labels as text": good.set_column(1, "label", pa.array(["cat"] * count)),
        "labels as floats": good.set_column(1, "label", pa.array([0.5] * count)),
        "labels as booleans": good.set_column(1, "label", pa.array([True] * count)),
        "no label": good.drop_columns(["label"]),
        "no picture": good.drop_columns(["img"]),
        "pictures as text": good.set_column(0, "img", pa.array(["x"] * count)),
        "pictures as lists": good.set_column(0, "img", pa.array([[1]] * count)),
        "pictures as bytes": good.set_column(0, "img", pa.array(list(cells))),
        "doubled label": good.append_column("label", pa.array([0] * count)),
        "other names": good.rename_columns(["a\nb", "c"]),
        "no rows": good.slice(0, 0),
        "three rows": good.slice(0, 3),
        "2,000 columns": pa.table({f"c{i}": [1] for i in range(2000)}),
        "the pictures of the other": table(pictures(6, 2) if which == "train" else pictures(12, 1)[:6], list(range(6))),
        "a million equal rows": pa.table(
            {"img": pa.array([{"bytes": b"x"}] * 300_000), "label": np.zeros(300_000, np.int64)}
        ) if rng.random() < 0.3 else good.slice(0, 1),
    }  # fmt: skip
    what = pick(rng, columns)
    return f"{which}: {what}", lambda folder: pq.write_table(columns[what], folder / f"{which}.parquet")

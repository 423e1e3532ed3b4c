"""Bounded reader of a Parquet file of pictures and labels.

A small file can expand to gigabytes: by compression, by a dictionary with one long value, by run-length encoded rows.
So its footer is checked first, and as few rows are read at once as could all hold the largest value of their chunk.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE_COLUMNS = ("img", "image")
LABEL = "label"
MOST_ROWS = 250_000
"""Maximum number of rows in the files of one split."""
MOST_BYTES = 1 << 30
"""Maximum size of the columns of one split, uncompressed."""
MOST_FILE_BYTES = 1 << 31
"""Maximum size of a file, with all its columns."""
MOST_PICTURE_BYTES = 1 << 16
"""Maximum size of one picture file; uncompressed, 32x32 RGB pixels take 3 KiB."""
MOST_COLUMNS = 1000
BATCH = 256
"""Maximum number of rows that are read at once."""
BATCH_BYTES = 1 << 28
"""Maximum size of these rows, if each held the largest possible value of its column chunk."""
MOST_FOOTER_STRING = 1 << 20
"""Maximum bytes of a string in a footer; descriptions of data sets are stored there."""


@dataclass(frozen=True, slots=True)
class PictureTable:
    """Parquet file with checked footer, a column of picture files and one of labels."""

    path: Path
    column: str
    """Column of structs with the ``bytes`` of a picture file."""
    rows: int
    size: int
    """Bytes of its two columns, uncompressed."""
    largest_chunk: int
    """The same of one row group, at most."""

    def __iter__(self) -> Iterator[tuple[bytes | None, int | None]]:
        """Picture file and label of each row.

        Raises:
            ValueError: if the file is damaged, a picture file is too large, or there are not ``rows`` rows.
        """
        import pyarrow.parquet

        seen, columns = 0, [f"{self.column}.bytes", LABEL]
        size = max(1, min(BATCH, BATCH_BYTES // max(self.largest_chunk, 1)))
        with _reading(self.path):
            file = pyarrow.parquet.ParquetFile(
                self.path.absolute(), pre_buffer=False, page_checksum_verification=True, **_limits()
            )
        with file:
            batches = file.iter_batches(batch_size=size, columns=columns, use_threads=False)
            while True:
                with _reading(self.path):
                    batch = next(batches, None)
                if batch is None:
                    break
                self._check_batch(batch, seen)
                with _reading(self.path):
                    pictures, labels = batch.column(self.column).to_pylist(), batch.column(LABEL).to_pylist()
                seen += len(labels)
                for picture, label in zip(pictures, labels, strict=True):
                    yield None if picture is None else picture["bytes"], label
        if seen != self.rows:
            raise ValueError(f"{self.path} holds {seen} rows; its footer says {self.rows}")

    def _check_batch(self, batch: Any, seen: int) -> None:
        """Check the length of its picture files before they are unpacked."""
        import pyarrow.compute

        if seen + len(batch) > self.rows:
            raise ValueError(f"{self.path} holds more than the {self.rows} rows that its footer says")
        lengths = pyarrow.compute.binary_length(batch.column(self.column).field("bytes"))
        longest = pyarrow.compute.max(lengths).as_py()
        if longest is not None and longest > MOST_PICTURE_BYTES:
            raise ValueError(
                f"{self.path}, rows {seen} to {seen + len(batch) - 1}: a picture file of {longest} bytes; "
                f"at most {MOST_PICTURE_BYTES} are read"
            )


def picture_tables(paths: Sequence[Path]) -> list[PictureTable]:
    """The files of one split, their footers checked.

    Raises:
        ValueError: if a file is not a Parquet file, has other columns, or the files are too large together.
    """
    tables = [_checked(path) for path in paths]
    for name, total, most in (
        ("rows", sum(table.rows for table in tables), MOST_ROWS),
        ("bytes, uncompressed,", sum(table.size for table in tables), MOST_BYTES),
    ):
        if total > most:
            files = ", ".join(str(table.path) for table in tables[:3]) + (", ..." if len(tables) > 3 else "")
            raise ValueError(f"{files}: {total} {name} of pictures; at most {most} are read")
    return tables


def _checked(path: Path) -> PictureTable:
    import pyarrow.parquet

    if path.stat().st_size > MOST_FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {MOST_FILE_BYTES} are read")
    with _reading(path), pyarrow.parquet.ParquetFile(path.absolute(), **_limits()) as file:
        metadata, schema = file.metadata, file.schema_arrow
    if metadata.num_columns > MOST_COLUMNS:
        raise ValueError(f"{path} has {metadata.num_columns} columns; at most {MOST_COLUMNS} are read")
    column = _picture_column(path, schema)
    with _reading(path):
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        sizes, rows = [_uncompressed(group, column) for group in groups], sum(group.num_rows for group in groups)
    if not 0 <= rows == metadata.num_rows:
        raise ValueError(f"{path}: its footer says {metadata.num_rows} rows, its row groups {rows}")
    return PictureTable(path, column, metadata.num_rows, sum(sizes), max(sizes, default=0))


def _picture_column(path: Path, schema: Any) -> str:
    """Name of the column of pictures.

    Raises:
        ValueError: if the columns are missing, ambiguous or of another type.
    """
    import pyarrow

    names = schema.names
    column = next((name for name in IMAGE_COLUMNS if name in names), None)
    if column is None or LABEL not in names:
        raise ValueError(f"{path} has the columns {_one_line(', '.join(names))}; needs img and label")
    for name in (column, LABEL):
        if names.count(name) > 1:
            raise ValueError(f"{path} has {names.count(name)} columns {name!r}; needs one")
    kind, label = schema.field(column).type, schema.field(LABEL).type
    content = kind.field("bytes").type if pyarrow.types.is_struct(kind) and "bytes" in _fields(kind) else None
    if content is None or not pyarrow.types.is_binary(content):
        raise ValueError(
            f"{path}: {column} must be a struct with the bytes (binary) of a picture file, got {_one_line(str(kind))}"
        )
    if not pyarrow.types.is_integer(label):
        raise ValueError(f"{path}: labels must be integers, got {_one_line(str(label))}")
    return column


def _fields(kind: Any) -> list[str]:
    return [kind.field(i).name for i in range(kind.num_fields)]


def _uncompressed(group: Any, column: str) -> int:
    """Bytes of the two columns in a row group."""
    chunks = (group.column(i) for i in range(group.num_columns))
    sizes = [chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in (f"{column}.bytes", LABEL)]
    return sum(max(int(size), 0) for size in sizes)


def _limits() -> dict[str, int]:
    return {"thrift_string_size_limit": MOST_FOOTER_STRING, "thrift_container_size_limit": 1 << 20}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Context of a call of pyarrow, which raises whatever a damaged file leads to."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is not a Parquet file that can be read: {_one_line(str(error))}") from error


def _one_line(text: str) -> str:
    """``text`` without line breaks and control characters, cut after 300 characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return line if len(line) <= 300 else f"{line[:300]}..."

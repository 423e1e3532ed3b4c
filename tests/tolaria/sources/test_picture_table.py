"""Parquet files of pictures whose footer or content is too large, or says something else than it holds."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esper_ray.tolaria.sources import picture_table
from esper_ray.tolaria.sources.picture_table import PictureTable, picture_tables

CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(cells, labels=None, column="img", kind=CELL):
    rows = pa.array([{"bytes": cell, "path": None} for cell in cells], kind)
    return pa.table({column: rows, "label": pa.array(range(len(cells)) if labels is None else labels, pa.int64())})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.parquet"


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"compression": "zstd", "row_group_size": 100}])
@pytest.mark.parametrize("count", [1, 255, 256, 600])
def test_every_row_is_read_in_order(path, options, count):
    cells = [bytes([i % 7]) * (i % 5 + 1) for i in range(count)]
    pq.write_table(table(cells), path, **options)
    (read,) = picture_tables([path])
    assert (read.rows, read.column) == (count, "img")
    assert list(read) == [(cell, i) for i, cell in enumerate(cells)]


def test_nulls_are_rows_without_a_picture_or_label(path):
    cells = pa.array([None, {"bytes": None}, {"bytes": b"x"}], CELL)
    pq.write_table(pa.table({"img": cells, "label": pa.array([0, 1, None], pa.int64())}), path)
    assert list(picture_tables([path])[0]) == [(None, 0), (None, 1), (b"x", None)]


def refusal(path):
    with pytest.raises(ValueError) as error:
        list(picture_tables([path])[0])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_more_rows_than_the_bound_are_refused_from_the_footer(path, monkeypatch):
    monkeypatch.setattr(picture_table, "MOST_ROWS", 99)
    pq.write_table(table([b"x"] * 100, [0] * 100), path)
    monkeypatch.setattr(PictureTable, "__iter__", lambda self: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"train\.parquet: 100 rows of pictures; at most 99 are read"):
        picture_tables([path])


def test_a_small_file_of_a_million_equal_rows_is_refused_from_the_footer(path):
    rows = 1_000_000
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([b"x" * 3000]))
    cells = pa.StructArray.from_arrays([values], ["bytes"])
    pq.write_table(pa.table({"img": cells, "label": pa.array(np.zeros(rows, np.int64))}), path, store_schema=False)
    assert path.stat().st_size < 1_000_000
    assert "1000000 rows of pictures; at most 250000 are read" in refusal(path)


def test_more_uncompressed_bytes_than_the_bound_are_refused_from_the_footer(path, monkeypatch):
    monkeypatch.setattr(picture_table, "MOST_BYTES", 10_000_000)
    pq.write_table(table([b"\0" * 3_000_000] * 4, [0] * 4), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 10_000
    assert "bytes, uncompressed, of pictures; at most 10000000 are read" in refusal(path)


def test_the_bounds_are_those_of_all_files_of_a_split(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_table, "MOST_ROWS", 5)
    paths = [tmp_path / f"train-{i}.parquet" for i in range(2)]
    for path in paths:
        pq.write_table(table([b"x"] * 3), path)
    assert [len(list(part)) for part in picture_tables(paths[:1])] == [3]
    with pytest.raises(ValueError, match=r"train-0\.parquet, .*train-1\.parquet: 6 rows of pictures; at most 5"):
        picture_tables(paths)


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_long_picture_is_refused_before_its_rows_are_unpacked(path, dictionary):
    pq.write_table(
        table([b"ok", *[b"y" * 70_000] * 200], [0] * 201), path, use_dictionary=dictionary, compression="zstd"
    )
    assert "a picture file of 70000 bytes; at most 65536 are read" in refusal(path)


COUNTED = pa.proxy_memory_pool(pa.default_memory_pool())
"""Memory pool that counts from zero; it must outlive its arrays."""


@pytest.fixture
def pool():
    pa.set_memory_pool(COUNTED)
    yield COUNTED
    pa.set_memory_pool(pa.default_memory_pool())


def test_one_long_value_in_many_rows_is_refused_in_bounded_memory(path, monkeypatch, request):
    """20 MB in each of 1,000 rows would be 20 GB."""
    monkeypatch.setattr(picture_table, "BATCH_BYTES", 30_000_000)
    rows = 1000
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([b"x" * 20_000_000]))
    cells = pa.StructArray.from_arrays([values], ["bytes"])
    content = pa.table({"img": cells, "label": pa.array(np.zeros(rows, np.int64))})
    pq.write_table(content, path, store_schema=False, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert path.stat().st_size < 100_000
    pool = request.getfixturevalue("pool")
    assert "a picture file of 20000000 bytes; at most 65536 are read" in refusal(path)
    assert 0 < pool.max_memory() < 150_000_000


def test_a_file_above_the_bound_is_refused_unread(path, monkeypatch):
    pq.write_table(table([b"x"]), path)
    monkeypatch.setattr(picture_table, "MOST_FILE_BYTES", 100)
    assert "bytes; at most 100 are read" in refusal(path)


def test_only_the_two_columns_are_read(path):
    wide = table([b"x"] * 3).append_column("other", pa.array(["z" * 1000] * 3))
    pq.write_table(wide, path)
    (read,) = picture_tables([path])
    assert list(read) == [(b"x", 0), (b"x", 1), (b"x", 2)]
    assert read.size < 500


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([b"x"]), "img must be a struct with the bytes (binary) of a picture file, got binary"),
        (pa.array([{"path": "a"}]), "img must be a struct with the bytes"),
        (pa.array([{"bytes": "text"}]), "img must be a struct with the bytes (binary)"),
        (pa.array([[1, 2]]), "got list<"),
        (pa.array([7]), "got int64"),
    ],
)
def test_columns_of_another_type_are_refused_with_the_type(path, column, words):
    pq.write_table(pa.table({"img": column, "label": [0]}), path)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (pa.array(["cat"]), "labels must be integers, got string"),
        (pa.array([1.0]), "labels must be integers, got double"),
        (pa.array([float("nan")]), "labels must be integers, got double"),
        (pa.array([True]), "labels must be integers, got bool"),
        (pa.array([None], pa.null()), "labels must be integers, got null"),
        (pa.array([[1]]), "labels must be integers, got list"),
    ],
)
def test_labels_of_another_type_are_refused_with_the_type(path, labels, words):
    pq.write_table(table([b"x"]).set_column(1, "label", labels), path)
    assert words in refusal(path)


def test_names_of_columns_are_shown_in_one_short_line(path):
    pq.write_table(pa.table({f"a\nb{i}": [1] for i in range(200)}), path)
    message = refusal(path)
    assert "has the columns a b0, a b1, " in message
    assert message.endswith("...; needs img and label")
    assert len(message) < 500


def test_columns_with_the_same_name_are_refused(path):
    twice = pa.Table.from_arrays([*table([b"x"]).columns, pa.array([1])], names=["img", "label", "label"])
    pq.write_table(twice, path)
    assert "has 2 columns 'label'; needs one" in refusal(path)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_are_read_or_refused_in_one_line(path, seed):
    random = np.random.default_rng(seed)
    pq.write_table(table([bytes(random.bytes(50)) for _ in range(40)]), path)
    content = bytearray(path.read_bytes())
    for place in random.integers(4 if seed % 2 else len(content) - 300, len(content), 3):
        content[place] ^= 1 << int(random.integers(8))
    path.write_bytes(bytes(content))
    message, rows = str(path), 40
    try:
        rows = len(list(picture_tables([path])[0]))
    except ValueError as error:
        message = str(error)
    assert rows == 40
    assert str(path) in message
    assert "\n" not in message

"""Manifest, tables of rounds and faults: every damage is one line with file and place."""

import json
import os

import pytest

from esper_ray.leyline.errors import Fault
from esper_ray.nissa.runs.run_files import RunDirectoryError, read_faults, read_manifest_file, read_rows

EXTENSION = {"time": "2026-11-30T00:00:00+00:00", "command": ["esper"], "after_round": 2, "rounds": [2, 3]}
MANIFEST = {"run_id": "r", "status": "running", "config": {}, "storage": None}
ROWS = "round,episodes,return_mean\r\n0,4,0.5\r\n1,4,nan\r\n2,4,-1e-05\r\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[]", "it is not an object: it is []"),
        (b"null", "it is not an object: it is null"),
        (b"", "it is not JSON: Expecting value at character 0"),
        (b"\xff", "it is not UTF-8: byte 0 is 0xff"),
        (b"\xef\xbb\xbf{}", "it is not JSON: Unexpected UTF-8 BOM"),
        (b"[" * 100_000, "it is not read: it is nested too deeply"),
        (b'{"status": 1, "status": 2}', "it is not JSON: the key 'status' is doubled"),
        (b"{}", "run_id: Field required"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, content, problem):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunDirectoryError) as error:
        read_manifest_file(tmp_path / "manifest.json")
    assert str(error.value).startswith(f"{tmp_path}/manifest.json cannot be used: {problem}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_id", 3),
        ("status", None),
        ("status", ["finished"]),
        ("run", 1.5),
        ("group", {}),
        ("config", []),
        ("storage", 7),
        ("policy_sha256", False),
        ("lineage", []),
        ("lineage", {"run": "a"}),
        ("lineage", {"run": "a", "round": "1"}),
        ("extensions", 5),
        ("extensions", None),
        ("extensions", "x"),
        ("extensions", {}),
        ("extensions", [5]),
        ("extensions", [EXTENSION | {"time": 5}]),
        ("extensions", [EXTENSION | {"command": "esper"}]),
        ("extensions", [EXTENSION | {"after_round": -1}]),
        ("extensions", [EXTENSION, EXTENSION | {"rounds": [2]}]),
        ("extensions", [EXTENSION | {"rounds": [2, True]}]),
        ("extensions", [{}]),
    ],
)
def test_a_key_of_another_type_in_a_manifest_is_named(tmp_path, key, value):
    file = tmp_path / "manifest.json"
    more = {"lineage": {"run": "a", "round": 1}, "extensions": [EXTENSION], "more": [1]}
    file.write_text(json.dumps(MANIFEST | more))
    assert read_manifest_file(file)["more"] == [1]
    file.write_text(json.dumps(MANIFEST | {key: value}))
    with pytest.raises(RunDirectoryError, match=rf"manifest\.json cannot be used: {key}"):
        read_manifest_file(file)


def test_rows_are_read_as_text_by_column(tmp_path):
    file = tmp_path / "rounds.csv"
    file.write_text("")
    assert read_rows(file, ("round",)) == []
    file.write_bytes(ROWS.encode())
    rows = read_rows(file, ("round", "return_mean"))
    assert [row["return_mean"] for row in rows] == ["0.5", "nan", "-1e-05"]
    assert list(rows[0]) == ["round", "episodes", "return_mean"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("0.5", "half", "line 2 of {file}: return_mean: a number is expected, got 'half'"),
        ("0.5", "", "line 2 of {file}: return_mean: a number is expected, got ''"),
        ("0.5", "1_0", "line 2 of {file}: return_mean: a number is expected, got '1_0'"),
        ("1,4,nan", "1,4.5,nan", "line 3 of {file}: episodes: an integer is expected, got '4.5'"),
        ("1,4,nan", "1,4", "line 3 of {file} has 2 cells, the header has 3"),
        ("1,4,nan", "1,4,nan,5", "line 3 of {file} has 4 cells, the header has 3"),
        ("1,4,nan\r\n", "", "line 3 of {file} has round '2', 1 is expected"),
        ("1,4,nan\r\n", "0,4,0.5\r\n", "line 3 of {file} has round '0', 1 is expected"),
        ("1,4,nan", "", "line 3 of {file} is not a line of a table: ''"),
        ("1,4,nan", "\0\0", "line 3 of {file} is not a line of a table: '\\x00\\x00'"),
        ("1,4,nan", '1,"4,nan', "line 3 of {file} is not a line of a table: unexpected end of data"),
        ("1,4,nan", "\udcff", "line 3 of {file} is not UTF-8: byte 0 is 0xff"),
        ("round,", "\ufeffround,", "line 1 of {file} is not a line of a table: '\\ufeffround,episodes,return_mean'"),
        ("episodes", "round", "line 1 of {file} has the column 'round' twice"),
        ("episodes", "episode", "line 1 of {file} has no column episodes"),
    ],
)
def test_a_damaged_table_is_refused_with_the_line_and_the_value(tmp_path, old, new, problem):
    file = tmp_path / "rounds.csv"
    file.write_bytes(ROWS.replace(old, new, 1).encode(errors="surrogateescape"))
    with pytest.raises(RunDirectoryError) as error:
        read_rows(file, ("episodes",))
    assert str(error.value) == problem.format(file=file)


def test_a_torn_last_line_is_left_out_unless_the_checkpoint_ends_in_it(tmp_path, caplog):
    file = tmp_path / "rounds.csv"
    file.write_bytes(ROWS.encode()[:-3])
    assert len(read_rows(file)) == 2
    assert f"line 4 of {file} is cut off" in caplog.text
    whole = ROWS.index("2,4")
    assert len(read_rows(file, end=whole)) == 2
    with pytest.raises(RunDirectoryError, match=rf"line 4 of .* is cut off: it has no end at byte {whole + 2}"):
        read_rows(file, end=whole + 2)


def test_a_table_that_is_no_file_is_refused(tmp_path):
    for name, problem in {
        "none.csv": "is missing",
        "folder.csv": "is a folder",
        "pipe.csv": "is not a regular file",
    }.items():
        if name == "folder.csv":
            (tmp_path / name).mkdir()
        if name == "pipe.csv":
            os.mkfifo(tmp_path / name)
        with pytest.raises(RunDirectoryError, match=f"{name} {problem}"):
            read_rows(tmp_path / name)


def test_a_damaged_fault_is_named_and_left_out(tmp_path, caplog):
    file = tmp_path / "faults.jsonl"
    whole = {"round": 1, "kind": "environment_actor_died", "who": "actor 0", "detail": "killed", "seconds": 0.5}
    lines = [whole, [], whole | {"seconds": "long"}, {"kind": "x"}, whole | {"seconds": None}]
    file.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + b'\xff\n{"kind')
    fault = Fault("environment_actor_died", "actor 0", "killed", 0.5)
    assert read_faults(file) == [fault, Fault(fault.kind, fault.who, fault.detail, None)]
    assert [record.message.partition(" of ")[0] for record in caplog.records] == [f"line {n}" for n in (2, 3, 4, 6, 7)]

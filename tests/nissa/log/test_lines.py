"""Strict reading of objects and lines of JSON."""

import os

import pytest

from esper_ray.nissa.log import lines as module
from esper_ray.nissa.log.lines import json_lines, json_object, read_object

FOREIGN = {
    "list": (b"[]", "is not an object: it is []"),
    "long list": (b"[1, 2]", "is not an object: it is a list of 2"),
    "null": (b"null", "is not an object: it is null"),
    "number": (b"5", "is not an object: it is 5"),
    "text": (b'"x"', 'is not an object: it is "x"'),
    "half": (b'{"a": 1', "is not JSON: Expecting ',' delimiter at character 7"),
    "nothing": (b"", "is not JSON: Expecting value at character 0"),
    "byte": (b'{"a": "\xff"}', "is not UTF-8: byte 7 is 0xff"),
    "mark": (b"\xef\xbb\xbf{}", "is not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig) at character 0"),
    "zeros": (b"\0\0\0", "is not JSON: Expecting value at character 0"),
    "nan": (b'{"a": NaN}', "is not JSON: NaN is not a number of JSON"),
    "infinity": (b'{"a": -Infinity}', "is not JSON: -Infinity is not a number of JSON"),
    "overflow": (b'{"a": 1e999}', "is not JSON: 1e999 is too large"),
    "key": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "is not JSON: the key 'c' is doubled"),
    "surrogate": (rb'{"a": "\ud800"}', "is not UTF-8: it holds half of a surrogate pair"),
    "depth": (b"[" * 100_000, "is not read: it is nested too deeply"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_object_of_json_is_refused_with_the_reason(name):
    content, reason = FOREIGN[name]
    with pytest.raises(ValueError, match=r"^is n") as error:
        json_object(content)
    assert str(error.value) == reason


def test_an_integer_of_5000_digits_is_refused():
    with pytest.raises(ValueError, match=r"is not JSON: Exceeds the limit"):
        json_object(b'{"a": ' + b"1" * 5000 + b"}")


def test_a_pair_of_surrogates_is_one_character():
    assert json_object(rb'{"a": "\ud83c\udf31"}') == {"a": "\U0001f331"}


def test_lines_have_their_number_and_their_place(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n[]\r\n\n{"a": 2}\r\n{"a": 3}')
    lines = list(json_lines(path))
    assert [(line.number, line.begin, line.record) for line in lines] == [
        (1, 0, {"a": 1}),
        (2, 9, {}),
        (3, 13, {}),
        (4, 14, {"a": 2}),
        (5, 24, {}),
    ]
    assert [line.problem is None for line in lines] == [True, False, False, True, False]
    assert [line.torn for line in lines] == [False, False, False, False, True]
    assert b"".join(line.content for line in lines) == path.read_bytes()


@pytest.mark.parametrize("size", [7, 8, 9, 16, 17, 40])
def test_a_line_that_is_too_long_is_passed_over(tmp_path, monkeypatch, size):
    monkeypatch.setattr(module, "LINE_BYTES", 8)
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"{}\n" + b"x" * size + b"\n{}\n" + b"y" * size)
    lines = list(json_lines(path))
    assert [line.problem is None for line in lines] == [True, False, True, False]
    assert [line.begin for line in lines] == [0, 3, 4 + size, 7 + size]
    assert ("longer than 8 bytes" in lines[1].problem) is (size + 1 > 8)
    assert lines[3].torn


def test_an_object_is_read_from_a_file(tmp_path):
    path = tmp_path / "object.json"
    with pytest.raises(ValueError, match=r"^is missing$"):
        read_object(path)
    path.write_text('{"a": 1}')
    assert read_object(path) == {"a": 1}
    with pytest.raises(ValueError, match=r"^is a folder$"):
        read_object(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"^is not a regular file$"):
        read_object(tmp_path / "pipe")


def test_an_object_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OBJECT_BYTES", 8)
    (tmp_path / "object.json").write_text('{"a": 12}')
    with pytest.raises(ValueError, match=r"is longer than 8 bytes"):
        read_object(tmp_path / "object.json")


def test_a_file_without_lines_is_not_read_to_its_end(tmp_path):
    """A hole of 4 TiB."""
    with (tmp_path / "events.jsonl").open("wb") as file:
        file.write(b"{}\n")
        file.truncate(1 << 42)
    lines = json_lines(tmp_path / "events.jsonl")
    assert next(lines).record == {}
    with pytest.raises(ValueError, match="cannot be read: line 2 is longer than 268435456 bytes"):
        next(lines)

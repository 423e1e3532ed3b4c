"""Strict parsing of YAML and JSON: equal trees, lines, duplicates, bounds."""

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esper_ray.leyline.config.documents import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    DocumentError,
    _parse_in_python,
    dump_yaml,
    parse_document,
    parse_yaml,
    read_value,
    scalar,
)

PRESETS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
TEXTS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"]) | st.just(" "), max_size=12)
WORDS = st.sampled_from(
    ["1e5", "0x10", "010", "yes", "off", "null", "2026-11-29", "1:30", "~", "", ".inf", "-", "a: b", "#"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | TEXTS | WORDS
TREES = st.dictionaries(
    TEXTS | WORDS,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)),
    max_size=4,
)


def refusal(content, *, is_json):
    """Message of a refusal, or an empty text."""
    try:
        parse_document(content, is_json=is_json)
    except DocumentError as error:
        return str(error)
    return ""


def problem(content, *, is_json=False):
    """Message and line of a refusal."""
    with pytest.raises(DocumentError) as caught:
        parse_document(content if isinstance(content, bytes) else content.encode(), is_json=is_json)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.line


@given(TREES)
@example({"a": "1e5", "b": "2026-11-29", "c": "off"})
def test_yaml_and_json_read_a_tree_as_it_was_written(tree):
    assert parse_document(json.dumps(tree).encode(), is_json=True).tree == tree
    assert parse_document(dump_yaml(tree).encode()).tree == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("+1", 1),
        ("-0", 0),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-1.5e+3", -1500.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0b1", "0b1"),
        ("0o7", "0o7"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-29", "2026-11-29"),
        ("2026-11-29T10:00:00Z", "2026-11-29T10:00:00Z"),
        ("yes", "yes"),
        ("off", "off"),
        ("=", "="),
        ("<<", "<<"),
        ("1e", "1e"),
        ("٣", "٣"),
    ],
)
def test_a_plain_scalar_is_what_json_reads_or_text(text, value):
    for read in (scalar(text), read_value(text), read_value(f"[{text}]")[0] if text else None):
        assert (type(read), read) == (type(value), value)


def test_a_value_of_an_option_is_a_list_a_mapping_or_a_scalar_without_comments():
    assert read_value("[a, 1, {b: 2}]") == ["a", 1, {"b": 2}]
    assert read_value('"5"') == "5"
    assert read_value("a #b: c") == "a #b: c"
    assert read_value("&a") == "&a"
    with pytest.raises(DocumentError, match="given twice"):
        read_value("{a: 1, a: 2}")
    with pytest.raises(DocumentError, match="5,000 digits"):
        read_value("9" * 5000)


@pytest.mark.parametrize("is_json", [False, True], ids=["yaml", "json"])
@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ('{"a": 1,\n"a": 1}', "a", 2),
        ('{"a": {"b": 1,\n\n"b": 2}}', "a.b", 3),
        ('{"a": [{"b": 1}, {"c": 1, "c": 2}]}', "a.1.c", 1),
        ('{"a": 1, "\\u0061": 2}', "a", 1),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_line(text, key, line, is_json):
    message, place = problem(text, is_json=is_json)
    assert message.startswith(f"key {key!r} is given twice, first in line ")
    assert place == line


def test_lines_are_those_of_the_keys():
    text = "a: 1\n\nb:\n  c: [1,\n    2]\n"
    assert parse_document(text.encode()).lines == {"a": 1, "b": 3, "b.c": 4, "b.c.0": 4, "b.c.1": 5}
    text = '{"a": 1,\n\n"b":{\n"c": [1,\n2]}}'
    assert parse_document(text.encode(), is_json=True).lines == {"a": 1, "b": 3, "b.c": 4, "b.c.0": 4, "b.c.1": 5}


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
REFUSED_YAML = {
    "bomb": (BOMB, "anchors and aliases (& and *) are not supported", 1),
    "cycle": ("a: 1\nb: &b [*b]", "anchors and aliases", 2),
    "merge": ("a: &a {x: 1}\nb: {<<: *a}", "anchors and aliases", 1),
    "alias alone": ("*a", "anchors and aliases", 1),
    "anchor of a key": ("&a b: 1", "anchors and aliases", 1),
    "bytes": ("a: !!binary aGk=", "tags such as 'tag:yaml.org,2002:binary'", 1),
    "bytes as a key": ("!!binary aGk=: 1", "tags such as", 1),
    "object": ("!!python/object/apply:os.getcwd []", "tags such as", 1),
    "set": ("!!set {a, b}", "tags such as", 1),
    "date tag": ("a: !!timestamp 2026-11-29", "tags such as", 1),
    "own tag": ("a: !x 1", "tags such as '!x'", 1),
    "integer as a key": ("a: 1\n1: 2", "a key must be text, got 1", 2),
    "float as a key": ("1.5: 2", "a key must be text, got 1.5", 1),
    "true as a key": ("true: 2", "a key must be text, got True", 1),
    "null as a key": ("~: 2", "a key must be text, got None", 1),
    "list as a key": ("? [a, b]\n: 1", "a key must be text, got a list or mapping", 1),
    "mapping as a key": ("? {a: b}\n: 1", "a key must be text, got a list or mapping", 1),
    "documents": ("a: 1\n---\nb: 2", "more than one document", 2),
    "levels": ("[" * 1000, f"more than {MAX_DEPTH} levels", 1),
    "levels of mappings": ("{a: " * 1000, f"more than {MAX_DEPTH} levels", 1),
    "indented levels": ("".join(f"{' ' * i}a:\n" for i in range(600)), f"more than {MAX_DEPTH} levels", 21),
    "digits": (f"a: 1\nb: {'9' * 5000}", "an integer of 5,000 digits exceeds 40", 2),
    "values": (f"a: [{'1,' * 30_000}]", f"more than {MAX_NODES:,} values", 1),
    "tab": ("a:\n\tb: 1", "found character '\\t' that cannot start any token", 2),
    "control": ("a: 1\nb: \x07", "character #x0007 is not allowed", 2),
    "escaped NUL": ('a: "\\0"', "character #x0000 is not allowed in a text", 1),
    "surrogate": ('a: "\\ud800"', "character #xd800 is not allowed in a text", 1),
    "line break": ("a: |\n  x\n  y\n", "character #x000a is not allowed in a text", 1),
    "escape": ('a: "\\UFFFFFFFF"', "", None),
    "directive": (f"%YAML 1.{'9' * 5000}\n---\na: 1", "", None),
    "open list": ("a: [1", "expected ',' or ']'", 1),
    "indentation": ("a: 1\n b: 2", "mapping values are not allowed here", 2),
}
REFUSED_JSON = {
    "empty": ("", "expected a value, got the end", 1),
    "levels": ("[" * 1000, f"more than {MAX_DEPTH} levels", 1),
    "levels of mappings": ('{"a":' * 1000, f"more than {MAX_DEPTH} levels", 1),
    "digits": (f'{{"a":\n{"9" * 5000}}}', "an integer of 5,000 digits exceeds 40", 2),
    "values": (f"[{'1,' * 30_000}1]", f"more than {MAX_NODES:,} values", 1),
    "surrogate": ('{"a": "\\ud800"}', "character #xd800", 1),
    "escape": ('{"a": "\\x"}', "Invalid \\escape", 1),
    "trailing comma": ('{"a": 1,\n}', "expected a key in double quotes, got '}'", 2),
    "trailing item": ("[1,]", "expected a value, got ']'", 1),
    "two values": ("{} {}", "expected the end of the text, got '{'", 1),
    "single quotes": ("{'a': 1}", "not JSON: \"'a': 1}\"", 1),
    "comment": ("{}\n// x", "not JSON: '// x'", 2),
    "no colon": ('{"a" 1}', "expected ':', got '1'", 1),
    "no comma": ('{"a": 1 "b": 2}', "expected ',' or '}'", 1),
    "key": ("{1: 2}", "expected a key in double quotes, got '1'", 1),
    "octal": ('{"a": 010}', "not JSON", 1),
    "word": ('{"a": nul}', "not JSON", 1),
    "open": ('{"a": 1', "expected ',' or '}', got the end", 1),
    "control": ('{"a": "\x01"}', "not JSON", 1),
}


@pytest.mark.parametrize("case", REFUSED_YAML)
def test_yaml_beyond_the_subset_is_refused_in_one_line_with_its_place(case):
    text, expected, line = REFUSED_YAML[case]
    began = time.monotonic()
    message, place = problem(text)
    assert expected in message
    assert place == line or line is None
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("case", REFUSED_JSON)
def test_invalid_json_is_refused_in_one_line_with_its_place(case):
    text, expected, line = REFUSED_JSON[case]
    message, place = problem(text, is_json=True)
    assert expected in message
    assert place == line


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("is_json", [False, True], ids=["yaml", "json"])
def test_other_encodings_than_plain_utf_8_are_refused(encoding, is_json):
    assert problem('{"a": "é"}'.encode(encoding), is_json=is_json)[1] in (1, None)


def test_a_text_beyond_the_size_is_refused():
    assert problem(b"#" * (MAX_BYTES + 1))[0] == "262,145 bytes exceed the 262,144 bytes that a configuration may have"
    assert parse_document(b"#" * MAX_BYTES).tree is None


@pytest.mark.parametrize(
    "pattern", [b"a", b"- a\n", b"[", b"{", b"a: ", b'"', b"? ", b"&a ", b"!", b"%", b"a: 1\n", b"'\n"]
)
def test_a_text_of_the_largest_size_takes_bounded_time(pattern):
    content = (pattern * MAX_BYTES)[:MAX_BYTES]
    began = time.process_time()
    assert all(len(refusal(content, is_json=is_json)) < 500 for is_json in (False, True))
    assert time.process_time() - began < 10


@given(st.binary(max_size=60) | st.text(st.sampled_from("{}[]:,&*!|>%@`\"'\\#-?ab1.e+\n\t ~<="), max_size=60))
def test_any_text_gives_a_tree_or_one_line(content):
    content = content if isinstance(content, bytes) else content.encode()
    assert all(len(refusal(content, is_json=is_json).splitlines()) <= 1 for is_json in (False, True))


@given(TREES)
@example({"text": 'a\\"b: #', "list": [[], {}, "", " x "], "number": 1e-7})
def test_the_fast_parser_reads_what_the_one_in_python_reads(tree):
    text = dump_yaml(tree)
    assert parse_yaml(text) == _parse_in_python(text)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_both_parsers_read_a_shipped_file_in_the_same_way(path):
    text = path.read_text(encoding="utf-8")
    assert parse_yaml(text) == _parse_in_python(text)
    assert parse_yaml(text.replace("seed: 42", "seed: 'x' # y")).tree["seed"] == "x"

"""Strict parser of configuration text: YAML and JSON, bounded, with the line of every key.

Both notations give the same trees: mappings with text as keys, lists, texts, integers, floats, booleans and null. A
plain scalar of YAML is what JSON reads (``1e-3`` is a number), a float such as ``.5``, an infinity or NaN, or else
text: there are no dates, octal, hexadecimal or sexagesimal numbers, and ``yes`` and ``off`` are texts. Duplicate keys,
anchors, aliases, tags and several documents are errors. Nothing is expanded, so that memory and time are bounded by
the length of the text.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from esper_ray.leyline.errors import shortened

MAX_BYTES = 2**18
"""Longest text in bytes. The longest shipped file has 5,000."""
MAX_DEPTH = 20
"""Most mappings and lists within each other."""
MAX_NODES = 20_000
"""Most values in a text, mappings and lists included."""
MAX_DIGITS = 40
"""Most digits of an integer; no key has room for more than 13."""

_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)")
_CONSTANTS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{f"{sign}{name}": math.inf for sign in ("", "+") for name in (".inf", ".Inf", ".INF")},
    **{f"-{name}": -math.inf for name in (".inf", ".Inf", ".INF")},
}
_JSON_TOKEN = re.compile(
    r'[ \t\r\n]*(?:(?P<mark>[{}\[\],:])|(?P<text>"(?:[^"\\\x00-\x1f]|\\.)*")'
    r"|(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?![0-9A-Za-z.])"
    r"|(?P<constant>true|false|null|NaN|-?Infinity)(?![0-9A-Za-z])|(?P<end>\Z))"
)
_JSON_CONSTANTS: Mapping[str, Any] = {
    "true": True,
    "false": False,
    "null": None,
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
}
_FASTEST_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
TEXT_TAG = "tag:yaml.org,2002:str"


class DocumentError(ValueError):
    """Text that is not a configuration. ``line`` counts from 1, ``None`` if the problem has no line."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """Tree of a text, and lines of its keys and list items by dotted name."""

    tree: Any
    lines: Mapping[str, int]


def parse_document(content: bytes, *, is_json: bool = False) -> Document:
    """The tree in ``content``, which is UTF-8 without a byte order mark. An empty YAML text gives ``None``.

    Raises:
        DocumentError: if it cannot be parsed, or exceeds a bound.
    """
    if len(content) > MAX_BYTES:
        raise DocumentError(f"{len(content):,} bytes exceed the {MAX_BYTES:,} bytes that a configuration may have")
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise DocumentError("it begins with a byte order mark: save it as UTF-8 without one", 1)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError(f"byte 0x{content[error.start]:02x} is not UTF-8", line) from None
    return _JSONParser(text).document() if is_json else parse_yaml(text)


def parse_yaml(text: str) -> Document:
    """The tree of a YAML text.

    Raises:
        DocumentError: if it cannot be parsed, or exceeds a bound.
    """
    try:
        return _YAMLParser(yaml.parse(text, Loader=_FASTEST_LOADER)).document()
    except DocumentError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, IndexError):
        return _parse_in_python(text)  # its messages say more


def _parse_in_python(text: str) -> Document:
    try:
        return _YAMLParser(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise DocumentError(problem, None if mark is None else mark.line + 1) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(f"character #x{error.character:04x} is not allowed", line) from None
    except DocumentError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:  # numbers in directives and escapes
        raise DocumentError(f"not YAML: {' '.join(str(error).split())}") from None


def read_value(text: str) -> Any:
    """The value of ``KEY=VALUE``: a YAML list, mapping or quoted text, else a scalar as in a file.

    Raises:
        DocumentError: if a list, mapping or quoted text cannot be parsed, or a number has too many digits.
    """
    stripped = text.strip()
    return parse_yaml(stripped).tree if stripped.startswith(("[", "{", '"', "'")) else scalar(stripped)


def scalar(text: str) -> Any:
    """The value of a plain scalar: null, boolean, number or else ``text`` itself.

    Raises:
        DocumentError: if it is an integer of more than ``MAX_DIGITS`` digits, or text that is not printable.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise DocumentError(f"an integer of {len(text.lstrip('+-')):,} digits exceeds {MAX_DIGITS}")
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else printable(text)


def printable(text: str) -> str:
    """``text``, without line breaks, control characters and halves of surrogate pairs.

    Raises:
        DocumentError: if it has any.
    """
    if not text.isprintable():
        position = next(index for index, character in enumerate(text) if not character.isprintable())
        raise DocumentError(f"character #x{ord(text[position]):04x} is not allowed in a text of a configuration")
    return text


@dataclass(slots=True)
class _Recorder:
    """Counts and lines of a tree that is being read."""

    lines: dict[str, int] = field(default_factory=dict)
    nodes: int = 0

    def count(self, line: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise DocumentError(f"more than {MAX_NODES:,} values", line)

    def enter(self, path: Sequence[str], line: int) -> None:
        if len(path) >= MAX_DEPTH:
            raise DocumentError(f"more than {MAX_DEPTH} levels of mappings and lists", line)

    def add(self, mapping: Mapping[str, Any], key: Any, path: Sequence[str], line: int) -> list[str]:
        """The path of a new key of ``mapping``."""
        if not isinstance(key, str):
            raise DocumentError(f"a key must be text, got {key!r}", line)
        inner = [*path, key]
        if key in mapping:
            first = self.lines[".".join(inner)]
            raise DocumentError(f"key {shortened('.'.join(inner))} is given twice, first in line {first}", line)
        self.lines[".".join(inner)] = line
        return inner


class _YAMLParser:
    """Tree from the events of PyYAML, which does not recurse; the depth here is bounded."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events, self._recorder = events, _Recorder()

    def document(self) -> Document:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Document(None, {})
        tree = self._node(next(self._events), [])
        next(self._events)  # the end of the document
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise DocumentError("more than one document", _line_of(following))
        return Document(tree, self._recorder.lines)

    def _node(self, event: Any, path: Sequence[str]) -> Any:
        line = _line_of(event)
        self._recorder.count(line)
        if event.anchor is not None:
            raise DocumentError("anchors and aliases (& and *) are not supported: write the value out", line)
        if event.tag is not None:
            raise DocumentError(f"tags such as {shortened(event.tag)} are not supported", line)
        if isinstance(event, yaml.ScalarEvent):
            return _located(line, printable if event.style else scalar, event.value)
        self._recorder.enter(path, line)
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._list(path)

    def _mapping(self, path: Sequence[str]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                raise DocumentError("a key must be text, got a list or mapping", _line_of(event))
            key = self._node(event, path)
            inner = self._recorder.add(mapping, key, path, _line_of(event))
            mapping[key] = self._node(next(self._events), inner)
        return mapping

    def _list(self, path: Sequence[str]) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            inner = [*path, str(len(items))]
            self._recorder.lines[".".join(inner)] = _line_of(event)
            items.append(self._node(event, inner))
        return items


class _JSONParser:
    """Tree of a JSON text (RFC 8259), by recursive descent of bounded depth."""

    def __init__(self, text: str) -> None:
        self._text, self._recorder = text, _Recorder()
        self._position, self._line = 0, 1
        self._kind, self._token = "", ""

    def document(self) -> Document:
        self._advance()
        tree = self._value([])
        if self._kind != "end":
            self._fail("the end of the text")
        return Document(tree, self._recorder.lines)

    def _advance(self) -> None:
        match = _JSON_TOKEN.match(self._text, self._position)
        if match is None:
            start = self._position + len(self._text[self._position :]) - len(self._text[self._position :].lstrip())
            self._line += self._text.count("\n", self._position, start)
            raise DocumentError(f"not JSON: {shortened(self._text[start : start + 20])}", self._line)
        self._kind = match.lastgroup or ""
        self._token = match[self._kind]
        self._line += self._text.count("\n", self._position, match.start(self._kind))
        self._position = match.end()

    def _fail(self, expected: str) -> NoReturn:
        present = shortened(self._token) if self._token else "the end"
        raise DocumentError(f"expected {expected}, got {present}", self._line)

    def _expect(self, marks: str) -> str:
        token = self._token
        if self._kind != "mark" or token not in marks:
            self._fail(" or ".join(repr(mark) for mark in marks))
        self._advance()
        return token

    def _value(self, path: Sequence[str]) -> Any:
        line, kind, token = self._line, self._kind, self._token
        self._recorder.count(line)
        if token in ("{", "[") and kind == "mark":
            self._recorder.enter(path, line)
            self._advance()
            return self._mapping(path) if token == "{" else self._list(path)
        if kind not in ("text", "number", "constant"):
            self._fail("a value")
        self._advance()
        if kind == "constant":
            return _JSON_CONSTANTS[token]
        return _located(line, _json_text if kind == "text" else scalar, token)

    def _mapping(self, path: Sequence[str]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        if self._kind == "mark" and self._token == "}":
            self._advance()
            return mapping
        while True:
            if self._kind != "text":
                self._fail("a key in double quotes")
            key = _located(self._line, _json_text, self._token)
            inner = self._recorder.add(mapping, key, path, self._line)
            self._advance()
            self._expect(":")
            mapping[key] = self._value(inner)
            if self._expect(",}") == "}":
                return mapping

    def _list(self, path: Sequence[str]) -> list[Any]:
        items: list[Any] = []
        if self._kind == "mark" and self._token == "]":
            self._advance()
            return items
        while True:
            inner = [*path, str(len(items))]
            self._recorder.lines[".".join(inner)] = self._line
            items.append(self._value(inner))
            if self._expect(",]") == "]":
                return items


def _json_text(token: str) -> str:
    try:
        return printable(json.loads(token))
    except json.JSONDecodeError as error:
        raise DocumentError(f"{error.msg} in {shortened(token)}") from None


def _located(line: int, read: Any, text: str) -> Any:
    """``read(text)``, whose errors have the line."""
    try:
        return read(text)
    except DocumentError as error:
        raise DocumentError(str(error), line) from None


class _Dumper(yaml.SafeDumper):
    """YAML dumper with lists in one line. Text that a reader would not read as text gets double quotes."""


def _list_node(dumper: yaml.SafeDumper, values: Sequence[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    tag = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    plain = tag == TEXT_TAG and isinstance(scalar(text), str)
    return dumper.represent_scalar(TEXT_TAG, text, style=None if plain else '"')


_Dumper.add_representer(list, _list_node)
_Dumper.add_representer(str, _text_node)


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """``tree`` as YAML that :func:`parse_document` reads back, in the order of its keys."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _line_of(event: yaml.Event) -> int:
    """Number of the line where ``event`` begins, from 1."""
    mark = event.start_mark
    assert mark is not None  # the parser gives every event its place
    return int(mark.line) + 1

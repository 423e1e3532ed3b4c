"""First sentences of pages and docstrings: at most fifteen words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "pages").rglob("*.md"))
SOURCES = ("esper_ray", "actors", "policies", "benchmarks", "evidence", "examples", "docs")
WORDS = 15
NO_PROSE = ("#", "|", "!", "<", "-", ":::")
"""Beginnings of paragraphs that are headings, tables, pictures, HTML, lists or references."""


def first_sentence_of_page(text: str) -> str:
    """First sentence of the first paragraph of prose; empty without one."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    paragraphs = (paragraph.strip() for paragraph in text.split("\n\n"))
    prose = next((p for p in paragraphs if p and not p.startswith(NO_PROSE)), "")
    return re.split(r"(?<=[.!?])\s", prose)[0]


def first_sentence_of_docstring(text: str) -> str:
    """First sentence; a colon ends it, too."""
    return re.split(r"\n\n|(?<=[.!?:])\s", text)[0]


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and docstring of a module, its classes and its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "module"), text


def is_long(sentence: str) -> bool:
    return len(sentence.split()) > WORDS


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT / "docs" / "pages").as_posix() for page in PAGES])
def test_the_first_sentence_of_a_page_has_at_most_fifteen_words(page):
    sentence = first_sentence_of_page(page.read_text())
    assert sentence
    assert not is_long(sentence), sentence


@pytest.mark.parametrize("folder", SOURCES)
def test_the_first_sentence_of_a_docstring_has_at_most_fifteen_words(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    sentences = [
        (path.relative_to(ROOT).as_posix(), name, first_sentence_of_docstring(text))
        for path in paths
        for name, text in docstrings(ast.parse(path.read_text()))
    ]
    assert [entry for entry in sentences if is_long(entry[2])] == []


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("# Title\n\nA run is\na folder. It grows.\n", "A run is\na folder."),
        ("---\nhide: [toc]\n---\n\n# Title\n\n```bash\nmake\n\nall\n```\n\n| a |\n\n`x` is v1.5!", "`x` is v1.5!"),
        ("# Title\n\n- item\n", ""),
    ],
)
def test_the_first_sentence_of_a_page_by_hand(page, sentence):
    assert first_sentence_of_page(page) == sentence


def test_a_sentence_of_sixteen_words_is_long_and_one_of_fifteen_is_not():
    assert [is_long(" ".join(["word"] * count)) for count in (15, 16)] == [False, True]
    assert first_sentence_of_docstring("One of:\na, b.\n\nMore.") == "One of:"
    assert [*docstrings(ast.parse('"""A."""\nclass B:\n  """C."""\n'))] == [("module", "A."), ("B", "C.")]

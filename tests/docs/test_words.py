"""Words that docstrings, messages, help texts and pages avoid, with their replacements."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("esper_ray", "actors", "policies", "examples", "docs")
PAGES = [*(ROOT / "docs" / "pages").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
AVOIDED = {
    r"optimis(er|e|ed|ing)": "optimizer, optimize",
    r"(?<!\.)normalisers?": "normalizer",
    r"learnt": "learned",
    r"fossilis(?!ed\b|ed_mean)": "fossilize",
    r"(?<!there )(?<!where )is no (?!longer|more |less )": "is not a",
    r"(go|goes|went|gone|going) on with": "resume, continue",
    r"(hand|hands|handed|handing) out": "dispatch",
    r"(befall|befalls|befell|answerable|whoever|likeliest)": "the plain verb or noun",
    r"(nobody|everybody|somebody)": "the user, all users",
    r"those that there are": "the existing ones",
}
"""Patterns of whole words, with what stands instead. ``fossilised`` is a stored name."""


def avoided(text: str) -> list[str]:
    """The avoided words in ``text``, with their surroundings."""
    text = " ".join(text.split())
    matches = (match for pattern in AVOIDED for match in re.finditer(rf"\b{pattern}", text, re.IGNORECASE))
    return [text[max(0, match.start() - 30) : match.end() + 20] for match in matches]


def texts(path: Path) -> list[str]:
    """Docstrings and strings with a space, which may be shown to a user."""
    nodes = ast.walk(ast.parse(path.read_text()))
    strings = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [text for text in strings if " " in text]


@pytest.mark.parametrize("folder", SOURCES)
def test_docstrings_and_messages_have_no_avoided_word(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    matches = [(path.relative_to(ROOT).as_posix(), avoided(text)) for path in paths for text in texts(path)]
    assert [match for match in matches if match[1]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_no_avoided_word(page):
    assert avoided(page.read_text()) == []


@pytest.mark.parametrize(
    "text",
    ["the optimiser", "it has learnt", "x is no file", "goes on\nwith it", "Nobody waits", "fossilise it", "optimise"],
)
def test_an_avoided_word_is_found(text):
    assert avoided(text)


@pytest.mark.parametrize(
    "text",
    ["there is no file", "there\nis no file", "it is no longer", "the column fossilised_mean", "self.normaliser"],
)
def test_other_words_are_allowed(text):
    assert avoided(text) == []

"""Blocks of commands and programs in the documentation, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pages"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    """Path below ``docs/pages``, or the name of a file at the top level."""
    index: int
    """Position among the blocks of its language on the page, from 0."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}[{self.index}]"


def documents() -> dict[str, str]:
    """Text of every page by its name."""
    paths = {name: ROOT / name for name in ("README.md", "CONTRIBUTING.md")}
    paths |= {str(path.relative_to(PAGES)): path for path in sorted(PAGES.rglob("*.md"))}
    return {name: path.read_text() for name, path in paths.items()}


def blocks(language: str) -> list[Block]:
    """Every block of ``language`` in the documentation, in order."""
    pattern = re.compile(rf"^```{language}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        Block(page, index, language, match.group(1))
        for page, text in documents().items()
        for index, match in enumerate(pattern.finditer(text))
    ]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a block: lines are joined at backslashes, comments and variables are left out."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [_without_variables(line) for line in words if line]


def _without_variables(words: list[str]) -> list[str]:
    start = next((i for i, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=\S*", word)), len(words))
    return words[start:]


def esper_words(words: list[str]) -> list[str] | None:
    """What follows ``esper`` in a command, also where it is started by another program; ``None`` without it."""
    for position, word in enumerate(words):
        if word == "esper" or word.endswith("/bin/esper"):
            return words[position + 1 :]
    return None


def inline_commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of every command ``esper ...`` within a sentence."""
    for page, text in documents().items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for match in re.finditer(r"`esper ([^`]+)`", prose):
            yield page, shlex.split(match.group(1))

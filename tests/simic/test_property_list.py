"""Coverage of the sixty properties of rewards (section 18): each is named by a test."""

import re
from pathlib import Path

HERE = Path(__file__).resolve()
NUMBER = re.compile(r"\bP(\d{1,2})\b")


def test_every_property_is_named_by_a_test():
    named = set()
    for path in HERE.parents[1].rglob("test_*.py"):
        if path != HERE:
            named |= {int(number) for number in NUMBER.findall(path.read_text(encoding="utf-8"))}
    assert set(range(1, 61)) - named == set()

"""The commands of the palette, which is opened by ctrl+p."""

from esper_ray.karn.sanctum.text import Ink, TextLine, line, rule
from esper_ray.karn.sanctum.view import Body, Controls

COMMANDS = (
    ("1", "overview: what learns, what grows, every environment"),
    ("2", "policy: the newest update, heads, operations by round"),
    ("3", "networks: layers and seeds of the chosen one"),
    ("4", "episode: lanes by step, reward of a step by source"),
    ("5", "seed: gates, decisions, contribution"),
    ("6", "log: events by kind and text"),
    ("7", "runs of the folder"),
    ("e", "environment by its number"),
    ("/", "filter the log or the runs"),
    ("s", "sort the environments"),
    ("a", "log: trouble only"),
    ("t", "the other group of a comparison"),
    (" ", "hold what is shown, or continue"),
    ("p", "episode: the step with the highest accuracy"),
    ("y", "copy the SQL of what is shown"),
    ("w", "write the flight recorder"),
    ("i", "facts of the run"),
    ("?", "help and glossary"),
    ("q", "leave"),
)
"""Keys and what they do."""


def matching(typed: str) -> list[tuple[str, str]]:
    """The commands that hold every typed word."""
    words = typed.lower().split()
    return [command for command in COMMANDS if all(word in command[1] for word in words)]


def body(controls: Controls, width: int, height: int) -> Body:
    """The palette."""
    commands = matching(controls.typed)
    lines: list[TextLine] = [rule("commands: type a word, enter executes, esc closes", width)]
    lines += [() if commands else line(Ink(" no command has these words", "dim"))]
    chosen = min(controls.choice, max(0, len(commands) - 1))
    for index, (key, about) in enumerate(commands):
        mark = Ink(f" {'>' if index == chosen else ' '} {'space' if key == ' ' else key:<6}", "title")
        lines.append(line(mark, Ink(about, "cursor" if index == chosen else "")))
    return Body(tuple(lines[:height]))

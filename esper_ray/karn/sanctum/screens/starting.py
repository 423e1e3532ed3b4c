"""The screen of a starting run, and the lines about its command."""

from esper_ray.karn.sanctum.text import Ink, Role, TextLine, line, printable, rule
from esper_ray.karn.sanctum.view import Body, RunView
from esper_ray.leyline.names import CONSOLE_LOG

FAILED_LINES = 3
"""Lines of the console below the status of a failed run."""


def is_starting(view: RunView) -> bool:
    """Whether the workers of a run start that has no round and no step yet."""
    pulse, state = view.sight.pulse, view.state
    begins = not state.count if pulse is None else pulse["phase"] == "starting"
    return begins and not view.is_over and not state.environments and not state.rounds


def body(view: RunView, width: int, height: int) -> Body:
    """What starts, and the newest lines of its console."""
    command = " ".join(map(str, view.manifest.get("command", ())))
    lines: list[TextLine] = [(), line(" The run starts: its workers and its data are prepared.")]
    if command:
        lines.append(line(" command: ", Ink(printable(command), "dim")))
    if view.console:
        lines += [(), rule(CONSOLE_LOG, width)]
        room = max(0, height - len(lines))
        lines += [line(f" {printable(text)}") for text in view.console[-room:]] if room else []
    return Body(tuple(lines))


def command_lines(view: RunView) -> list[TextLine]:
    """What a viewer must know about the command and the end of a failed run."""
    lines: list[TextLine] = []
    command = view.command
    if command is not None and command.exit_code is not None:
        role: Role = "look" if command.exit_code == 0 else "wrong"
        text = f"the command has ended with exit code {command.exit_code}; q leaves and passes it on"
        lines.append(line(Ink(f"! {text}", role)))
    elif command is not None and command.stops:
        text = "the command ends" if view.is_over else "the present step ends, then a checkpoint is saved"
        lines.append(line(Ink(f"! stopping: {text}", "look")))
    if view.state.status == "failed" and view.console:
        lines += [line(Ink(f"  {printable(text)}", "dim")) for text in view.console[-FAILED_LINES:]]
    return lines

"""A command in a process of its own, which Sanctum shows.

It outlives the terminal.

Dataflow::

    parent: WatchedCommand --starts--> the same command without --sanctum, in a session of its own
    command --announcement (a pipe)--> its folder, when nothing can be refused any more --> Sanctum
    command --console.log of that folder--> what it prints; before, into a file without a name
"""

import os
import selectors
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Self

from esper_ray.cli.jobs.announcement import CHANNEL, END_OF_PATH
from esper_ray.karn.places import shown_path
from esper_ray.karn.sanctum.command import CommandState
from esper_ray.leyline.errors import UserError
from esper_ray.leyline.names import CONSOLE_LOG

LAST_LINES = 12
"""Lines of the output that are printed when the command has ended."""
OUTPUT_BYTES = 65536
"""Greatest part of the output that is read at a time, and greatest end of it that is printed."""
LOOK_SECONDS = 0.1
"""Seconds between two looks at a command that has not announced its folder."""


class WatchedCommand:
    """A command in a session of its own: signals of the terminal do not reach it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
        """Start the command.

        Args:
            environment: its environment variables.
        """
        self._output: IO[bytes] = TemporaryFile()  # noqa: SIM115 - it stays open
        self._printed = self._stops = 0
        self._channel, write = os.pipe()
        self._answer, self._is_closed = b"", False
        self.folder: Path | None = None
        """Folder of the run, comparison or sweep, once it is announced."""
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(write,),
                env={**environment, CHANNEL: str(write)},
            )
        finally:
            os.close(write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._output.close()
        os.close(self._channel)

    def state(self) -> CommandState:
        """Whether it runs, and how often it was asked to stop."""
        code = self._process.poll()
        return CommandState(self._process.pid, self._stops, code if code is None or code >= 0 else 128 - code)

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C would: a checkpoint is saved. A second request ends it at once."""
        if self._process.poll() is None:
            self._stops += 1
            self._process.send_signal(signal.SIGINT)

    def wait_for_folder(self, seconds: float) -> bool:
        """Whether the command has announced its folder, or can do so no more, within ``seconds``."""
        with selectors.DefaultSelector() as selector:
            if not self._is_closed:
                selector.register(self._channel, selectors.EVENT_READ)
            while not self._is_closed and selector.select(seconds):
                part = os.read(self._channel, 4096)
                self._answer += part
                self._is_closed = not part or self._answer.endswith(END_OF_PATH)
            if self.folder is None and self._answer.endswith(END_OF_PATH):
                self.folder = Path(shown_path(Path(os.fsdecode(self._answer.removesuffix(END_OF_PATH)))))
                self._open_output(self.folder / CONSOLE_LOG)
        return self._is_closed or self._process.poll() is not None

    def _open_output(self, path: Path) -> None:
        """Read the output from ``path``: a run that fails before its first round is removed with it."""
        try:
            output = path.open("rb")
        except OSError:
            return  # it was removed already; what was printed before is known
        self._output.close()
        self._output = output

    def new_output(self) -> bytes:
        """What was printed since the last call, before the folder was announced."""
        part = os.pread(self._output.fileno(), OUTPUT_BYTES, self._printed)
        self._printed += len(part)
        return part

    def last_output(self) -> str:
        """The newest lines of the output."""
        descriptor = self._output.fileno()
        begin = max(0, os.fstat(descriptor).st_size - OUTPUT_BYTES)
        lines = os.pread(descriptor, OUTPUT_BYTES, begin).decode(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])

    def wait(self) -> int:
        """Exit code, after its end."""
        self._process.wait()
        return self.state().exit_code or 0


def command_line(words: Sequence[str]) -> list[str]:
    """The command ``esper WORDS`` for another process, with the program that runs here."""
    program = sys.argv[0]
    own = [program] if Path(program).name == "esper" and os.access(program, os.X_OK) else ["-m", "esper_ray"]
    return [sys.executable, *own, *words]


def watch_command(words: Sequence[str], *, ascii_only: bool = False) -> int:
    """Start ``esper WORDS`` and show its run.

    The result is the exit code of the command, or 0 if it continues.
    A refusal is printed as the command prints it, before the screen is entered.

    Raises:
        MissingExtraError: if Textual is not installed. Nothing is started then.
        SystemExit: if a signal ends this process while the command starts.
    """
    import esper_ray.karn.sanctum.app  # noqa: F401 - refused before anything is started

    with WatchedCommand(command_line(words)) as command:
        _say("esper: the command starts; its run is shown as soon as it exists")
        return _shown(command, ascii_only)


def _shown(command: WatchedCommand, ascii_only: bool) -> int:
    """Show the run of a command; see :func:`watch_command`."""
    from esper_ray.karn.sanctum.app import run_sanctum
    from esper_ray.karn.sanctum.view import OVERVIEW, RUNS
    from esper_ray.karn.sanctum.watch import watch_of

    if not _is_announced(command) or command.folder is None:
        return command.wait()
    try:
        watch = watch_of(str(command.folder))
    except UserError as error:
        if command.folder.exists():
            error.add_note(_goes_on(command))
            raise
        code = command.wait()  # the run was removed again: it failed before anything could be saved
        _say(command.last_output())
        return code
    number = run_sanctum(
        watch,
        os.environ,
        ascii_only=ascii_only,
        screen=OVERVIEW if watch.shows_run else RUNS,
        command=command,
    )
    if number == signal.SIGTERM:
        command.stop()
        command.wait()
    state = command.state()
    if state.runs:
        _say(_goes_on(command))
        return 0
    _say(command.last_output())
    return state.exit_code or 0


def _goes_on(command: WatchedCommand) -> str:
    return f"the training continues: esper sanctum {shlex.quote(str(command.folder))}"


def _is_announced(command: WatchedCommand) -> bool:
    """Whether the command has announced its folder. What it prints until then is printed."""
    try:
        while not command.wait_for_folder(LOOK_SECONDS):
            _copy_output(command)
    except SystemExit as end:
        if end.code == 128 + signal.SIGHUP:
            raise
        command.stop()
        code = command.wait()
        _copy_output(command)
        raise SystemExit(code) from None
    if command.folder is None:
        command.wait()
        _copy_output(command)
    return command.folder is not None


def _copy_output(command: WatchedCommand) -> None:
    while part := command.new_output():
        os.write(2, part)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201

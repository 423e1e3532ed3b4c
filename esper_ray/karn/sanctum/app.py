"""The program in the terminal: it draws frames and forwards keys. What is shown is decided elsewhere."""

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from esper_ray.karn.driver_signal import recording_request
from esper_ray.karn.sanctum.command import ShownCommand
from esper_ray.karn.sanctum.frame import Frame, frame
from esper_ray.karn.sanctum.keys import pressed
from esper_ray.karn.sanctum.palette import Palette, from_environment
from esper_ray.karn.sanctum.screens.starting import is_starting
from esper_ray.karn.sanctum.text import TextLine
from esper_ray.karn.sanctum.view import RUNS, SEED, Controls, RunView
from esper_ray.karn.sanctum.watch import LIVE_SECONDS, RunWatch
from esper_ray.leyline.errors import MissingExtraError, missing_extra
from esper_ray.leyline.process.signals import leave_closed_terminal
from esper_ray.nissa.state.answers import GONE_SECONDS

try:
    from rich.segment import Segment
    from textual import events
    from textual.app import App, ComposeResult
    from textual.geometry import Region
    from textual.strip import Strip
    from textual.widget import Widget
except ImportError as error:
    raise MissingExtraError(missing_extra("textual", "karn")) from error


def changed_columns(before: TextLine, after: TextLine) -> tuple[int, int] | None:
    """First changed column and the one behind the last; ``None`` if nothing differs."""
    if before == after:
        return None
    old = [(letter, span.role) for span in before for letter in span.text]
    new = [(letter, span.role) for span in after for letter in span.text]
    if len(old) != len(new):
        return 0, max(len(old), len(new))
    different = [place for place, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
    return (different[0], different[-1] + 1) if different else None


class Canvas(Widget):
    """Widget that draws lines, and of a new frame only the cells that differ."""

    def __init__(self, palette: Palette) -> None:
        super().__init__()
        self._palette = palette
        self.rows: tuple[TextLine, ...] = ()
        self.drawn = 0
        """Cells that were drawn anew, for tests of what an update costs."""

    def show(self, rows: tuple[TextLine, ...]) -> None:
        """Draw these lines."""
        before, self.rows = self.rows, rows
        if len(before) != len(rows):
            self.refresh()
            return
        regions = []
        for number, (old, new) in enumerate(zip(before, rows, strict=True)):
            span = changed_columns(old, new)
            if span is not None:
                regions.append(Region(span[0], number, span[1] - span[0], 1))
        self.drawn += sum(region.width for region in regions)
        if regions:
            self.refresh(*regions)

    def render_line(self, y: int) -> Strip:
        """One line in the styles of the palette."""
        if y >= len(self.rows):
            return Strip.blank(self.size.width)
        segments = [Segment(span.text, self._palette[span.role]) for span in self.rows[y] if span.text]
        return Strip(segments).adjust_cell_length(self.size.width)


class Sanctum(App[int]):
    """Terminal view of a run."""

    CSS = "Screen { background: ansi_default; } Canvas { background: ansi_default; width: 100%; height: 100%; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = []
    TITLE = "esper sanctum"

    def __init__(
        self,
        watch: RunWatch,
        palette: Palette,
        *,
        ascii_only: bool = False,
        screen: int = 1,
        command: ShownCommand | None = None,
    ) -> None:
        """
        Args:
            ascii_only: whether no character beyond ASCII is drawn.
            screen: number of the first screen.
            command: the command that trains what is shown, if it was started with Sanctum.
        """
        super().__init__(ansi_color=True)
        self._watch, self._ascii, self._command = watch, ascii_only, command
        self._canvas = Canvas(palette)
        self._reading = False
        self._next_run: str | None = None
        """Run that is to be opened by the next reading."""
        self.view: RunView = self._commanded(watch.first())
        """What is shown."""
        self.newest: RunView = self.view
        """What is known; it differs from the view while that is held."""
        self.controls = Controls(screen=screen)

    def compose(self) -> ComposeResult:
        """The one widget."""
        yield self._canvas

    def on_mount(self) -> None:
        """Draw what is known, and read the log beside it. SIGTERM and SIGHUP leave."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._signalled, number)
        self._draw()
        self.set_interval(LIVE_SECONDS, self._poll)
        self._poll()

    def on_resize(self, event: events.Resize) -> None:
        """Draw for another size."""
        self.call_after_refresh(self._draw)

    def on_key(self, event: events.Key) -> None:
        """Forward a key."""
        event.prevent_default()
        event.stop()
        printable = event.character is not None and event.character.isprintable()
        self.press(event.character if printable and event.character else event.key)

    async def action_quit(self) -> None:
        """Leave, or ask."""
        self.press("ctrl+q")

    def action_help_quit(self) -> None:
        """Leave on Ctrl-C, or ask."""
        self.press("ctrl+c")

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            leave_closed_terminal()
        self.exit(number)

    def press(self, key: str) -> None:
        """What a key does."""
        was_held = self.controls.held
        result = pressed(self.controls, key, self.view)
        self.controls = result.controls
        if result.copy:
            self.copy_to_clipboard(result.copy)
        if result.record:
            self.controls = replace(self.controls, message=self._requested())
        if result.stop and self._command is not None:
            self._command.stop()
            self.view, self.newest = self._commanded(self.view), self._commanded(self.newest)
        if result.leave:
            self.exit()
            return
        if result.run is not None:
            self._watch_run(result.run)
            return
        if was_held and not self.controls.held:
            self.view = self.newest
        self._draw()
        if self.controls.screen == RUNS and not self.view.runs:
            self._poll()

    def _requested(self) -> str:
        """Ask the driver for a recording; what was done."""
        sight = self.newest.sight
        return recording_request(self.newest.path, sight.pulse, gone=sight.beat_age_s > GONE_SECONDS)

    def _watch_run(self, name: str) -> None:
        self._next_run = name
        self._poll()

    def _poll(self) -> None:
        """Read what is new in a thread, one reading at a time."""
        if self._reading:
            return
        self._reading = True
        self.run_worker(self._read, thread=True, exit_on_error=True)

    def _read(self) -> None:
        name, self._next_run = self._next_run, None
        if name is not None:
            self._watch.open(name)
            self.call_from_thread(self._receive, self._watch.first())
        view = self._watch.poll(runs=self.controls.screen == RUNS)
        self.call_from_thread(self._received, view)

    def _commanded(self, view: RunView) -> RunView:
        """The view with the present state of the command."""
        return view if self._command is None else replace(view, command=self._command.state())

    def _receive(self, view: RunView) -> None:
        view = self.newest = self._commanded(view)
        begins = is_starting(view) if view.name else not view.runs
        if view.command is not None and not view.command.runs and (view.command.stops or begins):
            self.exit()  # it was stopped here, or has not begun: its output says the rest
            return
        if not self.controls.held:
            self.view = view
            self._draw()

    def _received(self, view: RunView) -> None:
        self._reading = False
        self._receive(view)
        if self._next_run is not None:
            self._poll()

    def frame(self) -> Frame:
        """The present frame."""
        return frame(self.view, self.controls, self.size.width, self.size.height, ascii_only=self._ascii)

    def _draw(self) -> None:
        shown = self.frame()
        if self.controls.overlay or self.controls.screen == SEED:
            self.controls = replace(self.controls, scroll=shown.offset)
        else:
            offsets = {**self.controls.offsets, self.controls.screen: shown.offset}
            self.controls = replace(self.controls, offsets=offsets)
        self._canvas.show(shown.lines)


def run_sanctum(
    watch: RunWatch,
    environment: Mapping[str, str],
    *,
    ascii_only: bool,
    screen: int,
    command: ShownCommand | None = None,
) -> int:
    """Show a place until the viewer leaves.

    The result is the number of the signal that ended it, or 0.

    Args:
        environment: environment variables, of which ``NO_COLOR`` and ``COLORFGBG`` count.
        screen: number of the first screen.
        command: the command that trains what is shown, if it was started with Sanctum.
    """
    app = Sanctum(watch, from_environment(environment), ascii_only=ascii_only, screen=screen, command=command)
    return app.run(mouse=False) or 0

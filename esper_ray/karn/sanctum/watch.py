"""A place as views: the run that is shown, followed, and the runs beside it."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from esper_ray.karn.page_client import served_place
from esper_ray.karn.places import RunLine, place_of
from esper_ray.karn.recent import RecentRecords
from esper_ray.karn.run_folders import LocalFolder, RunFolder, ShownRun, stored_place
from esper_ray.karn.sanctum.view import RunView
from esper_ray.leyline.errors import UserError

LIVE_SECONDS = 0.25
"""Seconds between two looks at a run that is going on."""
OVER_SECONDS = 5.0
"""Seconds between two looks at a run that is over, and at the folder of the runs."""

UP = ".."
"""Name of the folder around the present one."""
CONSOLE_LINES = 40
"""Newest lines of the console that are shown."""


class RunWatch:
    """Follower of a run in a folder of runs. It is used from one thread at a time."""

    def __init__(self, folder: RunFolder, run: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            run: name of the run that is shown; ``None``: the folder itself.
            clock: seconds of the viewer.
        """
        self._folder, self._clock, self._pending = folder, clock, run
        self._above: list[RunFolder] = []
        """The folders around a comparison or sweep that was opened in them."""
        self._runs: tuple[RunLine, ...] = ()
        self._listed: float | None = None
        self._run: ShownRun | None = None
        self._recent = RecentRecords()
        self._failure, self._lost = "", ""
        self._refreshed = self._tried = clock()
        """When the run was fetched, and when that was tried last."""
        self._over_since: float | None = None
        self._was_read = False

    @property
    def shows_run(self) -> bool:
        """Whether a run is shown, or will be after the next reading."""
        return self._pending is not None or self._run is not None

    def open(self, name: str) -> None:
        """Show another run or group of the folder; ``..`` is the folder around it. It is opened by the next reading."""
        self._pending = name

    def _open(self, name: str) -> None:
        self._run, self._failure, self._lost = None, "", ""
        if name == UP:
            self._enter(self._above.pop() if self._above else self._folder)
            return
        try:
            inner = self._folder.within(name)
            if inner is not None:
                self._above.append(self._folder)
                self._enter(inner)
            else:
                self._was_read, self._over_since, self._refreshed = False, None, self._clock()
                self._recent = RecentRecords()
                self._run = self._folder.open(name, self._clock, self._recent)
        except UserError as error:
            self._failure = str(error)

    def _enter(self, folder: RunFolder) -> None:
        self._folder, self._runs, self._listed = folder, (), None

    def first(self) -> RunView:
        """What is known before the log is read."""
        return self._view(reading=self._run is not None or self._pending is not None)

    def poll(self, *, runs: bool = False) -> RunView:
        """Read what is new.

        Args:
            runs: whether the list of runs is shown.
        """
        if self._pending is not None:
            name, self._pending = self._pending, None
            self._open(name)
        now = self._clock()
        if (runs or self._folder.kind == "comparison") and (self._listed is None or now - self._listed >= OVER_SECONDS):
            self._list(now)
        if self._run is not None and not self._failure and not self._rests(now):
            self._refresh(now)
            try:
                self._run.poll()
            except UserError as error:
                self._failure = str(error)
            self._was_read = True
        return self._view(reading=self._run is not None and not self._was_read)

    def _list(self, now: float) -> None:
        self._listed = now
        try:
            self._runs, self._lost = self._folder.lines(), ""
        except UserError as error:
            self._lost = f"{error}; the next try is in {OVER_SECONDS:.0f} s"

    def _refresh(self, now: float) -> None:
        """Fetch what is new of a run elsewhere; what is known stays if that fails."""
        run = self._run
        if run is None or now - max(self._refreshed, self._tried) < run.refresh_s:
            return
        self._tried = now
        try:
            run.refresh()
            self._refreshed, self._lost = now, ""
        except UserError as error:
            age = f"what is shown is {now - self._refreshed:.0f} s old"
            self._lost = f"{error}; {age}, the next try is in {run.refresh_s:.0f} s"

    def _rests(self, now: float) -> bool:
        """Whether the run is over and was looked at a short while ago."""
        if self._run is None or self._run.state.status not in ("finished", "interrupted", "failed"):
            self._over_since = None
            return False
        if self._over_since is None or now - self._over_since >= OVER_SECONDS:
            self._over_since = now
            return False
        return True

    def _view(self, *, reading: bool) -> RunView:
        run = self._run
        view = RunView(
            folder=self._folder.shown,
            folder_kind=self._folder.kind,
            is_nested=bool(self._above),
            runs=self._runs,
            failure=self._failure,
            connection=self._lost,
            reading=reading,
        )
        if run is None:
            return view
        return replace(
            view,
            name=run.name,
            path=run.place,
            state=run.state,
            sight=run.sight,
            manifest=run.manifest,
            recent=self._recent.snapshot(),
            problems=tuple(run.problems),
            notes=(*([run.note] if run.note else ()), *run.notes),
            choices=run.choices,
            live_is_full=run.live_is_full,
            console=run.console(CONSOLE_LINES) if _shows_console(run) else (),
        )


def _shows_console(run: ShownRun) -> bool:
    """Whether the run starts or has failed."""
    state = run.state
    return state.status == "failed" or not (state.rounds or state.environments)


def watch_of(place: str | None, clock: Callable[[], float] = time.monotonic) -> RunWatch:
    """The follower of what an argument names: a path, a storage, or the address of an Overwatch.

    Raises:
        UserError: if there is nothing to show, or it cannot be read.
    """
    if place is not None and re.match(r"https?://", place):
        return RunWatch(*served_place(place, os.environ), clock)
    if place is not None and "://" in place:
        return RunWatch(*stored_place(place), clock)
    found = place_of(None if place is None else Path(place))
    return RunWatch(LocalFolder(found.folder), None if found.run is None else found.run.path.name, clock)

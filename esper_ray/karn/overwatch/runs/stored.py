"""Copies of runs in storages, mirrored without their checkpoints for the server.

Tables and manifests of all copies are fetched for the list, the log of a copy while its run is watched.
"""

import shutil
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from esper_ray.karn.places import MANIFEST, MOST_RUNS
from esper_ray.karn.run_folders import COPY_SECONDS, NOTE
from esper_ray.leyline.errors import UsageError, UserError
from esper_ray.nissa.runs.copies.copy_mirror import CopyMirror
from esper_ray.nissa.runs.copies.storage import Storage, check_place, split_place

LIST_SECONDS = 30.0
"""Seconds between two looks at all copies of a storage."""
WATCHED_SECONDS = 60.0
"""Time for which the log of a copy is fetched after it was asked for."""


class StoredRuns:
    """Mirrors of the runs of one storage, in a temporary folder. Several threads may use it."""

    def __init__(self, place: str, clock: Callable[[], float] = time.monotonic) -> None:
        """List the runs.

        Args:
            place: a URI with its credentials, of a folder of copies or of one copy.

        Raises:
            StorageError: if it cannot be read.
            UsageError: if it holds no run.
        """
        check_place(place)
        self._storage, self._only = Storage(place), ""
        if self._storage.stamp(MANIFEST) is not None:
            parent, self._only = split_place(place)
            self._storage = Storage(parent)
        self.shown = self._storage.place
        """The storage as it is written in commands."""
        self.folder = Path(mkdtemp(prefix="esper-overwatch-"))
        """Folder of the mirrors."""
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._clock, self._lock = clock, threading.Lock()
        self._mirrors: dict[str, CopyMirror] = {}
        self._stamps: dict[str, str] = {}
        """Versions of the manifests of all copies."""
        self._asked: dict[str, float] = {}
        self._listed = self._fetched = -LIST_SECONDS
        self.problem = ""
        """Why the storage cannot be read at present; empty if it can."""
        self._list()
        if not self._mirrors:
            raise UsageError(f"{self.shown} holds no run: it has no {MANIFEST}, nor has a folder in it")

    def fetch(self, name: str) -> None:
        """Fetch what is new of a run at once. A failure becomes the ``problem``."""
        self.ask(name)
        self._try(partial(self._update, name))

    def ask(self, name: str) -> None:
        """Have the log of a run fetched for the next while."""
        self._asked[name] = self._clock()

    def poll(self) -> None:
        """Fetch what is due: the list, and the logs of runs that were asked for."""
        now = self._clock()
        if now - self._listed >= LIST_SECONDS:
            self._try(self._list)
        if now - self._fetched >= COPY_SECONDS:
            self._fetched = now
            for name, asked in list(self._asked.items()):
                if now - asked < WATCHED_SECONDS:
                    self._try(partial(self._update, name))

    def _try(self, fetch: Callable[[], None]) -> None:
        try:
            fetch()
        except UserError as error:
            self.problem = str(error)
        else:
            self.problem = ""

    def _update(self, name: str) -> None:
        with self._lock:
            mirror = self._mirrors.get(name)
            if mirror is not None:
                mirror.update()

    def _list(self) -> None:
        """Fetch tables and manifests of changed copies. The mirrors of copies that are gone are removed."""
        self._listed = self._clock()
        names = [self._only] if self._only else self._storage.names()[:MOST_RUNS]
        found = {name: self._storage.stamp(f"{name}/{MANIFEST}") for name in names}
        for name, stamp in found.items():
            if stamp is not None and stamp != self._stamps.get(name):
                with self._lock:
                    mirror = self._mirrors.setdefault(name, CopyMirror(self._storage.within(name), self.folder / name))
                    mirror.update_facts()
                self._stamps[name] = stamp
        for name in [name for name in self._mirrors if found.get(name) is None]:
            with self._lock:
                del self._mirrors[name], self._stamps[name]
                shutil.rmtree(self.folder / name, ignore_errors=True)


class Copies:
    """The storages of a server, and the thread that fetches from them."""

    def __init__(self, storages: Sequence[StoredRuns] = ()) -> None:
        self._storages = tuple(storages)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="overwatch-storage", daemon=True)

    def start(self) -> None:
        """Start the thread, if there is a storage."""
        if self._storages:
            self._thread.start()

    def close(self) -> None:
        """End the thread after the fetch that it makes."""
        self._ended.set()

    @property
    def mirrors(self) -> dict[Path, str]:
        """The storages as they are written in commands, by the folder of their mirrors."""
        return {storage.folder: storage.shown for storage in self._storages}

    def fetch(self, path: Path, *, now: bool) -> None:
        """Have what is new of the run at ``path`` fetched, if it is a copy.

        Args:
            now: whether to wait for it.
        """
        storage = self._of(path)
        if storage is None:
            return
        if now:
            storage.fetch(path.name)
        else:
            storage.ask(path.name)

    def notes(self, path: Path) -> tuple[str, ...]:
        """Notes for viewers of the run at ``path``, if it is a copy."""
        storage = self._of(path)
        if storage is None:
            return ()
        return (NOTE, f"{storage.problem}; what is shown stays") if storage.problem else (NOTE,)

    @property
    def problems(self) -> tuple[str, ...]:
        """Storages that cannot be read at present."""
        return tuple(storage.problem for storage in self._storages if storage.problem)

    def _of(self, path: Path) -> StoredRuns | None:
        return next((storage for storage in self._storages if path.parent == storage.folder), None)

    def _work(self) -> None:
        while not self._ended.wait(1.0):
            for storage in self._storages:
                storage.poll()

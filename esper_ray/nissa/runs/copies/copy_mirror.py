"""A local mirror of a stored copy of a run, without its checkpoints: what viewers read of a run elsewhere.

Each call of :meth:`CopyMirror.update` fetches what is new since the last one. Compacted events are complete before the
lines are replaced that they hold, so that a reader never misses one.
"""

import shutil
from pathlib import Path

from esper_ray.leyline.files.durable import changing, write_file, write_folder
from esper_ray.nissa.log.parquet import INDEX, Part
from esper_ray.nissa.runs.copies.remote_copy import (
    EVENT_LINES,
    EVENT_PARTS,
    PART_NAME,
    PIECE_NAME,
    WHOLE,
    named,
    pieces_of,
)
from esper_ray.nissa.runs.copies.storage import Storage
from esper_ray.nissa.runs.position import GROWING
from esper_ray.nissa.runs.run_files import RunDirectoryError


class CopyMirror:
    """Mirror of one run in a folder of this machine."""

    def __init__(self, copy: Storage, folder: Path) -> None:
        """
        Args:
            copy: folder of the run in the storage.
            folder: the mirror, which is made.
        """
        self.copy, self.folder = copy, folder
        self._stamps: dict[str, str | None] = {}
        """Versions of the files that were fetched as a whole, and of the newest piece of each growing one."""
        self._pieces: dict[str, list[str]] = {name: [] for name in (*GROWING, EVENT_LINES)}
        self._ends: dict[str, list[int]] = {name: [0] for name in (*GROWING, EVENT_LINES)}
        """Sizes of a growing file before each of its pieces, and after the last."""

    def update(self) -> None:
        """Fetch what is new.

        Raises:
            StorageError: if the storage cannot be read.
            RunDirectoryError: if it holds no run.
            WriteError: if the mirror cannot be written.
        """
        self._update_tables()
        self._update_growing(EVENT_LINES, self._update_parts())
        self._update_manifest()

    def update_facts(self) -> None:
        """Fetch what is new, without the event log.

        Raises:
            UserError: see :meth:`update`.
        """
        self._update_tables()
        self._update_manifest()

    def _update_tables(self) -> None:
        with changing(self.folder):
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for name in GROWING:
            self._update_growing(name, 0)

    def _update_manifest(self) -> None:
        """Fetch the files that are copied as a whole. The status comes last: a finished run is complete."""
        for name in WHOLE:
            self._update_whole(name)
        if not (self.folder / "manifest.json").is_file():
            raise RunDirectoryError(f"{self.copy.place} holds no run: it has no manifest.json")

    def _update_whole(self, name: str) -> None:
        stamp = self.copy.stamp(name)
        if stamp is None or stamp == self._stamps.get(name):
            return
        content = self.copy.read(name)
        if content is not None:
            write_file(self.folder / name, content, flush=False)
            self._stamps[name] = stamp

    def _update_growing(self, name: str, first: int) -> None:
        """Append new pieces, of which those before ``first`` are not needed."""
        pieces = [piece for piece in named(self.copy, pieces_of(name), PIECE_NAME) if int(piece) >= first]
        known = self._pieces[name]
        stamp = self.copy.stamp(f"{pieces_of(name)}/{pieces[-1]}") if pieces else None
        if pieces == known and stamp == self._stamps.get(name):
            return
        kept = len(known) if known == pieces[: len(known)] and pieces != known else 0
        kept = min(kept, max(0, len(known) - 1))  # the newest piece may have been written again with more in it
        path, end = self.folder / name, self._ends[name][kept]
        content = path.read_bytes()[:end] if kept else b""
        ends = self._ends[name][: kept + 1] if kept else [0]
        for piece in pieces[kept:]:
            part = self.copy.read(f"{pieces_of(name)}/{piece}")
            if part is None:
                return  # the copy has changed meanwhile: the next update sees it whole
            content += part
            ends.append(len(content))
        self._write_grown(path, content)
        self._pieces[name], self._ends[name], self._stamps[name] = pieces, ends, stamp

    def _write_grown(self, path: Path, content: bytes) -> None:
        """Append where the file only grows: its reader then continues."""
        before = path.read_bytes() if path.exists() else b""
        if path.exists() and content.startswith(before):
            with changing(path), path.open("ab") as file:
                file.write(content[len(before) :])
        else:
            write_file(path, content, flush=False)

    def _update_parts(self) -> int:
        """Number of the first event behind the parts, after new ones were fetched.

        Those that are gone are removed.
        """
        folder, end = self.folder / EVENT_PARTS, 0
        names = [
            name
            for name in named(self.copy, EVENT_PARTS, PART_NAME)
            if self.copy.stamp(f"{EVENT_PARTS}/{name}/{INDEX}") is not None
        ]
        for name in names:
            end = max(end, Part.at(Path(name)).last + 1)
            if not (folder / name).is_dir():
                place = f"{EVENT_PARTS}/{name}"
                files = [(file, self.copy.read(f"{place}/{file}") or b"") for file in self.copy.names(place)]
                with changing(folder):
                    folder.mkdir(exist_ok=True)
                write_folder(folder / name, files)
        for path in list(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)
        return end

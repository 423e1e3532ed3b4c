"""The folder of a local cluster's sockets, logs and spilled objects."""

import os
import stat
import sys
from pathlib import Path

from esper_ray.leyline.errors import UserError

SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket, in bytes."""
SESSION = "/session_2026-01-01_00-00-00_000000_{process}/sockets/plasma_store"
"""What Ray appends to its folder for the longest path of a socket."""
RAY = "r"
"""Name of Ray's folder within that of the user: Ray makes its folder accessible to all users."""


class RayFolderError(UserError):
    """A folder for Ray's files that is too long, unwritable or of another user."""

    remedy = "Set `RAY_TMPDIR` to a short folder that you can write, such as `/tmp`."


def ray_folder() -> Path:
    """The folder that a local cluster is given.

    It lies in one that only this user can enter (mode 0700). That is in ``RAY_TMPDIR`` if that is set, else in
    ``TMPDIR`` or ``/tmp``, the first that is short enough and can be written. Runs of one user share it; each
    cluster has a session folder of its own within.

    Raises:
        RayFolderError: if there is none; the message has the variable, the bound and a way out.
    """
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen:
        return _prepared("RAY_TMPDIR", Path(chosen).expanduser().absolute() / "esper")
    own = f"esper-{os.getuid()}" if hasattr(os, "getuid") else "esper"
    problems: list[str] = []
    for name, place in (("TMPDIR", os.environ.get("TMPDIR")), ("the folder", "/tmp")):
        if place:
            try:
                return _prepared(name, Path(place).absolute() / own)
            except RayFolderError as error:
                problems.append(str(error))
    raise RayFolderError("; ".join(problems))


def _prepared(variable: str, folder: Path) -> Path:
    """``folder``, private to this user, with room for the path of a socket below it.

    Raises:
        RayFolderError: if it is too long, cannot be made or written, or belongs to another user.
    """
    what, ray = f"{variable}={folder.parent}" if variable.isupper() else f"{variable} {folder.parent}", folder / RAY
    limit = SOCKET_BYTES - len(SESSION.format(process=os.getpid())) - len(f"/{folder.name}/{RAY}")
    size = len(os.fsencode(folder.parent))
    if size > limit:
        raise RayFolderError(
            f"{what}: it has {size} bytes, but Ray's sockets leave room for {limit} (the path of a socket has at most "
            f"{SOCKET_BYTES}); set RAY_TMPDIR to a shorter folder, for example RAY_TMPDIR=/tmp"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            raise RayFolderError(f"{what}: {folder} is not a folder of this user; set RAY_TMPDIR to another folder")
        folder.chmod(0o700)
        ray.mkdir(exist_ok=True)
    except OSError as error:
        raise RayFolderError(
            f"{what}: it cannot be written: {error.strerror or error}; set RAY_TMPDIR to a folder that can be"
        ) from error
    if not os.access(ray, os.W_OK | os.X_OK):
        raise RayFolderError(f"{what}: {ray} cannot be written; set RAY_TMPDIR to a folder that can be")
    return ray

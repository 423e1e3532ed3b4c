"""The newest lines of ``console.log``, which a command writes that was started by ``--sanctum``."""

import os
from pathlib import Path

from esper_ray.leyline.files.regular import open_regular
from esper_ray.leyline.names import CONSOLE_LOG

TAIL_BYTES = 16384


def console_lines(folder: Path, most: int) -> tuple[str, ...]:
    """At most ``most`` newest lines, oldest first; none if the file does not exist."""
    try:
        with open_regular(folder / CONSOLE_LOG) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(text for text in lines if text.strip())[-most:]

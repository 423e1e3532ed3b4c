"""Cache folder of the user: what is in it can be made again."""

import os
from pathlib import Path

CACHE_VARIABLE = "ESPER_RAY_CACHE"
"""Environment variable that names the cache folder."""


def named_cache() -> Path | None:
    """The folder that ``ESPER_RAY_CACHE`` names; ``None`` without it."""
    name = os.environ.get(CACHE_VARIABLE)
    return Path(name) if name else None


def user_cache() -> Path:
    """``esper-ray`` in XDG_CACHE_HOME, or in ``~/.cache``."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # the specification of XDG says to ignore relative paths
    return (home if home.is_absolute() else Path(os.path.expanduser("~")) / ".cache") / "esper-ray"

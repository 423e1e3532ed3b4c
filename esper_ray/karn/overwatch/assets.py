"""Files of the page, from the package: scripts, style, pictures. Names are looked up in a list of the package."""

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

ROOM = "esper_ray.karn.overwatch"
STATIC = "static"
VENDOR = "vendor/"
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""Media types by the end of a name; other files are plain text."""
COMPRESSED = ("text/", "application/", "image/svg")
REVALIDATE = "no-cache"
"""A file may be kept, and is asked for again with its digest."""
VENDOR_CACHE = "public, max-age=86400"
LEAST_COMPRESSED = 1024
"""Least size in bytes of a file that is compressed."""


@dataclass(frozen=True, slots=True)
class Asset:
    """Content of one file."""

    content: bytes
    compressed: bytes | None
    media_type: str
    tag: str
    """Its digest, as an entity tag."""


class Assets:
    """Files below ``static/`` in the package."""

    def __init__(self, folder: Traversable | None = None) -> None:
        """
        Args:
            folder: folder of the files; by default that of the package.
        """
        root = files(ROOM) / STATIC if folder is None else folder
        self._files = dict(_files(root, "")) if root.is_dir() else {}
        self._kept: dict[str, Asset] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files."""
        return tuple(self._files)

    async def respond(self, request: Request) -> Response:
        """The file that a request names."""
        name = request.path_params["path"]
        if name not in self._files:
            return PlainTextResponse("there is no such file", 404)
        asset = self._asset(name)
        headers = {"etag": asset.tag, "vary": "accept-encoding"}
        headers["cache-control"] = VENDOR_CACHE if name.startswith(VENDOR) else REVALIDATE
        if asset.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        content = asset.content
        if asset.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            content, headers["content-encoding"] = asset.compressed, "gzip"
        return Response(content, headers=headers, media_type=asset.media_type)

    def _asset(self, name: str) -> Asset:
        content = self._files[name].read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        known = self._kept.get(name)
        if known is not None and known.tag == tag:
            return known
        media_type = TYPES.get(f".{name.rpartition('.')[2]}", "text/plain; charset=utf-8")
        worth = len(content) >= LEAST_COMPRESSED and media_type.startswith(COMPRESSED)
        asset = Asset(content, gzip.compress(content, 9, mtime=0) if worth else None, media_type, tag)
        self._kept[name] = asset
        return asset


def _files(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files(entry, f"{prefix}{entry.name}/")
        elif entry.is_file():
            found.append((f"{prefix}{entry.name}", entry))
    return found

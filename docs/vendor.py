"""The libraries of Overwatch's pages: ``python docs/vendor.py`` fetches them.

``vendor.json`` names each package with version, integrity and files. ``npm pack`` downloads the package; what does not
have that integrity is refused. Nothing of a package is executed.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parents[1] / "esper_ray" / "karn" / "overwatch" / "static" / "vendor"
MANIFEST = VENDOR / "vendor.json"


def integrity_of(content: bytes) -> str:
    """Subresource integrity of a file: ``sha512-`` and the digest in base 64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def digest_of(content: bytes) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def packed(name: str, version: str, folder: Path) -> Path:
    """The archive of a package, downloaded into ``folder``."""
    command = ["npm", "pack", f"{name}@{version}", "--ignore-scripts", "--json", "--pack-destination", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / json.loads(answer.stdout)[0]["filename"]


def unpacked(archive: Path, package: dict[str, Any]) -> dict[str, bytes]:
    """The named files of an archive, by their place below ``VENDOR``.

    Raises:
        ValueError: if the archive has another integrity, or lacks a file.
    """
    integrity = integrity_of(archive.read_bytes())
    if integrity != package["integrity"]:
        raise ValueError(f"{archive.name} has the integrity {integrity}, vendor.json has {package['integrity']}")
    files = {}
    with tarfile.open(archive) as content:
        for file in package["files"]:
            member = content.extractfile(file["from"])
            if member is None:
                raise ValueError(f"{archive.name} has no file {file['from']}")
            files[file["to"]] = member.read()
    return files


def fetch(folder: Path) -> None:
    """Writes all files and their digests.

    Args:
        folder: for the archives.
    """
    manifest = json.loads(MANIFEST.read_text())
    for package in manifest["packages"]:
        archive = packed(package["name"], package["version"], folder)
        contents = unpacked(archive, package)
        for file in package["files"]:
            target = VENDOR / file["to"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents[file["to"]])
            file["sha256"] = digest_of(contents[file["to"]])
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    build = Path(__file__).parents[1] / "build" / "vendor"
    build.mkdir(parents=True, exist_ok=True)
    try:
        fetch(build)
    except (ValueError, KeyError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"vendor: {error}\n{getattr(error, 'stderr', '') or ''}")

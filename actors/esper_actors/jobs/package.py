"""The package of a job, and the checks before its submission."""

import os
import platform
import shlex
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from esper_ray.leyline.errors import UserError

ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_ADDRESS")
"""Environment variables of the address, in order of precedence."""

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
EXCLUDES = (
    *(".git", ".venv", "venv", ".tools", "__pycache__", ".*_cache", ".cache", ".hypothesis", "*.egg-info"),
    *("/runs", "/data", "/shared", "/dist", "/build", "*.ckpt", "*.safetensors"),
)
"""Patterns as in ``.gitignore`` of files that are never uploaded; a leading slash means the working directory."""

LIMIT_BYTES = 100 * 1024**2
"""The largest package that Ray's dashboard accepts, in bytes."""

ENTRY_BYTES = 256
"""Bytes that the zip archive adds for each file, besides its name (Ray does not compress)."""

MIB = 1024**2
PROBE_SECONDS = 10.0


class SubmissionError(UserError):
    """A job that cannot be submitted with these options."""

    remedy = "Check the address and the token of the cluster, and the size of the working folder."


@dataclass(frozen=True)
class JobPackage:
    """Files that Ray would upload: their sizes in bytes by path below the working directory."""

    root: Path
    sizes: Mapping[Path, int]

    @property
    def total(self) -> int:
        """Upper bound of the size of the uncompressed archive, in bytes."""
        return sum(self.sizes.values()) + sum(ENTRY_BYTES + 2 * len(str(path)) for path in self.sizes)

    def largest(self, count: int = 3) -> list[tuple[str, int]]:
        """The largest entries of the top folder with their bytes, largest first."""
        parts: Counter[str] = Counter()
        for path, size in self.sizes.items():
            parts[path.parts[0]] += size
        return parts.most_common(count)

    def refuse_if_too_large(self) -> None:
        """Refuse a package above the limit before the upload.

        Raises:
            SubmissionError: with the sum, the limit and the largest entries.
        """
        if self.total <= LIMIT_BYTES:
            return
        heaviest = self.largest()
        rest = self.total - sum(size for _, size in heaviest)
        parts = " + ".join(f"{size / MIB:.1f} ({name})" for name, size in heaviest)
        raise SubmissionError(
            f"working directory {self.root}: {self.total / MIB:.1f} MiB in {len(self.sizes)} files exceed the "
            f"{LIMIT_BYTES / MIB:.0f} MiB that Ray accepts: {parts} + {rest / MIB:.1f} (the rest). "
            "Name what is not needed in .rayignore or with --exclude, or keep data on storage that all nodes see"
        )


def choose_address(given: str | None, environment: Mapping[str, str]) -> str:
    """The address of the cluster, from option, environment or default.

    The option precedes ``ADDRESSES``, of which the first set one is used; the default is this machine.
    """
    if given is not None:
        return given
    return next((environment[name] for name in ADDRESSES if environment.get(name)), DEFAULT_ADDRESS)


def entrypoint(command: Sequence[str], python: str = "python") -> str:
    """The shell command that runs ``esper <command>`` on the cluster.

    The module is run and not the script ``esper``: Python then looks into the working directory first, so
    an uploaded repository precedes an installed package, and the same command works without an upload.
    """
    return f"{python} -m esper_ray.cli.main {shlex.join(command)}"


def key_values(option: str, pairs: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` pairs of an option as a dictionary.

    Raises:
        SubmissionError: if a pair has no key or no equals sign, or a key comes twice.
    """
    result: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise SubmissionError(f"{option} takes KEY=VALUE, got {pair!r}")
        if key in result:
            raise SubmissionError(f"{option} {key} is given twice: {result[key]!r} and {value!r}")
        result[key] = value
    return result


def refuse_other_versions(cluster_ray: str, cluster_python: str | None, client_ray: str) -> None:
    """Refuse a cluster with another release of Ray or minor version of Python.

    Raises:
        SubmissionError: with both versions.
    """
    python = platform.python_version()
    if cluster_ray != client_ray:
        raise SubmissionError(f"the cluster runs Ray {cluster_ray}, this client Ray {client_ray}; {_VERSION_REMEDY}")
    if cluster_python is not None and cluster_python.split(".")[:2] != python.split(".")[:2]:
        raise SubmissionError(
            f"the cluster runs Python {cluster_python}, this client Python {python}; {_VERSION_REMEDY}"
        )


_VERSION_REMEDY = "install the cluster's version here, or say --any-version if the job does not depend on it"


def probe(address: str) -> int | None:
    """HTTP status of ``address`` for a request without a token.

    ``None`` if it is not HTTP.

    Raises:
        SubmissionError: if the connection is refused, or no answer arrives within ``PROBE_SECONDS``.
    """
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname, parts.port or {"https": 443, "ray": 10001}.get(parts.scheme, 80)
    except ValueError as error:
        raise SubmissionError(f"address {address!r}: {error}") from error
    if not host:
        raise SubmissionError(f"address {address!r} has no host; it looks like http://<head>:8265")
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
        if parts.scheme not in ("http", "https"):
            return None
        with urlopen(f"{parts.scheme}://{parts.netloc}/api/version", timeout=PROBE_SECONDS) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except URLError as error:
        reason = error.reason
    except TimeoutError:
        reason = f"no answer within {PROBE_SECONDS:g} s"
    except (ConnectionError, socket.gaierror) as error:
        reason = error
    except (OSError, ValueError):
        return None  # a listener that is not an HTTP server
    raise SubmissionError(
        f"no cluster at {address} ({reason}); start one with `ray start --head`, or name the address of its "
        f"dashboard with --address or {ADDRESSES[0]}"
    )


def refuse_without_token(status: int | None, address: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to submit without a token to a cluster that requires one.

    Raises:
        SubmissionError: with the variables to set.
    """
    if status in (401, 403) and environment.get("RAY_AUTH_MODE") != "token":
        raise SubmissionError(
            f"the cluster at {address} requires a token, and RAY_AUTH_MODE is "
            f"{environment.get('RAY_AUTH_MODE', 'not set')}: set RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN, "
            "in a file named by RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token"
        )


def exit_code(status: str, code: int | None) -> int:
    """Exit status of a job: its own, 128 + signal number, or 143 if stopped."""
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return 143
    if code is None or code == 0:
        return 1  # Ray could not start it, or lost it
    return code if code > 0 else 128 - code

"""The job client: jobs on a cluster through Ray's job SDK."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private.runtime_env import packaging
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from esper_actors.jobs.package import (
    EXCLUDES,
    PROBE_SECONDS,
    JobPackage,
    SubmissionError,
    exit_code,
    probe,
    refuse_other_versions,
    refuse_without_token,
)

POLL_SECONDS = 1.0
AGENT_SECONDS = 60.0
"""Seconds that a new cluster may need before it accepts jobs."""


def package_size(root: Path, excludes: Sequence[str]) -> JobPackage:
    """The package that Ray would upload from ``root``, without ignored and excluded files.

    Raises:
        SubmissionError: if the folder does not exist or cannot be read.
    """
    root = root.absolute()
    if not root.is_dir():
        raise SubmissionError(f"working directory {root} does not exist or is not a folder")
    sizes = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root)] = path.stat().st_size

    skip = packaging._get_excludes(root, [*EXCLUDES, *excludes])
    git = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    try:
        packaging._dir_travel(root, [skip], note, include_gitignore=git, logger=_Silent())
    except OSError as error:
        raise SubmissionError(f"working directory {root}: {error}") from error
    return JobPackage(root, sizes)


class _Silent:
    """A silent replacement of Ray's logger; Ray raises the same errors."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class JobClient:
    """A client of the cluster whose dashboard is at ``address``.

    Raises:
        SubmissionError: if there is no cluster, it refuses the token, or it runs other versions.
    """

    def __init__(self, address: str, any_version: bool = False) -> None:
        status = probe(address)
        refuse_without_token(status, address)
        # In Ray these variables override an argument; the address is chosen already.
        os.environ.pop("RAY_ADDRESS", None)
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        self.address = address
        try:
            self._client: Any = JobSubmissionClient(address)
            metadata = self._client._do_request("GET", "/api/v0/cluster_metadata", timeout=PROBE_SECONDS)
        except AuthenticationError as error:
            raise SubmissionError(
                f"the cluster at {address} refuses the token that RAY_AUTH_MODE=token found (RAY_AUTH_TOKEN, "
                "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token); `ray get-auth-token` on its head prints the right one"
            ) from error
        except (RuntimeError, OSError, ValueError, KeyError) as error:  # requests' errors are of OSError
            raise SubmissionError(f"no Ray dashboard answers at {address}: {error}") from error
        if not any_version:
            python = metadata.json()["data"].get("pythonVersion") if metadata.ok else None
            refuse_other_versions(str(self._client._server_ray_version), python, ray.__version__)

    def submit(self, entrypoint: str, submission_id: str | None, **options: Any) -> str:
        """Upload and start a job, and return its id. ``options`` as in Ray's ``submit_job``.

        Raises:
            SubmissionError: if the id is taken or Ray refuses.
        """
        if submission_id is not None and self._exists(submission_id):
            raise SubmissionError(f"submission id {submission_id!r} has been used on {self.address}; choose another")
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                return str(self._client.submit_job(entrypoint=entrypoint, submission_id=submission_id, **options))
            except (RuntimeError, ValueError, TypeError, OSError) as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise SubmissionError(f"the cluster at {self.address} refuses the job: {error}") from error
            time.sleep(POLL_SECONDS)

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Write the logs of a job until it ends, and return its exit status.

        Raises:
            SubmissionError: if there is no such job, or the cluster can no longer be reached.
        """
        self._require(job)
        seen = 0

        async def tail() -> None:
            nonlocal seen
            async for text in self._client.tail_job_logs(job):
                seen += len(text)
                write(text)

        broken = False
        try:
            asyncio.run(tail())
        except (RuntimeError, OSError):
            broken = True
        code = self.wait(job)
        if broken:  # what came after the connection broke
            write(self._client.get_job_logs(job)[seen:])
        return code

    def wait(self, job: str) -> int:
        """Wait for the end of a job, and return its exit status.

        Raises:
            SubmissionError: if the cluster can no longer be reached.
        """
        while True:
            try:
                info = self._client.get_job_info(job)
            except (RuntimeError, OSError) as error:
                raise SubmissionError(f"lost the cluster at {self.address}, job {job}: {error}") from error
            if info.status.is_terminal():
                return exit_code(info.status.value, info.driver_exit_code)
            time.sleep(POLL_SECONDS)

    def reason(self, job: str) -> str:
        """Ray's status and message of a job."""
        info = self._client.get_job_info(job)
        return f"{info.status.value}: {(info.message or '').strip()}"

    def stop(self, job: str) -> bool:
        """Stop a job and wait for its end; whether it was running.

        Raises:
            SubmissionError: if there is no such job.
        """
        self._require(job)
        was_running = bool(self._client.stop_job(job))
        self.wait(job)
        return was_running

    def _require(self, job: str) -> None:
        if not self._exists(job):
            raise SubmissionError(f"no job {job!r} at {self.address}; `ray job list` prints the existing ones")

    def _exists(self, job: str) -> bool:
        try:
            self._client.get_job_info(job)
        except RuntimeError:
            return False
        return True

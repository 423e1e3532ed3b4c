"""Exclusive right to write a run: the lock of its directory and the lease of its copy."""

from pathlib import Path

from esper_ray.nissa.runs.copies.lease import Lease
from esper_ray.nissa.runs.copies.storage import Storage
from esper_ray.nissa.runs.run_lock import RunLock


class RunClaim:
    """Lock of the directory of a run, and lease of its copy."""

    def __init__(self) -> None:
        self._lock: RunLock | None = None
        self.lease: Lease | None = None

    def lock(self, folder: Path) -> None:
        """Take the lock of a run directory.

        Raises:
            RunLockedError: if another process has it, or it cannot be locked.
        """
        lock = RunLock(folder)
        lock.acquire()
        self._lock = lock

    def lease_copy(self, copy: Storage) -> None:
        """Take the lease of a copy.

        Raises:
            RunLockedError: if another process has it.
            StorageError: if the storage cannot be read or written.
        """
        lease = Lease(copy)
        lease.acquire()
        self.lease = lease

    def release(self) -> None:
        """Release what is held."""
        if self.lease is not None:
            self.lease.release()
        if self._lock is not None:
            self._lock.release()
        self.lease = self._lock = None

"""Lease of the copy of a run in a storage that several machines share.

The object ``lease.json`` names its owner and is renewed while the owner lives. A claimant never compares clocks of two
machines: a lease has expired when it has not changed for :data:`EXPIRY_SECONDS` by the claimant's own clock. A lease of
a process of this machine that has ended is taken over at once.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from esper_ray.nissa.runs.copies.storage import Storage, StorageError
from esper_ray.nissa.runs.run_lock import Holder, RunLockedError

LEASE = "lease.json"
EXPIRY_SECONDS = 60.0
"""Seconds without renewal after which a lease may be taken over."""
RENEWAL_SECONDS = 15.0
"""Seconds between two renewals."""
POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.2
"""Seconds between claim and check: of two claimants at once, the last writer has the lease."""


@dataclass(frozen=True, slots=True)
class LeaseClaim:
    """Content of the lease object."""

    owner: str
    renewals: int
    machine: str
    """Identity of machine and process namespace."""
    process_started: str
    holder: Holder


class Lease:
    """Lease of one copy."""

    def __init__(
        self,
        storage: Storage,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            storage: place of the copy.
            clock: seconds that never go back.
        """
        self._storage, self._clock, self._sleep = storage, clock, sleep
        own = LeaseClaim(uuid.uuid4().hex, 0, _machine(), _process_started(os.getpid()), Holder.here())
        self._own, self._held = own, False
        self._ended = threading.Event()
        self._renewing = threading.Lock()

    def acquire(self) -> None:
        """Take the lease; waits up to :data:`EXPIRY_SECONDS` for one of an unknown process to expire.

        Raises:
            RunLockedError: if another process holds and renews it.
            StorageError: if the storage cannot be read or written.
        """
        present = self._read()
        if present is not None and not _has_ended(present):
            self._await_expiry(present)
        self._write()
        self._sleep(SETTLE_SECONDS)
        self._held = True
        self.check()
        threading.Thread(target=self._renew_until_released, name="lease", daemon=True).start()

    def check(self) -> None:
        """Check that the lease is still held.

        Raises:
            RunLockedError: if another process has taken it over.
            StorageError: if the storage cannot be read.
        """
        present = self._read()
        if present is not None and present.owner != self._own.owner:
            self._held = False
            raise RunLockedError(f"{self._storage.place} is being run by {present.holder.describe()}")

    def release(self) -> None:
        """Remove the lease, if it is held."""
        self._ended.set()
        with self._renewing:
            if not self._held:
                return
            self._held = False
            try:
                present = self._read()
                if present is not None and present.owner == self._own.owner:
                    self._storage.remove(LEASE)
            except StorageError:
                pass  # it expires

    def _await_expiry(self, present: LeaseClaim) -> None:
        deadline = self._clock() + EXPIRY_SECONDS
        while self._clock() < deadline:
            self._sleep(POLL_SECONDS)
            now = self._read()
            if now is None:
                return
            if now != present:
                raise RunLockedError(f"{self._storage.place} is being run by {now.holder.describe()}")

    def _renew_until_released(self) -> None:
        while not self._ended.wait(RENEWAL_SECONDS):
            with self._renewing:
                try:
                    if self._ended.is_set():
                        return
                    self.check()
                    self._own = replace(self._own, renewals=self._own.renewals + 1)
                    self._write()
                except RunLockedError:
                    return  # the next push reports it
                except StorageError:
                    continue  # the next renewal retries

    def _write(self) -> None:
        self._storage.write(LEASE, json.dumps(asdict(self._own)).encode())

    def _read(self) -> LeaseClaim | None:
        """The present claim; ``None`` without one, or if it cannot be parsed."""
        content = self._storage.read(LEASE)
        try:
            return None if content is None else _parse(json.loads(content))
        except ValueError:
            return None


def _parse(tree: Any) -> LeaseClaim | None:
    names = {"owner": str, "renewals": int, "machine": str, "process_started": str}
    if not isinstance(tree, dict) or not all(isinstance(tree.get(name), kind) for name, kind in names.items()):
        return None
    holder = Holder.parse(tree.get("holder"))
    return None if holder is None else LeaseClaim(holder=holder, **{name: tree[name] for name in names})


def _has_ended(claim: LeaseClaim) -> bool:
    """Whether the owner was a process of this machine that does not exist any more."""
    return claim.machine == _machine() and _process_started(claim.holder.process) != claim.process_started


def _machine() -> str:
    """Boot and process namespace of this machine, within which process numbers have a meaning."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {uuid.uuid4().hex}"  # never equal: such leases expire


def _process_started(process: int) -> str:
    """Start time of a process of this machine, in ticks since boot.

    It is empty if there is none, or it is a zombie.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]

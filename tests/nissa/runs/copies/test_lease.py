"""Lease of a copy: one owner, whose silence, not whose clock, ends it."""

import json
import time
from dataclasses import asdict, replace

import pytest

from esper_ray.nissa.runs.copies import lease as module
from esper_ray.nissa.runs.copies.lease import EXPIRY_SECONDS, LEASE, Lease, LeaseClaim
from esper_ray.nissa.runs.copies.storage import Storage
from esper_ray.nissa.runs.run_lock import Holder, RunLockedError

ELSEWHERE = LeaseClaim("other", 3, "another machine", "17", Holder(7, "node-3", "2026-11-29T10:00:00+00:00"))


class Clock:
    """Clock that moves when somebody sleeps, and may call a function then."""

    def __init__(self, on_sleep=lambda now: None):
        self.now, self.on_sleep = 0.0, on_sleep

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.on_sleep(self.now)


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "copy")


def write(storage, claim):
    storage.write(LEASE, json.dumps(asdict(claim)).encode())


def lease_of(storage, clock):
    return Lease(storage, clock=clock, sleep=clock.sleep)


def test_a_free_copy_is_leased_at_once_and_free_after_the_release(storage):
    clock = Clock()
    lease = lease_of(storage, clock)
    lease.acquire()
    lease.check()
    assert clock.now < 1.0
    lease.release()
    assert storage.names() == []


def test_a_lease_that_is_renewed_refuses_a_second_owner(storage):
    write(storage, ELSEWHERE)
    clock = Clock(lambda now: write(storage, replace(ELSEWHERE, renewals=4)) if now >= 15 else None)
    with pytest.raises(RunLockedError, match=r"copy is being run by process 7 on node-3 since 2026-11-29T10:00:00"):
        lease_of(storage, clock).acquire()
    assert clock.now < EXPIRY_SECONDS
    assert json.loads(storage.read(LEASE))["owner"] == "other"


def test_a_lease_without_renewal_is_taken_over_after_its_expiry(storage):
    write(storage, ELSEWHERE)
    clock = Clock()
    lease = lease_of(storage, clock)
    lease.acquire()
    assert EXPIRY_SECONDS <= clock.now < EXPIRY_SECONDS + 2
    lease.release()


def test_a_lease_that_is_released_meanwhile_is_taken_at_once(storage):
    write(storage, ELSEWHERE)
    clock = Clock(lambda now: storage.remove(LEASE) if now == 3 else None)
    lease = lease_of(storage, clock)
    lease.acquire()
    assert clock.now < 5
    lease.release()


def test_the_lease_of_an_ended_process_of_this_machine_is_taken_at_once(storage):
    write(storage, replace(ELSEWHERE, machine=module._machine(), holder=replace(ELSEWHERE.holder, process=2**22 + 1)))
    clock = Clock()
    lease = lease_of(storage, clock)
    lease.acquire()
    assert clock.now < 1.0
    lease.release()


def test_of_two_claimants_at_once_the_last_writer_has_the_lease(storage):
    clock = Clock(lambda now: write(storage, ELSEWHERE))
    with pytest.raises(RunLockedError, match="process 7 on node-3"):
        lease_of(storage, clock).acquire()


def test_the_check_of_an_owner_fails_after_its_lease_was_taken_over(storage):
    lease = lease_of(storage, Clock())
    lease.acquire()
    write(storage, ELSEWHERE)
    with pytest.raises(RunLockedError, match="process 7 on node-3"):
        lease.check()
    lease.release()
    assert json.loads(storage.read(LEASE))["owner"] == "other"  # the lease of another owner is not removed


def test_an_owner_renews_its_lease(storage, monkeypatch):
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.01)
    lease = lease_of(storage, Clock())
    lease.acquire()
    deadline = time.monotonic() + 30
    while json.loads(storage.read(LEASE))["renewals"] < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert json.loads(storage.read(LEASE))["renewals"] >= 2
    lease.release()
    assert storage.read(LEASE) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"owner": 1}'])
def test_a_lease_that_cannot_be_parsed_is_replaced(storage, content):
    storage.write(LEASE, content)
    lease = lease_of(storage, Clock())
    lease.acquire()
    assert "owner" in json.loads(storage.read(LEASE))
    lease.release()

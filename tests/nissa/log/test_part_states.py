"""States of parts come from summaries; one that does not match its part only costs a fold."""

import json
import shutil

import pytest
from log_builders import add
from nissa_builders import complete
from state_builders import finished_round, step

from esper_ray.nissa.log import part_states
from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.parquet import SUMMARY, EventLogError, Part
from esper_ray.nissa.log.part_states import PartStates
from esper_ray.nissa.state.codec import StateError
from esper_ray.nissa.state.run_state import RunState


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / "run", "run")
    log.folder.mkdir()
    log.tail.touch()
    log.append([step(env=env, number=number) for number in (1, 2) for env in (0, 1)])
    log.append([finished_round(0, 0.5)])
    log.compact(always=True)
    return log


@pytest.fixture
def part(log):
    return log.parts()[0]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """Names of the parts whose events were read."""
    names, records = [], Part.records

    def read(part, *args, **more):
        names.append(part.path.name)
        return records(part, *args, **more)

    monkeypatch.setattr(Part, "records", read)
    return names


def test_the_summary_beside_a_part_is_its_fold_and_no_event_is_read(log, part, cache, reads):
    state = PartStates(cache).of(part)
    assert reads == []
    assert state == RunState.of(log.records())
    assert not cache.exists()


def without(part):
    (part.path / SUMMARY).unlink()


def changed(**values):
    def change(part):
        file = part.path / SUMMARY
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


DAMAGES = {
    "missing": without,
    "cut off": lambda part: (part.path / SUMMARY).write_bytes((part.path / SUMMARY).read_bytes()[:-9]),
    "empty": lambda part: (part.path / SUMMARY).write_bytes(b""),
    "not UTF-8": lambda part: (part.path / SUMMARY).write_bytes(b"\xff"),
    "another version": changed(version=0),
    "another version of events": changed(events=2),
    "other fields": changed(fields="0" * 64),
    "another part": changed(part="0" * 64),
    "no state": changed(state=None),
    "a folder": lambda part: (without(part), (part.path / SUMMARY).mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_summary_that_cannot_be_used_costs_one_fold_which_is_cached(log, cache, reads, damage):
    part = log.parts()[0]
    DAMAGES[damage](part)
    expected = RunState.of(log.records())
    reads.clear()
    assert PartStates(cache).of(part) == expected
    assert PartStates(cache).of(log.parts()[0]) == expected
    assert reads == [part.path.name]
    assert [file.name for file in cache.iterdir()] == [f"{part.digest()}.json"]
    assert list(log.records(evidence=True)) == list(log.records())  # a summary is no evidence


def test_nothing_is_written_beside_a_part(part, cache):
    without(part)
    before = sorted(path.name for path in part.path.iterdir())
    PartStates(cache).of(part)
    assert sorted(path.name for path in part.path.iterdir()) == before


def test_the_summary_of_another_part_is_not_believed(log, part, cache):
    add(log, 3, 4)
    log.compact(always=True)
    first, second = log.parts()
    shutil.copy(first.path / SUMMARY, second.path / SUMMARY)
    assert PartStates(cache).of(second).totals.events == {"environment_quarantined": 2}


def test_a_damaged_entry_of_the_cache_is_replaced(part, cache):
    without(part)
    state = PartStates(cache).of(part)
    (file,) = cache.iterdir()
    file.write_text("{")
    assert PartStates(cache).of(part) == state
    assert len(file.read_text()) > 1


def test_a_cache_that_cannot_be_written_is_no_error(log, part, tmp_path):
    without(part)
    (tmp_path / "file").write_text("")
    assert PartStates(tmp_path / "file").of(part) == RunState.of(log.records())


def test_the_cache_keeps_what_was_used_last_within_its_size(log, cache, monkeypatch):
    add(log, 1)
    log.compact(always=True)
    parts = log.parts()
    for part in parts:
        without(part)
    states = PartStates(cache)
    states.of(parts[0])
    size = sum(file.stat().st_size for file in cache.iterdir())
    monkeypatch.setattr(part_states, "CACHE_BYTES", size)
    PartStates(cache).of(parts[1])
    assert [file.name for file in cache.iterdir()] == [f"{parts[1].digest()}.json"]


def test_the_user_cache_is_used_by_default(part, tmp_path, monkeypatch):
    without(part)
    monkeypatch.setenv("ESPER_RAY_CACHE", str(tmp_path / "named"))
    PartStates().of(part)
    assert [file.name for file in (tmp_path / "named" / "summaries").iterdir()] == [f"{part.digest()}.json"]
    monkeypatch.delenv("ESPER_RAY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    PartStates().of(part)
    assert (tmp_path / "xdg" / "esper-ray" / "summaries" / f"{part.digest()}.json").is_file()


def test_a_record_that_is_not_as_declared_leaves_the_part_without_a_summary(tmp_path, cache, monkeypatch):
    monkeypatch.delenv("ESPER_STRICT_TELEMETRY")
    log = EventLog(tmp_path, "run")
    log.tail.touch()
    log.append([complete({"kind": "env_epoch", "slots": {}}) | {"slots": {"r0c0": {}}}, finished_round(0, 0.5)])
    monkeypatch.setattr("esper_ray.nissa.log.parquet.state_of", _refuse)
    log.compact(always=True)
    (part,) = log.parts()
    assert not (part.path / SUMMARY).exists()
    assert PartStates(cache).of(part).totals.malformed == 1


def _refuse(records):
    raise StateError("a record is not as declared")


def test_a_part_without_index_is_damaged_with_a_summary_too(part, cache):
    (part.path / "part.json").unlink()
    with pytest.raises(EventLogError, match=r"part\.json is missing"):
        PartStates(cache).of(Part.at(part.path))

"""Sample log: bounded, resumable, and allowed to lose samples."""

import json

import pytest
from nissa_builders import complete

from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.samples import SampleLog
from esper_ray.nissa.log.sql import EventDatabase


def sample(step, env=0, **more):
    return complete({"kind": "profile", "env": env, "step": step, "seconds": {"train": float(step)}} | more)


def steps(log):
    return [record["step"] for record in log.records() if record["kind"] == "profile"]


def test_samples_are_numbered_by_source_and_compacted(tmp_path):
    log = SampleLog(tmp_path, "run", "A")
    assert log.add([sample(1), sample(2, env=1)]) == 0
    log.compact(always=True)
    log.add([sample(3)])
    records = list(log.records(evidence=True))
    assert [(r["source"], r["source_seq"], r["seq"]) for r in records] == [
        ("env-0", 0, 0),
        ("env-1", 0, 1),
        ("env-0", 1, 2),
    ]
    assert {(r["run"], r["group"]) for r in records} == {("run", "A")}
    assert log.summary() == {"samples": 3, "lost": 0, "sample_problems": []}


def test_a_resumed_log_appends_after_dropping_a_partial_line(tmp_path):
    log = SampleLog(tmp_path, "run")
    log.add([sample(1), sample(2)])
    log.compact(always=True)
    log.add([sample(3)])
    with log.tail.open("a") as file:
        file.write('{"seq": 4, "kin')
    reopened = SampleLog(tmp_path, "run")
    reopened.add([sample(2), sample(3)])
    assert steps(reopened) == [1, 2, 3, 2, 3]
    records = list(reopened.records(evidence=True))
    assert [r["seq"] for r in records] == [r["source_seq"] for r in records] == [0, 1, 2, 3, 4]


def test_samples_beyond_the_limit_are_dropped_and_counted(tmp_path):
    log = SampleLog(tmp_path, "run", limit=3)
    assert log.add([sample(1), sample(2)]) == 0
    assert log.add([sample(3), sample(4), sample(5)]) == 2
    assert log.add([sample(6)]) == 1
    assert steps(log) == [1, 2, 3]
    assert log.summary() == {"samples": 4, "lost": 2, "sample_problems": []}
    log.compact(always=True)
    assert log.summary() == {"samples": 4, "lost": 2, "sample_problems": []}
    reopened = SampleLog(tmp_path, "run", limit=3)
    assert reopened.add([sample(7)]) == 1
    assert steps(reopened) == [1, 2, 3]


def test_a_log_without_samples_has_no_files(tmp_path):
    log = SampleLog(tmp_path, "run")
    log.compact(always=True)
    assert log.summary() == {"samples": 0, "lost": 0, "sample_problems": []}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compact", [True, False])
def test_samples_are_tables_beside_events(tmp_path, compact):
    events, log = EventLog(tmp_path, "run"), SampleLog(tmp_path, "run")
    events.append([complete({"kind": "round"})])
    log.add([sample(1), sample(2)])
    if compact:
        log.compact(always=True)
    with EventDatabase(events, log) as database:
        assert database.ask("SELECT count(*) FROM round").rows == [(1,)]
        assert database.ask("SELECT step, name, value FROM profile_seconds ORDER BY step").rows == [
            (1, "train", 1.0),
            (2, "train", 2.0),
        ]


def test_sql_reads_the_other_samples_beside_an_unreadable_line(tmp_path, caplog):
    events, log = EventLog(tmp_path, "run"), SampleLog(tmp_path, "run")
    events.append([complete({"kind": "round"})])
    log.add([sample(1)])
    with log.tail.open("a") as file:
        file.write(json.dumps({"seq": 1})[:-2])
    with EventDatabase(events, log) as database:
        assert database.ask("SELECT count(*) FROM profile").rows == [(1,)]
    assert "line 2" in caplog.text

"""The log of samples: bounded, gone on with, never asked to be complete."""

import json

import pytest
from nissa_builders import complete

from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.samples import SampleLog
from esper_ray.nissa.log.sql import EventDatabase


def sample(step, env=0, **more):
    return complete({"kind": "profile", "env": env, "step": step, "seconds": {"train": float(step)}} | more)


def steps(log):
    return [record["step"] for record in log.everything(evidence=False) if record["kind"] == "profile"]


def test_samples_are_numbered_by_source_and_made_parquet(tmp_path):
    log = SampleLog(tmp_path, "run", "A")
    assert log.add([sample(1), sample(2, env=1)]) == 0
    log.compact(always=True)
    log.add([sample(3)])
    found = list(log.everything(evidence=True))
    assert [(r["source"], r["source_seq"], r["seq"]) for r in found] == [
        ("env-0", 0, 0),
        ("env-1", 0, 1),
        ("env-0", 1, 2),
    ]
    assert {(r["run"], r["group"]) for r in found} == {("run", "A")}
    assert log.summary() == {"samples": 3, "lost": 0}


def test_a_run_that_is_gone_on_with_adds_to_what_is_there_without_a_line_that_was_cut_off(tmp_path):
    log = SampleLog(tmp_path, "run")
    log.add([sample(1), sample(2)])
    log.compact(always=True)
    log.add([sample(3)])
    with log.tail.open("a") as file:
        file.write('{"seq": 4, "kin')
    again = SampleLog(tmp_path, "run")
    again.add([sample(2), sample(3)])
    assert steps(again) == [1, 2, 3, 2, 3]
    found = list(again.everything(evidence=True))
    assert [r["seq"] for r in found] == [r["source_seq"] for r in found] == [0, 1, 2, 3, 4]


def test_beyond_its_limit_samples_are_lost_and_that_is_said_once(tmp_path):
    log = SampleLog(tmp_path, "run", limit=3)
    assert log.add([sample(1), sample(2)]) == 0
    assert log.add([sample(3), sample(4), sample(5)]) == 2
    assert log.add([sample(6)]) == 1
    assert steps(log) == [1, 2, 3]
    assert log.summary() == {"samples": 4, "lost": 2}
    log.compact(always=True)
    assert log.summary() == {"samples": 4, "lost": 2}
    again = SampleLog(tmp_path, "run", limit=3)
    assert again.add([sample(7)]) == 1
    assert steps(again) == [1, 2, 3]


def test_a_run_without_samples_has_no_files_of_them(tmp_path):
    log = SampleLog(tmp_path, "run")
    log.compact(always=True)
    assert log.summary() == {"samples": 0, "lost": 0}
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


def test_a_line_that_cannot_be_read_does_not_keep_sql_from_the_rest(tmp_path, caplog):
    events, log = EventLog(tmp_path, "run"), SampleLog(tmp_path, "run")
    events.append([complete({"kind": "round"})])
    log.add([sample(1)])
    with log.tail.open("a") as file:
        file.write(json.dumps({"seq": 1})[:-2])
    with EventDatabase(events, log) as database:
        assert database.ask("SELECT count(*) FROM profile").rows == [(1,)]
    assert "line 2" in caplog.text

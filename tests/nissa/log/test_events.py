"""Event log: sequence numbers, compaction, rewinding, integrity and damage."""

import json
import math
import shutil
from hashlib import sha256

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nissa_builders import complete, quarantined, transition

from esper_ray.leyline.files.durable import WriteError
from esper_ray.nissa.log.events import EventLog, RecordError, integrity
from esper_ray.nissa.log.finite import json_record
from esper_ray.nissa.log.parquet import EventLogError, parts_in
from esper_ray.nissa.log.reader import INTEGRITY


@pytest.fixture
def log(tmp_path):
    event_log = EventLog(tmp_path, "run", "B")
    event_log.tail.touch()
    return event_log


def reopened(log):
    """The log as a new process continues it."""
    again = EventLog(log.folder, "run", "B")
    again.counts = log.counts
    return again


def numbers(log, **options):
    return [record["round"] for record in log.records(**options)]


def add(log, *rounds):
    log.append(quarantined(number) for number in rounds)


def test_records_have_source_sequence_number_and_number_within_the_source(log):
    log.append([quarantined(0), transition(3, 1), transition(3, 2), transition(1, 1)])
    log.append([])
    log.append(iter([quarantined(1)]))
    records = [json.loads(line) for line in log.tail.read_text().splitlines()]
    assert [(r["seq"], r["source"], r["source_seq"]) for r in records] == [
        (0, "driver", 0),
        (1, "env-3", 0),
        (2, "env-3", 1),
        (3, "env-1", 0),
        (4, "driver", 1),
    ]
    assert {(r["schema"], r["run"], r["group"]) for r in records} == {(3, "run", "B")}
    assert [{k: v for k, v in r.items() if k != "schema"} for r in records] == list(log.records(evidence=True))


def test_numbers_that_are_not_finite_become_null_and_are_listed(log):
    record = {"loss": math.nan, "deep": {"list": [1.0, math.inf, {"low": -math.inf}]}, "pair": (2, 3)}
    assert json_record(record) == {
        "loss": None,
        "deep": {"list": [1.0, None, {"low": None}]},
        "pair": [2, 3],
        "nonfinite": ["loss", "deep.list[1]", "deep.list[2].low"],
    }
    assert json_record({"loss": 0.0}) == {"loss": 0.0}


def test_an_undeclared_field_is_an_error_in_strict_mode(log):
    with pytest.raises(RecordError, match=r"environment_quarantined\.colour"):
        log.append([quarantined(0) | {"colour": "red"}])
    assert log.tail.read_text() == ""


def test_without_strict_mode_a_malformed_record_is_kept_counted_and_logged(log, monkeypatch, caplog):
    monkeypatch.delenv("ESPER_STRICT_TELEMETRY")
    broken = quarantined(0) | {"error": {"not", "JSON"}, "loss": math.nan}
    log.append([broken, quarantined(1)])
    malformed, good = log.records(evidence=True)
    assert malformed["kind"] == "malformed"
    assert malformed["problem"].startswith("environment_quarantined.error: Input should be a valid string")
    assert json.loads(malformed["record"])["round"] == 0
    assert good["round"] == 1
    assert "does not match its declaration" in caplog.text
    assert (integrity(log)["complete"], integrity(log)["malformed"]) == (False, 1)


def test_lines_are_compacted_to_parquet_above_the_size_limit_only(log, monkeypatch):
    add(log, 0, 1)
    before = list(log.records())
    log.compact()
    assert log.parts() == []
    monkeypatch.setattr("esper_ray.nissa.log.events.COMPACT_BYTES", 100)
    log.compact()
    assert [part.path.name for part in log.parts()] == ["000000000000-000000000001"]
    assert log.tail.read_text() == ""
    assert list(log.records(evidence=True)) == before
    add(log, 2)
    log.append([transition(0, 1)])
    log.compact()
    assert [record["kind"] for record in log.records(evidence=True)] == ["environment_quarantined"] * 3 + [
        "seed_transition"
    ]
    assert sorted(path.name for path in log.parts()[1].path.iterdir()) == [
        "environment_quarantined.parquet",
        "part.json",
        "seed_transition.parquet",
        "summary.json",
    ]


def test_compacting_an_empty_log_creates_no_part(log):
    log.compact(always=True)
    assert log.parts() == []


def test_a_crash_between_writing_parquet_and_truncating_duplicates_no_event(log):
    add(log, 0, 1)
    lines = log.tail.read_text()
    log.compact(always=True)
    log.tail.write_text(lines)
    log = reopened(log)
    add(log, 2)
    assert numbers(log, evidence=True) == [0, 1, 2]
    log.compact(always=True)
    assert numbers(log, evidence=True) == [0, 1, 2]
    assert [(part.first, part.last) for part in log.parts()] == [(0, 1), (2, 2)]


@given(batches=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6), data=st.data())
def test_a_rewound_log_equals_a_log_that_ended_there(tmp_path_factory, batches, data):
    log = EventLog(tmp_path_factory.mktemp("log"), "run")
    log.tail.touch()
    positions, count = [log.position()], 0
    for size, compact in batches:
        log.append(quarantined(count + i, env=i) if i else transition(count, 1) for i in range(size))
        count += size
        positions.append(log.position())
        if compact:
            log.compact(always=True)
    before = list(log.records(evidence=True))
    position = data.draw(st.sampled_from(positions))
    reopened = EventLog(log.folder, "run")
    reopened.rewind(position)
    assert list(reopened.records(evidence=True)) == before[: position.sequence]
    assert (reopened.counts.sequence, reopened.counts.sources) == (position.sequence, position.sources)
    reopened.append([quarantined(99)])
    assert integrity(reopened)["complete"]


def test_a_log_shorter_than_the_checkpoint_is_refused(log):
    add(log, 0, 1, 2)
    position = log.position()
    log.tail.write_text("".join(log.tail.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(EventLogError, match="ends with event 1, the checkpoint with 2"):
        log.rewind(position)


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("")])
def test_a_lost_line_is_noticed_before_the_next_event_and_compaction(log, change):
    add(log, 0)
    change(log.tail)
    for write in (lambda: add(log, 1), lambda: log.compact(always=True)):
        with pytest.raises(WriteError, match=r"events\.jsonl was "):
            write()
    assert log.parts() == []


def test_a_partial_line_before_others_is_refused_by_its_number(log):
    add(log, 0)
    with log.tail.open("a") as file:
        file.write('{"kind": "half a li\n')
    log = reopened(log)
    add(log, 1)
    for evidence in (False, True):
        with pytest.raises(EventLogError, match=r"line 2 of .*events.jsonl is not JSON"):
            numbers(log, evidence=evidence)
    assert integrity(log)["complete"] is False


def test_a_missing_event_is_a_gap_and_refused_as_evidence(log, caplog):
    add(log, 0, 1, 2)
    lines = log.tail.read_text().splitlines(keepends=True)
    log.tail.write_text(lines[0] + lines[2])
    assert numbers(log) == [0, 2]
    assert "events 1 to 1 are missing" in caplog.text
    with pytest.raises(EventLogError, match="events 1 to 1 are missing"):
        numbers(log, evidence=True)
    assert integrity(log)["gaps"] == 2  # of the log, and of its source


def test_a_missing_part_is_refused_as_evidence(log):
    for number in range(3):
        add(log, number)
        log.compact(always=True)
    shutil.rmtree(log.parts()[1].path)
    assert numbers(log) == [0, 2]
    with pytest.raises(EventLogError, match="events 1 to 1 are missing"):
        numbers(log, evidence=True)


@pytest.mark.parametrize("name", ["environment_quarantined.parquet", "part.json"])
def test_a_changed_or_missing_file_of_a_part_is_reported(log, name):
    add(log, 0, 1)
    log.compact(always=True)
    (part,) = log.parts()
    (part.path / name).write_bytes(b"other")
    problems = integrity(log)["problems"]
    assert any(name in problem for problem in problems)
    (part.path / name).unlink()
    with pytest.raises(EventLogError, match=name.partition(".")[0]):
        numbers(log)


def test_a_log_of_another_version_is_refused(log):
    add(log, 0)
    log.tail.write_text(log.tail.read_text().replace('"schema": 3', '"schema": 1'))
    with pytest.raises(EventLogError, match=r"events.jsonl is an event log of version 1, this program reads 3"):
        numbers(log)
    log.tail.write_text(log.tail.read_text().replace('"schema": 1', '"schema": 3'))
    log.compact(always=True)
    (part,) = log.parts()
    index = json.loads((part.path / "part.json").read_text())
    (part.path / "part.json").write_text(json.dumps(index | {"schema": 4}))
    with pytest.raises(EventLogError, match="version 4, this program reads 3"):
        numbers(log)


def test_a_log_of_another_version_is_not_rewound(log):
    add(log, 0, 1)
    position = log.position()
    old = log.tail.read_text().replace('"schema": 3', '"schema": 1')
    log.tail.write_text(old)
    with pytest.raises(EventLogError, match="version 1, this program reads 3"):
        log.rewind(position)
    assert log.tail.read_text() == old


def test_integrity_counts_events_kinds_sources_and_parts(log):
    log.append([quarantined(0), transition(3, 1), transition(3, 2)])
    log.compact(always=True)
    log.append([transition(1, 1)])
    lines = log.tail.read_bytes()
    assert integrity(log) == {
        "schema": 3,
        "complete": True,
        "events": 4,
        "gaps": 0,
        "malformed": 0,
        "problems": [],
        "kinds": {"environment_quarantined": 1, "seed_transition": 3},
        "sources": {"driver": 1, "env-1": 1, "env-3": 2},
        "parts": ["000000000000-000000000002"],
        "files": {"events.jsonl": {"size": len(lines), "sha256": sha256(lines).hexdigest()}},
    }


def test_a_changed_but_readable_file_is_refused_as_evidence(log):
    add(log, 0, 1)
    log.compact(always=True)
    (part,) = log.parts()
    file = part.path / "environment_quarantined.parquet"
    pq.write_table(pq.read_table(file).slice(0, 1), file)
    with pytest.raises(EventLogError, match=r"environment_quarantined\.parquet holds 1 rows, part\.json counts 2"):
        numbers(log)
    with pytest.raises(EventLogError, match=r"environment_quarantined\.parquet has changed since it was written"):
        numbers(log, evidence=True)


def test_events_cut_off_after_the_end_are_missed_until_the_log_is_rewound(log, caplog):
    add(log, 0, 1)
    position = log.position()
    add(log, 2)
    (log.folder / INTEGRITY).write_text(json.dumps(integrity(log)))
    assert numbers(log, evidence=True) == [0, 1, 2]
    lines = log.tail.read_text().splitlines(keepends=True)
    log.tail.write_text(lines[0])
    assert numbers(log) == [0]
    assert "events 1 to 2 are missing: integrity.json counts 3" in caplog.text
    with pytest.raises(EventLogError, match=r"events 1 to 2 are missing: integrity\.json counts 3"):
        numbers(log, evidence=True)
    log.tail.write_text("".join(lines))
    log.rewind(position)
    assert numbers(log, evidence=True) == [0, 1]


def test_an_unreadable_integrity_file_is_refused_as_evidence(log):
    add(log, 0)
    (log.folder / INTEGRITY).write_text("{}")
    assert numbers(log) == [0]
    with pytest.raises(EventLogError, match=r"integrity\.json cannot be read"):
        numbers(log, evidence=True)


def test_events_compacted_during_a_read_appear_once(log, monkeypatch):
    add(log, 0, 1)

    def compacted_meanwhile(folder):
        monkeypatch.undo()
        log.compact(always=True)
        return parts_in(folder)

    monkeypatch.setattr("esper_ray.nissa.log.reader.parts_in", compacted_meanwhile)
    content = log.read(evidence=True)
    assert [(part.first, part.last) for part in content.parts] == [(0, 1)]
    assert content.events == []


@pytest.mark.parametrize("kind", ["ppo_update", "round"])
def test_nan_of_a_field_that_may_be_undefined_is_null_and_not_listed(kind):
    record = complete({"kind": kind, "explained_variance": math.nan, "entropy_op": math.nan, "kl": 0.5})
    logged = json_record(record)
    assert (logged["explained_variance"], logged["entropy_op"], "nonfinite" in logged) == (None, None, False)
    assert json_record(record | {"kl": math.nan})["nonfinite"] == ["kl"]
    assert json_record(record | {"entropy_op": math.inf})["nonfinite"] == ["entropy_op"]  # a fault, not undefined

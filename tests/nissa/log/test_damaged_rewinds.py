"""Rewinding and compaction of a log that something else has changed."""

import json
import shutil

import pytest
from log_builders import altered, lines_of
from nissa_builders import complete, quarantined

from esper_ray.leyline.files.durable import WriteError
from esper_ray.nissa.log.events import EventLog, integrity
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.samples import SampleLog

FOREIGN = (b"[]\n", b"null\n", b"{}\n", b"\xff\n", b'{"schema": 3}\n', b'{"to', b"\xff")


@pytest.fixture
def log(tmp_path):
    event_log = EventLog(tmp_path, "run")
    event_log.tail.touch()
    return event_log


def add(log, *rounds):
    log.append(quarantined(number) for number in rounds)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def compacted(log):
    """Two parts of three events, two lines; the positions are those of three and of six events."""
    positions = []
    for start in (0, 3):
        add(log, start, start + 1, start + 2)
        positions.append(log.position())
        log.compact(always=True)
    add(log, 6, 7)
    return positions


@pytest.mark.parametrize("foreign", FOREIGN)
def test_damage_behind_the_position_is_cut(log, foreign):
    add(log, 0, 1)
    position, before = log.position(), log.tail.read_bytes()
    add(log, 2)
    log.tail.write_bytes(log.tail.read_bytes() + foreign)
    EventLog(log.folder, "run").rewind(position)
    assert log.tail.read_bytes() == before


@pytest.mark.parametrize("foreign", [line for line in FOREIGN if line.endswith(b"\n")])
@pytest.mark.parametrize("place", [0, 1])
def test_damage_before_the_position_is_refused_and_nothing_is_cut(log, foreign, place):
    add(log, 0, 1, 2)
    position = log.position()
    add(log, 3)
    lines = log.tail.read_bytes().splitlines(keepends=True)
    log.tail.write_bytes(b"".join([*lines[:place], foreign, *lines[place:]]))
    before = files(log.folder)
    reopened = EventLog(log.folder, "run")
    for refused in (reopened.check, reopened.rewind):
        with pytest.raises(
            EventLogError, match=rf"line {place + 1} of .* is no.*the checkpoint needs the events up to 2"
        ):
            refused(position)
    assert files(log.folder) == before


def test_a_doubled_line_before_the_position_is_refused(log):
    add(log, 0, 1, 2)
    position = log.position()
    lines = log.tail.read_bytes().splitlines(keepends=True)
    log.tail.write_bytes(b"".join([*lines[:2], *lines[1:]]))
    with pytest.raises(EventLogError, match=r"line 3 of .* is doubled: event 1 stands in line 2"):
        log.rewind(position)


def test_the_last_event_without_its_line_end_is_refused(log):
    add(log, 0, 1)
    position = log.position()
    log.tail.write_bytes(log.tail.read_bytes()[:-1])
    with pytest.raises(EventLogError, match=r"line 2 of .* is cut off: it has no end; the checkpoint needs"):
        log.rewind(position)


def test_a_missing_event_before_the_position_is_refused(log):
    add(log, 0, 1, 2)
    position = log.position()
    lines = log.tail.read_bytes().splitlines(keepends=True)
    log.tail.write_bytes(lines[0] + lines[2])
    with pytest.raises(EventLogError, match=r"events 1 to 1 are missing"):
        log.rewind(position)


def index(part, **changes):
    tree = json.loads((part / "part.json").read_text()) | changes
    (part / "part.json").write_text(json.dumps(tree))


DAMAGES = {
    "changed": lambda part: (part / "environment_quarantined.parquet").write_bytes(b"PAR1"),
    "index": lambda part: (part / "part.json").write_bytes(b"[]"),
    "sources": lambda part: index(part, sources={"driver": 1}),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_part_before_the_position_is_refused_and_nothing_is_cut(log, name, number):
    position = compacted(log)[1]
    DAMAGES[name](log.parts()[number].path)
    before = files(log.folder)
    with pytest.raises(EventLogError):
        EventLog(log.folder, "run").rewind(position)
    assert files(log.folder) == before


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_part_behind_the_position_is_removed(log, name):
    position = compacted(log)[0]
    DAMAGES[name](log.parts()[1].path)
    reopened = EventLog(log.folder, "run")
    reopened.rewind(position)
    assert [event["round"] for event in reopened.records(evidence=True)] == [0, 1, 2]
    assert len(list((log.folder / "events").iterdir())) == 1


def test_a_file_that_is_named_like_a_part_is_removed_behind_the_position(log):
    position = compacted(log)[1]
    (log.folder / "events" / "000000000008-000000000009").write_text("no part")
    EventLog(log.folder, "run").rewind(position)
    assert [event["round"] for event in log.records(evidence=True)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("foreign", [line for line in FOREIGN if line.endswith(b"\n")])
def test_a_foreign_line_in_a_running_log_ends_the_run_and_nothing_is_added(log, foreign):
    add(log, 0)
    with log.tail.open("ab") as file:
        file.write(foreign)
    before = log.tail.read_bytes()
    for change in (lambda: add(log, 1), lambda: log.compact(always=True)):
        with pytest.raises(WriteError, match=r"events\.jsonl was extended by another process"):
            change()
    assert log.tail.read_bytes() == before
    assert log.parts() == []
    assert integrity(log)["complete"] is False


def test_a_line_that_changed_without_changing_its_length_is_not_compacted(log):
    add(log, 0, 1)
    log.tail.write_bytes(log.tail.read_bytes().replace(b'"round": 1', b'"round": x'))
    with pytest.raises(EventLogError, match=rf"line 2 of {log.tail} is not JSON"):
        log.compact(always=True)
    assert log.parts() == []


def test_a_changed_value_is_not_compacted_and_makes_the_log_incomplete(log, caplog):
    add(log, 0, 1)
    position = log.position()
    log.tail.write_bytes(log.tail.read_bytes().replace(b'"round": 1', b'"round": 7'))
    for _ in range(2):
        log.compact(always=True)
    change = f"{log.tail} was changed by another process: its SHA-256 is not that of the written lines"
    assert (log.parts(), f"{change}; the lines are not compacted" in caplog.text) == ([], True)
    counts = integrity(log)
    assert (counts["complete"], counts["problems"]) == (False, [change])
    with pytest.raises(EventLogError, match="has changed since it was written"):
        EventLog(log.folder, "run").rewind(position)


def test_lines_of_another_process_are_compacted_if_they_are_sound(log):
    add(log, 0, 1)
    reader = EventLog(log.folder, "run")
    reader.compact(always=True)
    assert [event["round"] for event in reader.records(evidence=True)] == [0, 1]
    assert integrity(reader)["complete"]


def test_lines_for_a_copy_leave_out_foreign_ones(log):
    add(log, 0, 1)
    whole = log.tail.read_bytes().splitlines(keepends=True)
    assert log.lines_from(0) == b"".join(whole)
    assert log.lines_from(1) == whole[1]
    assert log.lines_from(2) == b""
    log.tail.write_bytes(b"".join([whole[0], b"[]\n", whole[1]]))
    assert log.lines_from(0) == b"".join(whole)
    assert log.lines_from(1) == whole[1]


def sample(step):
    return complete({"kind": "profile", "step": step, "seconds": {"train": 1.0}})


def test_samples_beside_a_foreign_line_are_kept_and_counted(tmp_path, caplog):
    log = SampleLog(tmp_path, "run")
    log.add([sample(1), sample(2)])
    with log.tail.open("ab") as file:
        file.write(b'[]\n{"seq": 2, "ki')
    reopened = SampleLog(tmp_path, "run")
    reopened.add([sample(3)])
    assert [event["seq"] for event in reopened.records()] == [0, 1, 2]
    assert f"line 3 of {log.tail} is not an object" in caplog.text
    reopened.compact(always=True)
    assert reopened.parts() == []
    assert reopened.summary() == {
        "samples": 3,
        "lost": 0,
        "sample_problems": [f"line 3 of {log.tail} is not an object: it is []"],
    }


def test_a_damaged_part_of_the_samples_is_refused_before_samples_are_added(tmp_path):
    log = SampleLog(tmp_path, "run")
    log.add([sample(1), sample(2)])
    log.compact(always=True)
    (log.parts()[0].path / "part.json").write_bytes(b"[]")
    with pytest.raises(EventLogError, match=r"part\.json is not an object"):
        SampleLog(tmp_path, "run").check({"sequence": 0})
    assert SampleLog(tmp_path, "run").summary()["samples"] is None


@pytest.mark.parametrize("value", [7, 77])
def test_a_changed_line_before_the_position_is_refused_and_nothing_is_cut(log, value):
    add(log, 0, 1, 2)
    position = log.position()
    add(log, 3)
    lines = lines_of(log)
    log.tail.write_bytes(b"".join([lines[0], altered(lines[1], round=value), *lines[2:]]))
    before = files(log.folder)
    message = (
        r"events\.jsonl has changed since it was written: the SHA-256 of lines 1 to 3 \(events 0 to 2\) is not that in "
        "the checkpoint"
    )
    for attempt in (EventLog(log.folder, "run").check, EventLog(log.folder, "run").rewind):
        with pytest.raises(EventLogError, match=message):
            attempt(position)
    assert files(log.folder) == before


def test_a_changed_line_behind_the_position_is_cut(log):
    add(log, 0)
    position, before = log.position(), log.tail.read_bytes()
    add(log, 1)
    log.tail.write_bytes(before + altered(lines_of(log)[1], round=7))
    EventLog(log.folder, "run").rewind(position)
    assert log.tail.read_bytes() == before


def test_lines_are_compared_after_compactions_and_rewinds(log):
    (first, second), third = compacted(log), log.position()
    log.rewind(third)
    assert log.position() == third
    assert (third.lines_from, third.sequence) == (6, 8)
    log.tail.write_bytes(altered(lines_of(log)[0], round=9) + lines_of(log)[1])
    with pytest.raises(EventLogError, match=r"lines 1 to 2 \(events 6 to 7\)"):
        log.check(third)
    for position in (second, first):  # their lines are compacted: the digests of the parts are compared
        log.check(position)

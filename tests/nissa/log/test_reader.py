"""The reader of logs: foreign lines, numbers that do not fit, damaged parts."""

import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_builders import add, altered, lines_of, rounds
from nissa_builders import complete, transition

from esper_ray.nissa.log.events import EventLog, integrity
from esper_ray.nissa.log.numbering import InheritedNames
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.reader import INTEGRITY
from esper_ray.nissa.log.sql import EventDatabase

FOREIGN = (b"[]", b"null", b"5", b'"x"', b"{}", b"\xff", b"", b"\0\0", b'{"schema": true}', b'{"schema": 3}')


@pytest.fixture
def log(tmp_path):
    event_log = EventLog(tmp_path, "run")
    event_log.tail.touch()
    return event_log


def refuse(log, message):
    """Check that every reader refuses the log, as evidence or not."""
    for evidence in (False, True):
        with pytest.raises(EventLogError, match=message):
            log.read(evidence=evidence)
    with pytest.raises(EventLogError, match=message), EventDatabase(log) as database:
        database.ask("SELECT round FROM environment_quarantined")


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_foreign_line_is_refused_by_file_and_line(log, foreign, place):
    add(log, 0, 1, 2)
    lines = lines_of(log)
    log.tail.write_bytes(b"".join([*lines[:place], foreign + b"\n", *lines[place:]]))
    assert integrity(log)["complete"] is False
    refuse(log, rf"line {place + 1} of .*events\.jsonl is no")


WRONG_FIELDS = {
    "seq missing": ({"seq": ...}, "seq: Field required"),
    "seq negative": ({"seq": -1}, "seq: Input should be greater than or equal to 0, got -1"),
    "seq a bool": ({"seq": True}, "seq: Input should be a valid integer, got True"),
    "seq a fraction": ({"seq": 1.0}, "seq: Input should be a valid integer, got 1.0"),
    "seq a text": ({"seq": "1"}, "seq: Input should be a valid integer, got '1'"),
    "seq beyond 64 bits": ({"seq": 2**63}, "seq: Input should be less than or equal to 9223372036854775807"),
    "no kind": ({"kind": ...}, "kind None is not one of run_started"),
    "a kind that is a list": ({"kind": []}, "kind [] is not one of run_started"),
    "a round that is a text": ({"round": "1"}, "environment_quarantined.round: Input should be a valid integer"),
    "a round beyond 64 bits": ({"round": 2**70}, "environment_quarantined.round: Input should be less than"),
    "an unknown field": ({"colour": "red"}, "environment_quarantined.colour: Extra inputs are not permitted"),
    "run a number": ({"run": 3}, "run: Input should be a valid string, got 3"),
    "another run": ({"run": "evil"}, "run: 'run' is expected, got 'evil'"),
    "another group": ({"group": "B"}, "group: '' is expected, got 'B'"),
    "another source": ({"source": "env-7"}, "source: 'driver' is expected, got 'env-7'"),
    "nonfinite a text": ({"nonfinite": "error"}, "nonfinite: a list of names is expected, got 'error'"),
    "nonfinite that is finite": ({"nonfinite": ["error"]}, "nonfinite: 'error' is not null"),
    "a null that is not listed": ({"error": None}, "environment_quarantined.error: Input should be a valid string"),
    "another version": ({"schema": 1}, "an event of version 1, this program reads 3"),
    "a version that is a text": ({"schema": "3"}, "schema: 3 is expected, got '3'"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_record_with_a_wrong_field_is_refused_with_its_value(log, name):
    changes, problem = WRONG_FIELDS[name]
    add(log, 0, 1, 2)
    lines = lines_of(log)
    record = {k: v for k, v in (json.loads(lines[1]) | changes).items() if v is not ...}
    log.tail.write_bytes(b"".join([lines[0], json.dumps(record).encode() + b"\n", lines[2]]))
    refuse(log, rf"line 2 of .*events\.jsonl is .*{re.escape(problem)}")


def test_copied_events_have_the_names_of_their_origin_and_no_later_ones(tmp_path):
    origin = EventLog(tmp_path, "sweep", "A", [InheritedNames(run="sweep", group="B", end=1)])
    origin.append([transition(0, 1)])
    origin.tail.write_bytes(altered(lines_of(origin)[0], group="B"))
    assert origin.names.until(1) == (InheritedNames(run="sweep", group="B", end=1),)
    assert origin.names.until(3) == (*origin.names.inherited, InheritedNames(run="sweep", group="A", end=3))
    log = EventLog(tmp_path, "sweep", "C", origin.names.until(2))
    with log.tail.open("ab") as file:
        file.write(altered(altered(lines_of(log)[0], seq=1, source_seq=1), group="A"))
        file.write(altered(altered(lines_of(log)[0], seq=2, source_seq=2), group="C"))
    assert [event["group"] for event in log.records(evidence=True)] == ["B", "A", "C"]
    with pytest.raises(EventLogError, match=r"line 1 of .* is not an event: group: 'C' is expected, got 'B'"):
        list(EventLog(tmp_path, "sweep", "C").records())


def test_a_changed_value_of_a_finished_log_is_refused(log):
    add(log, 0, 1, 2)
    (log.folder / INTEGRITY).write_text(json.dumps(integrity(log)))
    assert rounds(log) == [0, 1, 2]
    lines = lines_of(log)
    log.tail.write_bytes(b"".join([lines[0], altered(lines[1], round=7), lines[2]]))
    refuse(log, r"events\.jsonl has changed since it was written: integrity\.json has another digest")
    log.tail.write_bytes(b"".join([lines[0], altered(lines[1], round=77), lines[2]]))
    refuse(log, rf"events\.jsonl has {len(b''.join(lines)) + 1} bytes, integrity\.json counts {len(b''.join(lines))}")


def test_a_null_for_a_number_that_was_not_finite_is_read(log):
    log.append([complete({"kind": "round", "return_mean": float("nan"), "kl": float("inf")})])
    (record,) = log.records(evidence=True)
    assert (record["return_mean"], record["kl"], sorted(record["nonfinite"])) == (None, None, ["kl", "return_mean"])
    lines = lines_of(log)
    log.tail.write_bytes(altered(lines[0], nonfinite=["kl"]))
    with pytest.raises(EventLogError, match=r"round\.return_mean: Input should be a valid number, got None"):
        log.read(evidence=True)


def test_doubled_lines_are_called_doubled(log):
    add(log, 0, 1, 2, 3)
    lines = lines_of(log)
    log.tail.write_bytes(b"".join([*lines, *lines[1:]]))
    assert [problem.text for problem in log.content(digests=False).problems][:3] == [
        f"line 5 of {log.tail} is doubled: event 1 stands in line 2",
        f"line 6 of {log.tail} is doubled: event 2 stands in line 3",
        f"line 7 of {log.tail} is doubled: event 3 stands in line 4",
    ]
    refuse(log, r"line 5 .* is doubled: event 1 stands in line 2")


def test_lines_of_compacted_events_are_doubled_unless_a_crash_left_the_whole_part(log, caplog):
    add(log, 0, 1, 2)
    lines = lines_of(log)
    log.compact(always=True)
    log.tail.write_bytes(b"".join(lines))
    assert (rounds(log), caplog.text) == ([0, 1, 2], "")
    log.read(evidence=True)
    log.tail.write_bytes(lines[0])
    refuse(log, r"line 1 .* is doubled: event 0 is compacted already")


@pytest.mark.parametrize("numbers", [(10**6,), (10**6, 10**6 + 1), (2**63 - 1,)])
def test_a_line_with_a_wild_number_is_the_one_that_is_refused(log, numbers):
    add(log, 0, 1, 2, 3)
    lines = lines_of(log)
    wild = [altered(lines[0], seq=number) for number in numbers]
    log.tail.write_bytes(b"".join([*lines[:2], *wild, *lines[2:]]))
    refuse(log, rf"line 3 of .* is out of order: event {numbers[0]}")


@given(order=st.permutations(range(5)), doubled=st.lists(st.integers(0, 4), max_size=4))
def test_events_are_read_in_order_and_every_other_line_is_a_problem(tmp_path_factory, order, doubled):
    log = EventLog(tmp_path_factory.mktemp("log"), "run")
    add(log, *range(5))
    lines = lines_of(log)
    log.tail.write_bytes(b"".join(lines[number] for number in (*order, *doubled)))
    content = log.content(digests=True)
    read = [event["seq"] for event in content.events]
    assert read == sorted(set(read))
    left_out = [problem for problem in content.problems if problem.text.startswith("line ")]
    assert len(read) + len(left_out) == 5 + len(doubled)
    if list(order) == [0, 1, 2, 3, 4]:
        assert read == [0, 1, 2, 3, 4]


def test_a_torn_last_line_is_not_yet_there(log, caplog):
    add(log, 0, 1)
    content = log.tail.read_bytes()
    for end in (1, 40, len(content) // 2 - 1):
        caplog.clear()
        log.tail.write_bytes(content[:-end])
        assert rounds(log) == [0]
        assert f"line 2 of {log.tail} is cut off: it has no end" in caplog.text
        with pytest.raises(EventLogError, match=r"line 2 .* is cut off"):
            log.read(evidence=True)


def test_a_number_within_the_source_that_does_not_follow_is_refused_as_evidence(log):
    log.append([transition(1, 1), transition(1, 2)])
    log.compact(always=True)
    log.append([transition(1, 3), transition(1, 4)])
    lines = lines_of(log)
    log.tail.write_bytes(lines[0] + altered(lines[1], source_seq=9))
    with pytest.raises(EventLogError, match=r"line 2 .* source_seq: 3 is expected as the next number of env-1, got 9"):
        log.read(evidence=True)


@pytest.mark.parametrize("name", ["0 copy", "000000000000-000000000001 copy", "0-1", ".000000000002-000000000003", "x"])
def test_a_folder_that_is_no_part_is_passed_over(log, caplog, name):
    add(log, 0, 1)
    log.compact(always=True)
    shutil.copytree(log.parts()[0].path, log.folder / "events" / name)
    assert (rounds(log), caplog.text) == ([0, 1], "")
    log.read(evidence=True)
    assert integrity(log)["complete"]


def test_the_shorter_part_of_an_interrupted_rewind_is_passed_over(log):
    add(log, 0, 1)
    lines = log.tail.read_bytes()
    log.compact(always=True)
    short = log.parts()[0].path
    shutil.copytree(short, log.folder / "kept")
    shutil.rmtree(short)
    log.tail.write_bytes(lines)
    resumed = EventLog(log.folder, "run")  # another process
    resumed.counts = log.counts
    add(resumed, 2)
    resumed.compact(always=True)
    shutil.move(log.folder / "kept", short)
    assert sorted(path.name for path in (log.folder / "events").iterdir()) == [
        "000000000000-000000000001",
        "000000000000-000000000002",
    ]
    assert rounds(log) == [0, 1, 2]
    log.read(evidence=True)
    resumed.rewind(resumed.position())
    assert [part.path.name for part in log.parts()] == ["000000000000-000000000002"]
    assert not short.exists()


def test_a_viewer_reads_a_sound_log_without_checks_and_the_sound_lines_of_a_damaged_one(log):
    add(log, 0, 1, 2)
    log.compact(always=True)
    add(log, 3, 4)
    assert list(log.unchecked().records()) == list(log.read(evidence=True).records())
    with log.tail.open("ab") as file:
        file.write(b"{no json}\n")
    assert [record["round"] for record in log.unchecked().records()] == [0, 1, 2, 3, 4]
    with EventDatabase(log, checked=False) as database:
        assert database.ask("SELECT count(*) FROM environment_quarantined").rows == [(5,)]

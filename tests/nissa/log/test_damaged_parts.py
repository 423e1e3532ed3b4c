"""Parts of logs and their counts: what is damaged is refused by every reader."""

import json
import os
import shutil
from collections import Counter
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_builders import add, rounds
from nissa_builders import complete, quarantined, transition

from esper_ray.nissa.log.events import EventLog, integrity
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.log.reader import INTEGRITY
from esper_ray.nissa.log.sql import EventDatabase

pytestmark = pytest.mark.integration


@pytest.fixture
def log(tmp_path):
    event_log = EventLog(tmp_path, "run")
    event_log.tail.touch()
    return event_log


def index_with(**changes):
    def change(part):
        index = json.loads((part / "part.json").read_text()) | changes
        (part / "part.json").write_text(json.dumps({k: v for k, v in index.items() if v is not ...}))

    return change


def write(name, content):
    return lambda part: (part / name).write_bytes(content)


def as_file(part):
    shutil.rmtree(part)
    part.write_text("no folder")


def events_as_file(part):
    shutil.rmtree(part.parent)
    part.parent.write_text("no folder")


def overlapping(part):
    other = part.with_name("000000000001-000000000002")
    shutil.copytree(part, other)
    index_with(first=1, last=2)(other)


def other_table(change):
    def write_table(part):
        file = part / "environment_quarantined.parquet"
        table = change(pq.read_table(file))
        file.unlink()
        pq.write_table(table, file)

    return write_table


def column(name, values):
    def change(table):
        index = table.column_names.index(name)
        return table.set_column(index, table.field(index), pa.array(values, table.field(index).type))

    return other_table(change)


def pipe(part):
    (part / "environment_quarantined.parquet").unlink()
    os.mkfifo(part / "environment_quarantined.parquet")


DAMAGED_PARTS = {
    "index a list": (write("part.json", b"[]"), "part.json is not an object: it is []"),
    "index not UTF-8": (write("part.json", b"\xff"), "part.json is not UTF-8"),
    "index empty": (write("part.json", b"{}"), "version None, this program reads 3"),
    "index without kinds": (index_with(kinds=...), "part.json: kinds: Field required"),
    "kinds a list": (index_with(kinds=[]), "part.json: kinds: Input should be a valid dictionary"),
    "kinds of another type": (index_with(kinds={"gate": 3}), "part.json: kinds.gate: Input should be a valid dict"),
    "unknown kind": (index_with(kinds={"x": {"rows": 2, "sha256": "0" * 64}}), "kinds: 'x' is not one of run_started"),
    "kind with a path": (index_with(kinds={"../x": {"rows": 2, "sha256": "0" * 64}}), "kinds: '../x' is not one of"),
    "first a bool": (index_with(first=False), "part.json: first: Input should be a valid integer"),
    "another first": (index_with(first=1), "it is the index of events 1 to 1, the folder is 000000000000-000000000001"),
    "other sources": (index_with(sources={"driver": 7}), "events 0 to 1 are 2, kinds counts 2 and sources 7"),
    "another version": (index_with(schema=4), "version 4, this program reads 3"),
    "no index": (lambda part: (part / "part.json").unlink(), "part.json is missing"),
    "a file for the part": (as_file, "000000000000-000000000001 is not a folder"),
    "a file for the folder": (events_as_file, "events cannot be read as a folder: Not a directory"),
    "an overlap": (overlapping, "000000000001-000000000002 overlaps 000000000000-000000000001: both hold event 1"),
    "no Parquet": (write("environment_quarantined.parquet", b"PAR1"), "environment_quarantined.parquet cannot be read"),
    "no file": (lambda part: (part / "environment_quarantined.parquet").unlink(), "quarantined.parquet is missing"),
    "a pipe": (pipe, "environment_quarantined.parquet is not a regular file"),
    "fewer rows": (other_table(lambda table: table.slice(0, 1)), "holds 1 rows, part.json counts 2"),
    "more rows": (other_table(lambda table: pa.concat_tables([table, table])), "holds 4 rows, part.json counts 2"),
    "no column": (other_table(lambda table: table.drop_columns(["error"])), "does not have the columns of the kind"),
    "a doubled number": (column("seq", [0, 0]), "its events are not those with the numbers 0 to 1"),
    "another number": (column("seq", [0, 2]), "its events are not those with the numbers 0 to 1"),
    "a negative number": (column("seq", [-1, 0]), "its events are not those with the numbers 0 to 1"),
    "no number": (column("seq", [0, None]), "quarantined.parquet: row 1 has no seq, the number of the event"),
    "another run": (column("run", ["run", "evil"]), "parquet: event 1: run: 'run' is expected, got 'evil'"),
    "no run": (column("run", [None, "run"]), "parquet: event 0: run: 'run' is expected, got None"),
    "another group": (column("group", ["", "B"]), "parquet: event 1: group: '' is expected, got 'B'"),
    "another type": (
        other_table(lambda table: table.set_column(0, "run", pa.array([1, 2]))),
        "does not have the columns of the kind environment_quarantined",
    ),
}


@pytest.mark.parametrize("name", DAMAGED_PARTS)
@pytest.mark.parametrize("evidence", [True, False])
def test_a_damaged_part_is_refused_by_every_reader(log, name, evidence):
    damage, problem = DAMAGED_PARTS[name]
    add(log, 0, 1)
    log.compact(always=True)
    damage(log.parts()[0].path)
    readers = (lambda: list(log.records(evidence=evidence)), lambda: EventDatabase(log, evidence=evidence))
    for reader in readers:
        with pytest.raises(EventLogError) as error:
            reader()
        assert "\n" not in str(error.value)
        assert evidence or problem in str(error.value)
    counts = integrity(log)
    assert counts["complete"] is False
    assert str(log.folder) in counts["problems"][0]


def test_values_that_were_altered_are_refused_as_evidence(log):
    add(log, 0, 1)
    log.compact(always=True)
    other_table(lambda table: table.set_column(table.column_names.index("round"), "round", pa.array([0, 7])))(
        log.parts()[0].path
    )
    assert rounds(log) == [0, 7]
    for reader in (lambda: list(log.records(evidence=True)), lambda: EventDatabase(log, evidence=True)):
        with pytest.raises(EventLogError, match=r"environment_quarantined\.parquet has changed since it was written"):
            reader()


def test_a_part_of_a_program_with_fewer_fields_is_read_with_null(log):
    add(log, 0, 1)
    log.compact(always=True)
    part = log.parts()[0].path
    other_table(lambda table: table.drop_columns(["error"]))(part)
    digest = sha256((part / "environment_quarantined.parquet").read_bytes()).hexdigest()
    index_with(kinds={"environment_quarantined": {"rows": 2, "sha256": digest}})(part)
    assert [(event["round"], event["error"]) for event in log.records(evidence=True)] == [(0, None), (1, None)]
    assert rounds(log) == [0, 1]


def test_events_with_other_numbers_than_their_part_are_refused(log):
    add(log, 0, 1)
    log.compact(always=True)
    other_table(lambda table: table.set_column(table.column_names.index("seq"), "seq", pa.array([0, 0])))(
        log.parts()[0].path
    )
    with pytest.raises(EventLogError, match=r"its events are not those with the numbers 0 to 1"):
        list(log.records())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[]", "integrity.json is not an object"),
        (b"\xff", "integrity.json is not UTF-8"),
        (b'{"events": true}', "events: a number of events is expected, got True"),
        (b'{"events": "2"}', "events: a number of events is expected, got '2'"),
        (b'{"events": -1}', "events: a number of events is expected, got -1"),
        (b'{"events": 1}', "the log ends with event 1, integrity.json counts 1"),
        (b'{"events": 4}', "events 2 to 3 are missing: integrity.json counts 4"),
    ],
)
def test_counts_of_a_finished_run_that_do_not_fit_are_refused_as_evidence(log, caplog, content, problem):
    add(log, 0, 1)
    (log.folder / INTEGRITY).write_bytes(content)
    assert rounds(log) == [0, 1]
    assert problem in caplog.text
    with pytest.raises(EventLogError, match=r"integrity"):
        log.read(evidence=True)


def test_a_link_to_nothing_in_place_of_the_parts_is_refused(log):
    add(log, 0, 1)
    (log.folder / "events").symlink_to("nowhere")
    for evidence in (True, False):
        with pytest.raises(EventLogError, match="events is a link to nothing"):
            log.read(evidence=evidence)


def test_a_log_without_its_file_of_lines_is_refused(log):
    log.tail.unlink()
    with pytest.raises(EventLogError, match=r"events\.jsonl is missing"):
        log.read(evidence=False)
    log.tail.mkdir()
    with pytest.raises(EventLogError, match=r"events\.jsonl is a folder"):
        log.read(evidence=False)


def mixed_log(folder):
    log = EventLog(folder, "run")
    log.append([transition(1, 1), complete({"kind": "round", "return_mean": float("nan")}), quarantined(0)])
    log.append([complete({"kind": "gate", "checks": []}), complete({"kind": "outcome"})])
    return log


def read_or_refuse(log):
    """Numbers of events by kind from both readers, which agree; ``None`` if the log is refused."""
    try:
        events = Counter(event["kind"] for event in log.records())
    except EventLogError:
        return None
    with EventDatabase(log) as database:
        counted = {kind: database.ask(f'SELECT count(*) FROM "{kind}"').rows[0][0] for kind in events}
    assert counted == events
    return events


@settings(max_examples=60)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), min_size=1, max_size=4))
def test_whatever_bytes_change_in_the_lines_both_readers_agree(tmp_path_factory, changes):
    log = mixed_log(tmp_path_factory.mktemp("log"))
    content = bytearray(log.tail.read_bytes())
    for place, new in changes:
        begin = place % len(content)
        content[begin : begin + len(new)] = new
    log.tail.write_bytes(content)
    events = read_or_refuse(log)
    assert events is None or events.total() <= 5 + len(changes)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["round", "gate", "outcome", "part.json"]), place=st.integers(0, 10**6), bit=st.integers(0, 7)
)
def test_whatever_bit_flips_in_a_part_it_is_refused_as_evidence(tmp_path_factory, kind, place, bit):
    log = mixed_log(tmp_path_factory.mktemp("log"))
    log.compact(always=True)
    part = log.parts()[0].path
    file = part / (kind if kind == "part.json" else f"{kind}.parquet")
    content = bytearray(file.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    file.write_bytes(content)
    try:
        whole = list(log.records())
    except EventLogError:
        whole = None
    assert whole is None or len(whole) == 5
    if kind != "part.json":
        with pytest.raises(EventLogError, match="has changed since it was written"):
            log.read(evidence=True)

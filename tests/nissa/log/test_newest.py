"""The newest events of parts equal those of the whole log."""

import subprocess
import sys
import textwrap

import pyarrow.parquet as pq
import pytest
from state_builders import finished_round, moved, outcome, step

from esper_ray.nissa.log.events import EventLog
from esper_ray.nissa.log.newest import newest_records, record_at

pytestmark = pytest.mark.integration


@pytest.fixture
def log(tmp_path):
    """Three parts: two environments with three episodes of two steps each, and a round after each part."""
    log = EventLog(tmp_path, "run")
    log.tail.touch()
    for episode in range(3):
        steps = [step(env=env, episode=episode, number=number) for number in (1, 2) for env in (0, 1)]
        log.append([*steps, outcome(episode, 1.0, 50.0, env=0), finished_round(episode, 0.5)])
        log.compact(always=True)
    return log


@pytest.mark.parametrize("kept", [0, 1, 3, 5, 100])
def test_the_newest_of_each_kind_are_those_of_the_whole_log(log, kept):
    expected = [
        event["seq"]
        for kind in ("env_epoch", "outcome", "round")
        for event in list(log.of_kinds([kind]))[-kept or 1000 :]
    ]
    assert [record["seq"] for record in newest_records(log.parts(), kept, {}, files=3)] == sorted(expected)


def test_a_log_is_opened_without_pandas(log):
    """Arrow imports it for conversions, which took longer than everything else that a viewer opens a log with."""
    program = """
        import sys
        from pathlib import Path
        from esper_ray.nissa.log.newest import newest_records, record_at
        from esper_ray.nissa.log.parquet import parts_in
        parts = parts_in(Path(sys.argv[1]))
        assert newest_records(parts, 1, {parts[0]: {1: 0}}, 3) and record_at(parts[0], 0)
        print("pandas" in sys.modules)
    """
    words = [sys.executable, "-c", textwrap.dedent(program), str(log.folder / "events")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"


def test_whole_episodes_are_added_to_the_newest_events(log):
    first = log.parts()[0]
    records = newest_records(log.parts(), 1, {first: {1: 0}}, files=3)
    steps = [(r["env"], r["episode"], r["step"]) for r in records if r["kind"] == "env_epoch"]
    assert steps == [(1, 0, 1), (1, 0, 2), (1, 2, 2)]
    assert records == [record for record in log.records() if record in records]


def test_files_without_them_are_not_read(log, monkeypatch):
    files = []
    opened = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda file: files.append(file) or opened(file))
    newest_records(log.parts(), 1, {}, files=3)
    assert {file.parent for file in files} == {log.parts()[-1].path}


def test_the_newest_are_searched_in_as_many_files_of_a_kind_as_allowed(log):
    records = newest_records(log.parts(), 5, {}, files=2)
    assert [r["seq"] for r in records if r["kind"] == "round"] == [11, 17]
    assert [r["seq"] for r in records if r["kind"] == "env_epoch"] == [9, 12, 13, 14, 15]


def test_a_rare_kind_is_found_in_an_old_part(tmp_path):
    log = EventLog(tmp_path, "run")
    log.tail.touch()
    for event in (moved("HOLDING", "FOSSILIZED"), *(finished_round(index, 0.5) for index in range(3))):
        log.append([event])
        log.compact(always=True)
    records = newest_records(log.parts(), 5, {}, files=1)
    assert [(record["seq"], record["kind"]) for record in records] == [(0, "seed_transition"), (3, "round")]


def test_one_event_is_found_by_its_number(log):
    events = list(log.records())
    part = log.parts()[1]
    assert record_at(part, 8) == events[8]
    assert record_at(part, 3) is None

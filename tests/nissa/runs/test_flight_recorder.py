"""The flight recorder: what it keeps, what it writes, and what it leaves out."""

import json
import logging
import math
import threading
import time
from itertools import count

import pytest
from nissa_builders import complete

from esper_ray.leyline.errors import Fault
from esper_ray.leyline.files.durable import WriteError
from esper_ray.nissa.runs import flight_recorder
from esper_ray.nissa.runs.flight_recorder import (
    FLIGHT,
    FlightRecorder,
    RecordingHandler,
    RequestWatch,
    recordings,
    request_recording,
)

HEADER = ("number", "what", "reason", "items", "left_out")


def step(number, **more):
    return complete({"kind": "env_epoch", "step": number, "operation": "WAIT", **more})


def written(recorder, what="anomaly", reason="kl is large"):
    header, *items = map(json.loads, recorder.write(what, reason).read_text().splitlines())
    return header, items


@pytest.fixture
def recorder(tmp_path):
    return FlightRecorder(tmp_path)


@pytest.fixture
def seconds(monkeypatch):
    ticks = count(100)
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))


def test_a_recording_has_a_header_and_its_items_in_order_with_times(recorder, seconds):
    recorder.add("playing")
    recorder.extend([step(1), step(2)])
    recorder.add(Fault("worker_died", "worker 3", "killed", 2.5))
    header, items = written(recorder)
    assert [header[name] for name in HEADER] == [1, "anomaly", "kl is large", 4, 0]
    assert [(item["at"], item["kind"]) for item in items] == [
        (100.0, "phase"),
        (101.0, "env_epoch"),
        (101.0, "env_epoch"),
        (102.0, "fault"),
    ]
    assert items[0]["phase"] == "playing"
    assert (items[3]["fault"], items[3]["who"], items[3]["seconds"]) == ("worker_died", "worker 3", 2.5)


def test_the_name_of_the_file_has_number_and_cause(recorder, tmp_path):
    recorder.write("anomaly")
    recorder.write("../Evil name/" + 80 * "x")
    names = [path.name for path in sorted((tmp_path / FLIGHT).iterdir())]
    assert names == ["001-anomaly.jsonl", f"002-_evil_name_{49 * 'x'}.jsonl"]


def test_only_the_newest_items_are_kept(tmp_path):
    recorder = FlightRecorder(tmp_path, items=3)
    recorder.extend(step(number) for number in range(10))
    _, items = written(recorder)
    assert [item["step"] for item in items] == [7, 8, 9]


def test_the_newest_items_that_fit_the_limit_are_written(tmp_path):
    recorder = FlightRecorder(tmp_path, limit=2000)
    recorder.extend(step(number) for number in range(50))
    path = recorder.write("request")
    header, *items = map(json.loads, path.read_text().splitlines())
    assert 1500 < path.stat().st_size <= 2000
    assert items[-1]["step"] == 49
    assert header["items"] == len(items)
    assert header["left_out"] == 50 - len(items)


def test_numbers_that_are_not_finite_are_null(recorder):
    recorder.add(step(1, reward=math.nan))
    _, (item,) = written(recorder)
    assert item["reward"] is None
    assert item["nonfinite"] == ["reward"]


def test_an_item_that_is_no_json_leaves_a_line_and_not_an_error(recorder):
    recorder.extend([{"kind": "env_epoch", "object": object()}, step(2)])
    _, (unreadable, sound) = written(recorder)
    assert (unreadable["kind"], sound["step"]) == ("env_epoch", 2)
    assert "not JSON serializable" in unreadable["unreadable"]


def test_the_first_five_and_the_newest_of_many_recordings_stay(recorder, tmp_path):
    for _ in range(27):
        recorder.write("anomaly")
    assert [recording.number for recording in recordings(tmp_path)] == [1, 2, 3, 4, 5, *range(13, 28)]


def test_a_resumed_run_continues_the_numbers(recorder, tmp_path):
    recorder.write("failed")
    FlightRecorder(tmp_path).write("anomaly")
    assert [(r.number, r.what) for r in recordings(tmp_path)] == [(1, "failed"), (2, "anomaly")]


def test_a_place_that_cannot_be_written_is_a_write_error(recorder, tmp_path):
    (tmp_path / FLIGHT).write_text("")
    with pytest.raises(WriteError, match="flight cannot be written"):
        recorder.write("anomaly")


def test_a_folder_has_no_recordings_before_the_first(tmp_path):
    (tmp_path / FLIGHT).mkdir()
    (tmp_path / FLIGHT / "notes.txt").write_text("")
    assert recordings(tmp_path) == []


def test_damaged_lines_of_a_recording_are_counted(recorder, tmp_path):
    recorder.extend([step(1), step(2)])
    path = recorder.write("anomaly")
    path.write_bytes(path.read_bytes() + b"no json\n{}\n")
    (recording,) = recordings(tmp_path)
    records, damaged = recording.records()
    assert [record["kind"] for record in records] == ["recording", "env_epoch", "env_epoch"]
    assert damaged == 2


def test_messages_and_errors_are_kept_as_text(recorder):
    logger = logging.Logger("esper_ray.x")
    logger.addHandler(RecordingHandler(recorder))
    logger.addHandler(logging.NullHandler())
    logger.warning("part %d is slow", 3)
    recorder.add(ValueError("seven"))
    _, (message, error) = written(recorder)
    assert [message[name] for name in ("kind", "level", "logger", "text")] == [
        "log",
        "WARNING",
        "esper_ray.x",
        "part 3 is slow",
    ]
    assert (error["kind"], error["text"]) == ("error", "ValueError: seven\n")


def test_a_message_without_another_handler_is_still_printed(recorder, monkeypatch):
    printed = []
    last = logging.Handler(logging.WARNING)
    monkeypatch.setattr(last, "emit", printed.append)
    monkeypatch.setattr(logging, "lastResort", last)
    logger = logging.getLogger("no.other.handler")
    monkeypatch.setattr(logger, "propagate", False)
    handler = RecordingHandler(recorder)
    logger.addHandler(handler)
    logger.warning("alone")
    logger.addHandler(logging.NullHandler())
    logger.warning("with another")
    logger.handlers.clear()
    assert [record.getMessage() for record in printed] == ["alone"]


def test_a_request_is_answered_once_and_removed(tmp_path):
    answers, answered = [], threading.Event()

    def write(what, reason):
        answers.append((what, reason))
        answered.set()

    watch = RequestWatch(tmp_path, write, every_s=0.01)
    watch.start()
    request_recording(tmp_path)
    assert answered.wait(10.0)
    watch.stop()
    assert answers == [("request", "a viewer asked for it")]
    assert list((tmp_path / FLIGHT).iterdir()) == []


def test_a_signal_is_answered_without_waiting_for_the_next_look(tmp_path):
    answered = threading.Event()
    watch = RequestWatch(tmp_path, lambda what, reason: answered.set(), every_s=3600.0)
    watch.start()
    watch.ask("SIGUSR1")
    assert answered.wait(10.0)
    watch.stop()


def test_keeping_an_item_neither_serializes_nor_copies_it(recorder, monkeypatch):
    monkeypatch.setattr(flight_recorder, "json", None)
    monkeypatch.setattr(flight_recorder, "json_record", None)
    record = step(1)
    recorder.extend([record])
    recorder.add(record)
    assert all(item is record for _, item in recorder._items)

"""Pages of a log, newest first, hold every record once, whatever is compacted."""

import json

import pytest
from report_builders import run_of
from state_builders import finished_round, moved, outcome, step

from esper_ray.karn.questions import log_records
from esper_ray.karn.questions.log_records import log_page
from esper_ray.leyline.errors import UsageError

pytestmark = pytest.mark.integration


def record(index):
    return [
        step(env=index % 3, number=index + 1, accuracy=50.0, reward=0.5),
        finished_round(index, 0.5),
        outcome(index, 1.0, 40.0),
        moved("HOLDING", "PRUNED", index, slot="r0c1", reason=f"reason-{index}"),
    ][index % 4]


def records(count, first=0):
    return [record(index) for index in range(first, first + count)]


@pytest.fixture
def run(tmp_path):
    """A run with three parts of ten events, and ten lines."""
    run = run_of(tmp_path, [], status="running")
    for part in range(3):
        run.log(records(10 - (part == 0), 10 * part))
        run.compact(always=True)
    run.log(records(10, 30))
    return run


def pages(run, **choice):
    """Every page until the last."""
    found, before = [], None
    while True:
        page = log_page(run, before=before, **choice)
        found.append(page)
        if page.before is None:
            return found
        assert before is None or page.before < before
        before = page.before


def numbers(found):
    return [record["seq"] for page in found for record in page.records]


@pytest.mark.parametrize("limit", [1, 7, 10, 1000])
def test_all_pages_hold_every_record_once_and_newest_first(run, limit):
    expected = [record["seq"] for record in run.events()]
    assert numbers(pages(run, limit=limit)) == expected[::-1]
    assert len(expected) == 40


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_page_reads_few_parts_and_the_next_goes_on(run, monkeypatch, most):
    monkeypatch.setattr(log_records, "MOST_PARTS", most)
    found = pages(run, kind="outcome", limit=1000)
    assert numbers(found) == [record["seq"] for record in run.events() if record["kind"] == "outcome"][::-1]
    assert len(found) == {1: 3, 2: 2, 5: 1}[most]


def test_a_text_is_found_in_any_case(run):
    (page,) = pages(run, text="REASON-3")
    assert [record["reason"] for record in page.records] == ["reason-39", "reason-35", "reason-31", "reason-3"]
    assert all("reason" in record["line"] for record in page.records)


def test_a_record_is_whole_and_has_its_line(run):
    newest = log_page(run, limit=1).records[0]
    assert {name: value for name, value in newest.items() if name != "line"} == list(run.events())[-1]


def test_samples_are_in_a_log_of_their_own(run):
    from nissa_builders import complete

    run.samples.add([complete({"kind": "decision", "step": 3, "operation": "WAIT"})])
    assert [record["step"] for record in log_page(run, kind="decision").records] == [3]
    assert "decision" not in {record["kind"] for page in pages(run) for record in page.records}


def test_a_damaged_line_is_left_out(run):
    with run.event_log.tail.open("ab") as file:
        file.write(b"{no json}\n" + json.dumps({"seq": "x", "kind": 5}).encode() + b"\n")
    assert len(numbers(pages(run))) == 40


def test_lines_that_are_compacted_too_are_not_doubled(run):
    content = run.event_log.tail.read_bytes()
    run.compact(always=True)
    run.event_log.tail.write_bytes(content)
    assert len(numbers(pages(run))) == 40


def test_an_unknown_kind_is_refused(run):
    with pytest.raises(UsageError, match="it must be one of run_started"):
        log_page(run, kind="none")

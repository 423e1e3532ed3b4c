"""Every command that reads a run, on runs that were hurt the way files are."""

import json
import shutil

import pytest
from cli_builders import call
from variants import at_night

from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.integration

COUNT = "SELECT count(*) AS n FROM outcome"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, for changes."""
    return shutil.copytree(finished.run.path, tmp_path / "run")


def as_lines(run):
    """Change a run so that its events are lines of JSON; returns them."""
    lines = [json.dumps({"schema": EVENT_SCHEMA, **record}).encode() for record in RunDirectory.open(run).events()]
    shutil.rmtree(run / "events")
    (run / "events.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return lines


def readers(run, *options):
    yield call("events", run, "--limit", 0, "--format", "json", *options)
    yield call("sql", run, COUNT, "--format", "json", *options)


def refused(answer, *words):
    assert answer.code == 2
    assert all(word in answer.err for word in words)
    assert answer.err.startswith("esper: error: ")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("foreign", [b"[]", b"\xff", *at_night(b"5", b"null", b'"x"', b"{}")])
def test_a_foreign_line_is_refused_by_every_command_with_file_and_line(run, foreign):
    with (run / "events.jsonl").open("ab") as file:
        file.write(foreign + b"\n")
    answers = [*readers(run), *readers(run, "--evidence"), call("explain", run, "--env", 0)]
    for answer in (*answers, call("replay", run, "--episode", 0)):
        refused(answer, f"line 1 of {run}/events.jsonl is no")


@pytest.mark.parametrize("where", ["torn", "byte", "twice"])
def test_damaged_lines_get_the_same_answer_of_every_reader(run, where):
    lines = as_lines(run)
    outcomes = sum(b'"kind": "outcome"' in line for line in lines)
    content = [line + b"\n" for line in lines]
    if where == "torn":
        content[-1] = content[-1][:40]
    if where == "byte":
        content[3] = content[3].replace(b'"run": "', b'"run": "\xff')
    if where == "twice":
        content += content[-3:]
    (run / "events.jsonl").write_bytes(b"".join(content))
    number, problem = {
        "torn": (len(lines), "is cut off: it has no end"),
        "byte": (4, "is not UTF-8: byte "),
        "twice": (len(lines) + 1, f"is doubled: event {len(lines) - 3} stands in line {len(lines) - 2}"),
    }[where]
    events, counted = readers(run)
    if where == "torn":  # not yet written
        assert len(events.out.splitlines()) == len(lines) - 1
        assert json.loads(counted.out) == {"n": outcomes}
        assert f"line {number} of {run}/events.jsonl {problem}" in counted.err
    else:
        for answer in (events, counted):
            refused(answer, f"line {number} of {run}/events.jsonl {problem}")
    for answer in readers(run, "--evidence"):
        refused(answer, f"line {number} of {run}/events.jsonl {problem}")


@pytest.mark.usefixtures("asked_here")
def test_copied_folders_are_passed_over(run):
    whole = [(answer.code, answer.out) for answer in readers(run, "--evidence")]
    for part in list((run / "events").iterdir()):
        shutil.copytree(part, part.with_name(f"{part.name} copy"))
    assert [(answer.code, answer.out) for answer in readers(run, "--evidence")] == whole
    assert whole[0][0] == 0


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("content", [b"[]", b'{"schema": 3}', *at_night(b"null", b"{}", b"\xff", b"x")])
def test_an_index_of_another_type_is_refused(run, content):
    (part,) = (run / "events").glob("0*")
    (part / "part.json").write_bytes(content)
    for options in ((), ("--evidence",)):
        for answer in readers(run, *options):
            refused(answer, part.name)
    refused(call("explain", run, "--env", 0), part.name)
    refused(call("replay", run, "--episode", 0), part.name)


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    "content", [b"[]", b'{"run_id": 5}', *at_night(b"null", b"{}", b"\xff", b"x", b'{"status": 1}')]
)
def test_a_manifest_of_another_type_is_refused(run, content):
    (run / "manifest.json").write_bytes(content)
    for answer in (*readers(run), call("explain", run, "--env", 0), call("train", "ppo", "--resume", run)):
        refused(answer, "manifest.json cannot be used: ")


@pytest.mark.usefixtures("asked_here")
def test_a_sample_that_was_altered_is_refused_as_evidence(run):
    part = next((run / "samples").glob("0*"))
    file = part / "decision.parquet"
    file.write_bytes(file.read_bytes().replace(b"PAR1", b"PAR1", 1)[:-1] + b"\0")
    assert call("events", run, "--evidence").code == 0
    refused(call("sql", run, COUNT, "--evidence"), "decision.parquet has changed since it was written")
    refused(call("events", run, "--kind", "decision"), "decision.parquet cannot be read")


@pytest.mark.usefixtures("asked_here")
def test_a_file_in_place_of_a_folder_is_refused(run):
    for name in ("events", "checkpoints"):
        other = shutil.copytree(run, run.with_name(f"other-{name}"))
        shutil.rmtree(other / name)
        (other / name).write_text("no folder")
        for answer in readers(other):
            refused(answer, name)


@pytest.mark.usefixtures("asked_here")
def test_a_log_line_with_an_action_that_does_not_exist_is_refused(run):
    lines = [json.loads(line) for line in as_lines(run)]
    line = next(line for line in lines if line["kind"] == "env_epoch" and line["episode"] == 0)
    for action in ([], [99] * 8, [0] * 9):
        line["action"] = action
        (run / "events.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
        (run / "integrity.json").unlink(missing_ok=True)  # it has the digest of other lines
        refused(call("replay", run, "--episode", 0), f"event {line['seq']}: action: ")


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize(
    ("cause", "problem"),
    [(-1, "entries.0.cause_step: in the unit steps it lies in [0, inf], got -1"), (10**6, "caused by step 1000000")],
)
def test_a_ledger_entry_with_an_impossible_cause_is_refused(run, cause, problem):
    lines = [json.loads(line) for line in as_lines(run)]
    line = next(line for line in lines if line["kind"] == "env_epoch" and line["entries"])
    line["entries"][0]["cause_step"] = cause
    (run / "events.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    (run / "integrity.json").unlink()  # it has the digest of other lines
    refused(call("explain", run, "--episode", line["episode"]), problem)

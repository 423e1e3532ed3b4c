"""``esper replay`` on a real run directory."""

import json
import shutil

import pytest
from cli_builders import call

from esper_ray.nissa.catalogue.kinds import EVENT_SCHEMA
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.integration


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, for changes."""
    return shutil.copytree(finished.run.path, tmp_path / "run")


def as_lines(run):
    """The events as lines of JSON, without the Parquet files."""
    records = [{"schema": EVENT_SCHEMA, **record} for record in RunDirectory.open(run).events()]
    shutil.rmtree(run / "events")
    (run / "integrity.json").unlink()  # it has the digest of other lines
    return records


@pytest.mark.parametrize("episode", range(4))
def test_every_episode_of_a_run_is_replayed_without_a_difference(run, episode):
    answer = call("replay", run, "--episode", episode)
    assert (answer.code, answer.err) == (0, "")
    assert f"episode {episode} of {run}: 3 steps played again on cpu, no difference" in answer.out


def test_the_first_difference_is_reported_with_both_values(run):
    lines = as_lines(run)
    index = next(i for i, r in enumerate(lines) if r["kind"] == "env_epoch" and r["episode"] == 1 and r["step"] == 2)
    lines[index]["val_loss"] = 0.5
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = call("replay", run, "--episode", 1)
    assert answer.code == 1
    assert "differs after 2 of 3 steps on cpu" in answer.out
    assert "epoch 2: env_epoch val_loss was 0.5, is 2." in answer.out
    assert call("replay", run, "--episode", 0).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episode", "9"], "episode 9 was not recorded; the log holds 0 to 3"),
        (["--episode", "0", "--device", "tpu"], "--device 'tpu': it must be cpu or cuda:<index>"),
        (["--episode", "0", "--device", "mps"], "--device 'mps': it must be cpu or cuda:<index>"),
        (["--episode", "0", "--device", "cuda:999"], "--device 'cuda:999' does not exist: this machine has "),
    ],
)
def test_an_episode_that_cannot_be_replayed_is_refused(run, arguments, message):
    answer = call("replay", run, *arguments)
    assert answer.code == 2
    assert message in answer.err


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    answer = call("replay", tmp_path, "--episode", 0)
    assert answer.code == 2
    assert "is not a run directory" in answer.err


def test_a_record_with_a_damaged_line_is_refused_with_its_number(run):
    lines = [json.dumps(line) for line in as_lines(run)]
    (run / "events.jsonl").write_text("\n".join([*lines[:2], lines[2][:-20], *lines[3:]]))
    answer = call("replay", run, "--episode", 0)
    assert answer.code == 2
    assert f"line 3 of {run}/events.jsonl is not JSON" in answer.err

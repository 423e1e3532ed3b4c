"""Resuming a run whose files were damaged: refused before anything changes, or cut behind the checkpoint."""

import json
import shutil

import pytest
from cli_builders import call, only_run, train_below

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of two rounds without its end: its last checkpoint is that after the first."""
    folder = tmp_path_factory.mktemp("interrupted")
    train_below(folder, "--rounds", "2")
    run = only_run(folder)
    rounds = (run.path / "rounds.csv").read_bytes()
    shutil.rmtree(run.checkpoints / "round-00002")
    run.set_status("interrupted")
    return run.path, rounds


@pytest.fixture
def run(interrupted, tmp_path):
    return shutil.copytree(interrupted[0], tmp_path / "run")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def replaced(name, old, new):
    def damage(run):
        file = run / name
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new, 1))

    return damage


def in_parts(name, content):
    def damage(run):
        for part in (run / "events").glob("0*"):
            (part / name).write_bytes(content)

    return damage


def unlink(name):
    return lambda run: (run / name).unlink()


DAMAGES = {
    "a cell that is text": (replaced("rounds.csv", b"\n0,", b"\nx,"), "line 2 of {run}/rounds.csv"),
    "a byte in the table": (replaced("rounds.csv", b"\n0,", b"\n\xff,"), "line 2 of {run}/rounds.csv is not UTF-8"),
    "a time that is text": (replaced("timings.csv", b"\n0,", b"\nx,"), "line 2 of {run}/timings.csv"),
    "no table": (unlink("rounds.csv"), "rounds.csv has 0 bytes, but the checkpoint was made at"),
    "an index": (in_parts("part.json", b"[]"), "part.json is not an object: it is []"),
    "altered events": (in_parts("outcome.parquet", b"PAR1"), "outcome.parquet has changed since it was written"),
    "no events": (lambda run: shutil.rmtree(run / "events"), "{run}: the log ends with event -1, the checkpoint with"),
    "a file for the folder": (
        lambda run: (shutil.rmtree(run / "events"), (run / "events").write_text("")),
        "{run}/events cannot be read as a folder",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_before_the_checkpoint_is_refused_and_nothing_changes(run, name):
    damage, problem = DAMAGES[name]
    damage(run)
    before = contents(run)
    answer = call("train", "ppo", "--resume", run)
    assert answer.code == 2
    assert problem.format(run=run) in answer.err
    assert len(answer.err.splitlines()) == 1
    assert contents(run) == before


@pytest.mark.parametrize("value", [5, None, "x", [5], [{"rounds": [1, 2]}]])
def test_a_run_with_impossible_extensions_is_not_extended_and_stays(run, value):
    tree = json.loads((run / "manifest.json").read_bytes())
    (run / "manifest.json").write_text(json.dumps(tree | {"extensions": value}))
    before = contents(run)
    answer = call("train", "ppo", "--resume", run, "--rounds", "3")
    assert answer.code == 2
    assert f"{run}/manifest.json cannot be used: extensions" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert contents(run) == before


def test_damage_behind_the_checkpoint_is_cut_and_the_results_are_the_same(run, interrupted):
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'[]\n\xff\n{"schema": 3}\n{"to')
    with (run / "rounds.csv").open("ab") as file:
        file.write(b"x,\xff\r\n3,")
    answer = call("train", "ppo", "--resume", run)
    assert answer.code == 0
    assert (run / "rounds.csv").read_bytes() == interrupted[1]
    assert call("sql", run, "SELECT count(*) FROM round", "--evidence").code == 0

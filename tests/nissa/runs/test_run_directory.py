"""Run directories: files, manifest, log lines, and rewinding to a checkpoint."""

import json
import math
import platform
import re
from hashlib import sha256
from importlib.metadata import version

import pytest
import yaml

from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.files.digests import FilePrefix
from esper_ray.leyline.observation import schema_hash
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.runs import run_directory as module
from esper_ray.nissa.runs.origin import package_version
from esper_ray.nissa.runs.position import START
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

CONFIG = build(read_preset("digits"), {"seed": 7, "name": "trial"})


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, CONFIG, ["esper", "train", "ppo"])


def started(digest):
    return {"kind": "run_started", "config_sha256": digest}


def test_a_new_run_directory_has_exactly_the_documented_files(run):
    assert sorted(path.name for path in run.path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "events.jsonl",
        "manifest.json",
        "rounds.csv",
        "timings.csv",
    ]
    assert run.position() == START
    assert not run.picture.exists()
    assert list(run.checkpoints.iterdir()) == []


def test_a_run_is_named_by_time_label_and_seed(run, tmp_path):
    assert re.fullmatch(r"\d{8}-\d{6}-trial-s7", run.run_id)
    assert run.path.parent == tmp_path


def test_the_manifest_has_everything_needed_to_reproduce_the_run(run):
    tree = run.read_manifest()
    assert tree["run_id"] == run.run_id
    assert tree["status"] == "running"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", tree["started"])
    assert tree["command"] == ["esper", "train", "ppo"]
    assert tree["config_sha256"] == CONFIG.digest()
    assert RunConfig.model_validate(tree["config"]) == CONFIG
    assert tree["observation_schema"] == schema_hash()
    assert tree["versions"]["python"] == platform.python_version()
    assert tree["versions"]["torch"] == version("torch")
    assert {"ray", "numpy", "esper-ray"} <= tree["versions"].keys()
    assert tree["seeds"]["run"] == 7
    assert tree["hardware"]["cpus"] > 0
    assert tree["hardware"]["memory_gib"] > 0
    assert set(tree["hardware"]) == {"host", "platform", "processor", "cpus", "memory_gib", "gpus"}


def test_without_git_the_manifest_has_no_commit(monkeypatch, tmp_path):
    def missing(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr("esper_ray.nissa.runs.origin.subprocess.run", missing)
    assert RunDirectory.create(tmp_path, CONFIG, []).read_manifest()["git"] is None


def test_the_version_of_a_missing_package_is_none():
    assert package_version("no-such-distribution-anywhere") is None


def test_the_saved_configuration_equals_the_given_one(run):
    assert run.config() == CONFIG
    assert RunDirectory.open(run.path).config().digest() == CONFIG.digest()
    assert yaml.safe_load((run.path / "config.yaml").read_text())["ppo"]["rounds"] == CONFIG.ppo.rounds


def test_runs_started_in_one_second_have_different_names(tmp_path):
    runs = [RunDirectory.create(tmp_path, CONFIG, []) for _ in range(5)]
    assert len({run.path for run in runs}) == 5
    assert {path.name for path in tmp_path.iterdir()} == {run.run_id for run in runs}
    assert [run.read_manifest()["run_id"] for run in runs] == [run.run_id for run in runs]


def test_rounds_and_timings_have_one_header_and_one_line_each(run, monkeypatch):
    monkeypatch.setattr(module.time, "time", iter([1000.0004, 1002.5]).__next__)
    run.add_round({"round": 0, "return": 0.1 + 0.2}, {"round": 0, "seconds": 1.5})
    run.add_round({"round": 1, "return": math.nan}, {"round": 1, "seconds": 2.5})
    assert (run.path / "rounds.csv").read_text().split() == ["round,return", "0,0.30000000000000004", "1,nan"]
    assert (run.path / "timings.csv").read_text().split() == ["round,seconds,ended", "0,1.5,1000.0", "1,2.5,1002.5"]
    assert run.timings()[1] == {"round": "1", "seconds": "2.5", "ended": "1002.5"}
    assert run.rounds() == [{"round": "0", "return": "0.30000000000000004"}, {"round": "1", "return": "nan"}]


def test_a_rewound_run_continues_without_the_later_records(run):
    run.log([started("a"), started("b")])
    run.add_round({"round": 0}, {"round": 0})
    position = run.position()
    contents = {name: (run.path / name).read_bytes() for name in ("events.jsonl", "rounds.csv", "timings.csv")}
    run.log([started("lost")] * 3)
    run.add_round({"round": 1}, {"round": 1})
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"half a li')
    reopened = RunDirectory.open(run.path)
    reopened.rewind(position)
    assert {name: (run.path / name).read_bytes() for name in contents} == contents
    assert reopened.position() == position
    reopened.log([started("c")])
    assert [(event["seq"], event["config_sha256"]) for event in reopened.events()] == [(0, "a"), (1, "b"), (2, "c")]
    reopened.add_round({"round": 1}, {"round": 1})
    assert (run.path / "rounds.csv").read_text().split() == ["round", "0", "1"]


@pytest.mark.parametrize("name", ["rounds.csv", "timings.csv"])
@pytest.mark.parametrize("removed", [True, False])
def test_a_file_shorter_than_at_the_checkpoint_is_refused(run, name, removed):
    run.add_round({"round": 0}, {"round": 0})
    position, file = run.position(), run.path / name
    file.unlink() if removed else file.write_bytes(file.read_bytes()[:-1])
    left = 0 if removed else position.tables[name].size - 1
    expected = rf"{name} has {left} bytes, but the checkpoint was made at {position.tables[name].size}"
    with pytest.raises(RunDirectoryError, match=expected):
        run.rewind(position)


@pytest.mark.parametrize("name", ["rounds.csv", "timings.csv"])
@pytest.mark.parametrize("digit", [b"7", b"77"])
def test_a_changed_digit_before_the_position_is_refused_and_nothing_is_cut(run, name, digit):
    run.add_round({"round": 0, "env_steps": 20}, {"round": 0, "seconds": 20})
    run.add_round({"round": 1, "env_steps": 40}, {"round": 1, "seconds": 40})
    position, file = run.position(), run.path / name
    run.add_round({"round": 2, "env_steps": 60}, {"round": 2, "seconds": 60})
    file.write_bytes(file.read_bytes().replace(b"20", digit + b"0", 1))
    before = file.read_bytes()
    size = position.tables[name].size
    expected = rf"{name} has changed since it was written: the SHA-256 of its first {size} bytes"
    expected = rf"{name}" if len(digit) > 1 else expected  # then the line at the position is cut off
    for attempt in (RunDirectory.open(run.path).check, RunDirectory.open(run.path).rewind):
        with pytest.raises(RunDirectoryError, match=expected):
            attempt(position)
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["rounds.csv", "timings.csv"])
def test_a_changed_table_of_a_finished_run_is_refused(run, name):
    run.log([started("a")])
    run.add_round({"round": 0, "env_steps": 20}, {"round": 0, "seconds": 20})
    run.close()
    content = (run.path / name).read_bytes()
    tree = json.loads((run.path / "integrity.json").read_text())
    assert tree["files"][name] == {"size": len(content), "sha256": sha256(content).hexdigest()}
    (run.path / name).write_bytes(content.replace(b"20", b"70", 1))
    finished = RunDirectory.open(run.path)
    with pytest.raises(
        RunDirectoryError, match=rf"{name} has changed since it was written: integrity\.json has another"
    ):
        finished.rounds() if name == "rounds.csv" else finished.timings()
    with pytest.raises(EventLogError, match=rf"{name} has changed since it was written"):
        list(finished.events(evidence=True))
    assert len(list(finished.events())) == 1


def test_the_digest_of_a_table_grows_with_it_and_is_that_of_what_was_written(run):
    run.add_round({"round": 0}, {"round": 0})
    run.position()
    (run.path / "rounds.csv").write_bytes(b"round\r\n7\r\n")
    run.add_round({"round": 1}, {"round": 1})
    assert run.position().rounds == FilePrefix.of(b"round\r\n0\r\n1\r\n")


def test_a_closed_run_is_compacted_and_has_an_integrity_file(run):
    run.log([started("a"), {"kind": "run_finished", "policy_sha256": "b"}])
    run.close()
    tree = json.loads((run.path / "integrity.json").read_text())
    assert (tree["complete"], tree["events"], tree["sources"]) == (True, 2, {"driver": 2})
    assert (run.path / "events.jsonl").read_bytes() == b""
    assert [event["kind"] for event in RunDirectory.open(run.path).events(evidence=True)] == [
        "run_started",
        "run_finished",
    ]


def test_copied_history_ends_at_the_given_position(run, tmp_path):
    run.log([started("a")])
    run.event_log.compact(always=True)
    run.log([started("b")])
    run.add_round({"round": 0}, {"round": 0})
    position = run.position()
    run.log([started("later")])
    run.add_round({"round": 1}, {"round": 1})
    branch = RunDirectory.create(tmp_path / "branch", CONFIG, [])
    branch.copy_history(run, position)
    branch.log([started("c")])
    assert [event["config_sha256"] for event in branch.events(evidence=True)] == ["a", "b", "c"]
    assert branch.rounds() == [{"round": "0"}]


@pytest.mark.parametrize(
    "missing", [("manifest.json",), ("config.yaml", "checkpoints"), ("manifest.json", "config.yaml", "checkpoints")]
)
def test_a_folder_that_is_no_run_is_refused_with_the_missing_files(run, missing):
    for name in missing:
        path = run.path / name
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(RunDirectoryError, match=f"is not a run directory: it has no {', '.join(missing)}"):
        RunDirectory.open(run.path)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="nowhere is not a run directory"):
        RunDirectory.open(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["ppo: {lr: -1}", "[1, 2]", "{", "unknown_key: 1"])
def test_an_invalid_saved_configuration_is_refused(run, content):
    (run.path / "config.yaml").write_text(content)
    with pytest.raises(RunDirectoryError, match=rf"configuration of .*{run.run_id} cannot be used"):
        run.config()


def test_a_folder_that_cannot_be_written_is_refused_with_the_reason(tmp_path):
    (tmp_path / "file").touch()
    for parent in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(RunDirectoryError, match=r"cannot write a run directory in .*file"):
            RunDirectory.create(parent, CONFIG, [])


def test_missing_parent_folders_are_created(tmp_path):
    run = RunDirectory.create(tmp_path / "a" / "b", CONFIG, [])
    assert run.path.parent == tmp_path / "a" / "b"


def test_replacing_the_manifest_is_atomic(run, monkeypatch):
    run.write_manifest(run.read_manifest() | {"status": "finished"})
    assert run.read_manifest()["status"] == "finished"

    def crash(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        run.write_manifest({"status": "broken"})
    assert run.read_manifest()["status"] == "finished"


def test_command_lines_in_the_manifest_have_no_credentials(tmp_path):
    command, shown = ["esper", "--storage", "s3://A:B@bucket/r"], ["esper", "--storage", "s3://bucket/r"]
    run = RunDirectory.create(tmp_path, CONFIG, command)
    assert run.read_manifest()["command"] == shown
    run.extend(build(CONFIG.model_dump(mode="json"), {"ppo.rounds": CONFIG.ppo.rounds + 1}), 0, command)
    assert run.read_manifest()["extensions"][0]["command"] == shown
    assert "A:B" not in (run.path / "manifest.json").read_text()

"""Named runs, and copies in a storage from which they are resumed."""

import json
import os
import shutil

import pytest
from cli_builders import SMALL, call
from variants import rest_at_night

from esper_ray.nissa.runs.copies.storage import Storage, StorageError
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_lock import RunLock

pytestmark = pytest.mark.integration


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*more):
    return call("train", "ppo", "--serial", *SMALL, "--rounds", 2, *more)


def stop_after(rounds, monkeypatch):
    """Let a run end after ``rounds`` rounds, as after a signal."""
    from esper_actors.training.controller import Controller

    original = Controller.run

    def limited(self):
        done = self.should_stop
        self.should_stop = lambda: self.progress.round_index >= rounds or done()
        return original(self)

    monkeypatch.setattr(Controller, "run", limited)


def outcome(folder):
    run = RunDirectory.open(folder)
    return run.read_manifest()["policy_sha256"], (folder / "rounds.csv").read_bytes()


@pytest.mark.nightly
def test_a_run_is_resumed_from_its_copy_in_a_storage(working_folder, monkeypatch):
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r", "--storage", "bucket")
    shutil.rmtree(working_folder / "runs" / "r")
    answer = call("train", "ppo", "--serial", "--resume", f"file://{working_folder}/bucket/r")
    assert answer.code == 0, answer.err
    assert "resumed after round 1" in answer.out
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")
    copy = {path.name for path in (working_folder / "bucket" / "r" / "checkpoints").iterdir()}
    assert copy == {path.name for path in (working_folder / "runs" / "r" / "checkpoints").iterdir()}
    assert not list((working_folder / "bucket" / "r" / "snapshots").glob("*/*"))


def test_a_run_is_resumed_from_a_bucket(working_folder, monkeypatch, s3_bucket):
    """With options in the URI, and the storage of the resumed run taken from its manifest."""
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r", "--storage", s3_bucket("runs"))
    shutil.rmtree(working_folder / "runs" / "r")
    answer = call("train", "ppo", "--serial", "--resume", s3_bucket("runs/r"))
    assert answer.code == 0, answer.err
    assert "resumed after round 1" in answer.out
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")
    copy = Storage(s3_bucket("runs/r"))
    assert copy.names("checkpoints") == sorted(
        path.name for path in (working_folder / "runs" / "r" / "checkpoints").iterdir()
    )
    assert [copy.names(f"snapshots/{name}") for name in copy.names("snapshots")] == []


SECRETS = (b"AKIATEST", b"sEcRet")


def with_credentials(uri):
    return uri.replace("s3://", "s3://AKIATEST:sEcRet%2Fkey@")


@pytest.fixture
def no_other_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))


def leaks(*texts):
    return [secret for secret in SECRETS for text in texts if secret in text]


@pytest.mark.parametrize(
    "again",
    [
        "--resume DIRECTORY --storage URI",
        *(pytest.param(words, marks=pytest.mark.nightly) for words in ("--resume URI", "--run-id NAME --storage URI")),
    ],
)
def test_credentials_are_never_written_and_the_uri_given_again_resumes(
    working_folder, monkeypatch, s3_bucket, no_other_credentials, again, caplog
):
    place = with_credentials(s3_bucket("runs"))
    assert train("--run-id", "straight").code == 0
    command = ("--run-id", "r", "--storage", place)
    monkeypatch.setattr("sys.argv", ["esper", "train", "ppo", *command])
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        first = train(*command)
    manifest = RunDirectory.open(working_folder / "runs" / "r").read_manifest()
    assert manifest["storage"] == place.replace("AKIATEST:sEcRet%2Fkey@", "")
    assert manifest["command"][-1] == manifest["storage"]
    shutil.copytree(working_folder / "runs" / "r", working_folder / "kept")
    if "DIRECTORY" not in again:
        shutil.rmtree(working_folder / "runs" / "r")
    arguments = {
        "--resume URI": ("--resume", with_credentials(s3_bucket_like(place, "runs/r"))),
        "--resume DIRECTORY --storage URI": ("--resume", "runs/r", "--storage", place),
        "--run-id NAME --storage URI": command,
    }[again]
    answer = call("train", "ppo", "--serial", *arguments)
    assert answer.code == 0, answer.err
    assert "resumed after round 1" in answer.out
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")
    files = [path.read_bytes() for path in working_folder.rglob("*") if path.is_file()]
    assert leaks(*files, *(text.encode() for text in (first.out, first.err, answer.out, answer.err, caplog.text))) == []
    copy = Storage(with_credentials(s3_bucket_like(place, "runs/r")))
    assert leaks(*(copy.read(name) or b"" for name in ("manifest.json", "config.yaml", "faults.jsonl"))) == []


def s3_bucket_like(place, folder):
    """Another folder in the bucket of ``place``, without credentials."""
    path, _, options = place.replace("AKIATEST:sEcRet%2Fkey@", "").partition("?")
    return f"s3://{path.removeprefix('s3://').split('/')[0]}/{folder}?{options}"


def test_a_resumed_run_without_credentials_says_how_to_give_them(working_folder, monkeypatch, s3_bucket):
    place = with_credentials(s3_bucket("runs"))
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r", "--storage", place)

    def refused(self, folder=""):
        raise StorageError(f"storage {self.place} cannot be listed: no credentials")

    monkeypatch.setattr(Storage, "names", refused)
    answer = call("train", "ppo", "--serial", "--resume", "runs/r")
    assert answer.code == 2
    assert (
        "no credentials; credentials of a URI are not stored with a run: give the URI again with --storage"
        in answer.err
    )


@pytest.mark.parametrize(
    "place",
    [
        "s3://AKIATEST:sEcRet/key@bucket/runs",
        "s3://bucket/runs?access_key=AKIATEST&secret_key=sEcRet",
        "s3://bucket/runs?session_token=sEcRet",
        "nowhere://AKIATEST:sEcRet@bucket",
        "s3:/AKIATEST:sEcRet@bucket/runs",
        "s3:///AKIATEST:sEcRet@bucket/runs",
        "s3%3A//AKIATEST:sEcRet@bucket/runs",
        "s3://AKIATEST:sEcRet%40bucket/runs",
        "s3://bucket/runs#secret_key=sEcRet",
        "s3://bucket/runs?auth=sEcRet",
        "s3://bucket/runs?bearer=sEcRet",
        "s3://bucket/runs?passphrase=sEcRet",
        "s3://bucket/runs;secret_key=sEcRet",
        "s3://bucket/runs?account_key%3DsEcRet",
    ],
)
def test_a_refused_uri_is_shown_without_its_credentials(working_folder, monkeypatch, place):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    answer = train("--storage", place + ("&" if "?" in place else "?") + "scheme=http&endpoint_override=127.0.0.1:9")
    assert answer.code == 2
    assert answer.err.startswith("esper: error: storage ")
    assert leaks(answer.out.encode(), answer.err.encode()) == []
    assert not (working_folder / "runs").exists()


def test_a_misplaced_uri_is_quoted_without_its_credentials(working_folder):
    answer = train("s3://AKIATEST:sEcRet@bucket/runs")
    assert answer.code == 2
    assert "s3://bucket/runs" in answer.err
    assert leaks(answer.out.encode(), answer.err.encode()) == []


@pytest.mark.parametrize(
    "place", rest_at_night(["s3://AKIATEST:sEcRet@bucket/r", "s3:/AKIATEST:sEcRet@b/r", "s3://b/r?auth=sEcRet"])
)
@pytest.mark.parametrize(
    "words",
    [
        ("events", "{}"),
        ("explain", "{}", "--episode", 0),
        ("replay", "{}", "--episode", 0),
        ("sql", "{}", "SELECT 1"),
        ("export-policy", "{}", "new.esper"),
        ("export-policy", ".", "{}/new.esper"),
        ("evaluate", "{}", "--serial"),
        ("evaluate", "schedule:{}", "--serial"),
        ("dashboards", "push", "--url", "{}"),
        ("dashboards", "picture", "{}"),
        ("sweep", "--resume", "{}"),
        ("sweep", "--sweep", "{}"),
        ("train", "ppo", "--resume", "{}"),
        ("train", "ppo", "--config", "{}"),
        ("train", "ppo", "--preset", "{}"),
        ("train", "ppo", "--run-id", "{}"),
        ("train", "ppo", "--data-dir", "{}", "--task", "cifar10"),
        ("config", "show", "--config", "{}"),
        ("submit", "--stop", "x", "--address", "{}"),
    ],
)
def test_a_uri_as_any_argument_is_quoted_without_its_credentials(working_folder, monkeypatch, words, place):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    answer = call(*(str(word).replace("{}", place) for word in words))
    assert answer.code == 2
    assert leaks(answer.out.encode(), answer.err.encode()) == []


@pytest.mark.nightly
def test_the_same_command_starts_or_resumes_a_run(working_folder, monkeypatch):
    assert train("--run-id", "straight").code == 0
    command = ("--run-id", "r", "--storage", f"file://{working_folder}/bucket")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train(*command)
    shutil.rmtree(working_folder / "runs" / "r")  # another machine
    answer = train(*command)
    assert (answer.code, "resumed after round 1" in answer.out) == (0, True)
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")
    third_answer = train(*command)
    assert (third_answer.code, "is finished" in third_answer.out) == (0, True)


@pytest.mark.nightly
def test_a_named_run_behind_its_copy_is_renamed_and_the_copy_resumed(working_folder, monkeypatch):
    command = ("--run-id", "r", "--storage", f"file://{working_folder}/bucket")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train(*command)
    shutil.copytree(working_folder / "runs" / "r", working_folder / "earlier")
    assert train(*command).code == 0
    whole = outcome(working_folder / "runs" / "r")
    shutil.rmtree(working_folder / "runs" / "r")
    shutil.move(working_folder / "earlier", working_folder / "runs" / "r")  # the first machine is back
    answer = train(*command)
    assert (answer.code, "was behind its copy" in answer.err, "is finished" in answer.out) == (0, True, True)
    assert outcome(working_folder / "runs" / "r") == whole
    assert len(RunDirectory.open(working_folder / "runs" / "r.behind-1").rounds()) == 1


@pytest.mark.nightly
def test_a_run_that_ended_before_its_first_checkpoint_is_restarted(working_folder):
    assert train("--run-id", "r").code == 0
    config = RunDirectory.open(working_folder / "runs" / "r").config()
    shutil.move(working_folder / "runs" / "r", working_folder / "runs" / "whole")
    RunDirectory.create(working_folder / "runs", config, ["test"], "r")
    answer = train("--run-id", "r")
    assert (answer.code, "resumed" in answer.out) == (0, False)
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "whole")


@pytest.mark.nightly
def test_a_run_is_extended_by_a_greater_number_of_rounds(working_folder):
    assert train("--run-id", "straight", "--set", "ppo.schedule_rounds=1").code == 0
    assert call("train", "ppo", "--serial", *SMALL, "--rounds", 1, "--run-id", "r").code == 0
    answer = call("train", "ppo", "--serial", "--resume", "runs/r", "--rounds", 2)
    assert answer.code == 0, answer.err
    assert "resumed after round 1, extended from 1 rounds" in " ".join(answer.out.split())
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")
    fewer = call("train", "ppo", "--serial", "--resume", "runs/r", "--rounds", 1)
    assert (fewer.code, "ppo.rounds: 2 -> 1" in fewer.err) == (2, True)


def test_a_run_that_is_being_run_is_refused_with_its_process(working_folder):
    assert train("--run-id", "r").code == 0
    with RunLock(working_folder / "runs" / "r"):
        for words in (("--resume", "runs/r"), ("--run-id", "r", *SMALL, "--rounds", 2)):
            answer = call("train", "ppo", "--serial", *words)
            assert answer.code == 2
            assert f"runs/r is being run by process {os.getpid()} on " in answer.err


def test_a_damaged_log_is_the_last_message_and_exit_code_1(working_folder, monkeypatch):
    original = RunDirectory.close

    def close(run):
        original(run)
        summary = json.loads((run.path / "integrity.json").read_text())
        (run.path / "integrity.json").write_text(json.dumps(summary | {"complete": False, "gaps": 1}))

    monkeypatch.setattr(RunDirectory, "close", close)
    answer = train("--run-id", "r")
    assert answer.code == 1
    assert "runs/r is not complete: " in answer.out.strip().splitlines()[-1]


def test_a_name_of_a_run_of_the_heuristic_is_refused_and_the_run_stays(working_folder):
    done = call("train", "heuristic", "--preset", "digits", "--episode-length", 1, "--telemetry-dir", "runs")
    assert done.code == 0, done.err
    (run,) = (working_folder / "runs").iterdir()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    answer = call("train", "ppo", "--serial", "--run-id", run.name)
    assert (answer.code, "holds no complete checkpoint" in answer.err) == (2, True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.nightly
def test_a_run_resumed_with_another_placement_gives_the_same_result(working_folder, monkeypatch):
    assert train("--run-id", "straight").code == 0
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        train("--run-id", "r")
    answer = call(
        "train", "ppo", "--serial", "--resume", "runs/r", "--set", "system.snapshot_every=1", "--envs-per-actor", 1
    )
    assert answer.code == 0, answer.err
    assert outcome(working_folder / "runs" / "r") == outcome(working_folder / "runs" / "straight")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--storage", "nowhere://bucket"), "nowhere://bucket cannot be used"),
        (("--storage", "file/in/the/way"), "cannot be written"),
        (("--storage", ""), "storage '': it is blank"),
        (("--storage", "   "), "storage '   ': it is blank"),
        (("--storage", "file:///"), "it is the root of the file system"),
        (("--storage", "s3:/bucket/runs"), "it is neither a folder nor a URI"),
        (("--storage", "runs"), "storage runs: the copy of runs/run would be "),
        (("--storage", "./runs/", "--run-id", "new"), "the copy of runs/new would be "),
        (("--storage", "runs/../runs", "--run-id", "new"), "the copy of runs/new would be "),
        (("--storage", "runs/new/checkpoints", "--run-id", "new"), "the copy of runs/new would be "),
        (("--run-id", "a/b"), "--run-id 'a/b': a name has at most 100 letters"),
        (("--run-id", ".."), "--run-id '..': a name has at most 100 letters"),
        (("--run-id", "a", "--resume", "runs/a"), "exclude each other"),
        (("--resume", "file:///does/not/exist"), "holds no run"),
        (("--gpus-per-actor", "1.5"), "system.gpus_per_actor"),
        (("--set", "system.placement=scatter"), "system.placement"),
    ],
)
def test_invalid_input_is_refused_before_the_run_starts(working_folder, arguments, message):
    (working_folder / "file").write_text("")
    answer = train(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert not (working_folder / "runs").exists()


def test_a_storage_without_meaning_is_refused_for_a_resumed_run_which_stays(working_folder):
    assert train("--run-id", "r").code == 0
    run = RunDirectory.open(working_folder / "runs" / "r")
    resume = ("train", "ppo", "--serial", "--resume", "runs/r", "--rounds", 3)
    for place in ("", "  ", "runs", "runs/r", "file:///"):
        before = {path: path.read_bytes() for path in working_folder.rglob("*") if path.is_file()}
        by_flag = call(*resume, "--storage", place)
        assert {path: path.read_bytes() for path in working_folder.rglob("*") if path.is_file()} == before, place
        run.write_manifest(run.read_manifest() | {"storage": place})
        before[run.path / "manifest.json"] = (run.path / "manifest.json").read_bytes()
        for answer in (by_flag, call(*resume)):
            assert (answer.code, answer.err[:22]) == (2, "esper: error: storage "), place
        assert {path: path.read_bytes() for path in working_folder.rglob("*") if path.is_file()} == before, place

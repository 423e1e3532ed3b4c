"""Remote copy of a run, from which another machine resumes it."""

import shutil

import pytest
from variants import rest_at_night

from esper_ray.leyline.config.run import RunConfig
from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy, pull
from esper_ray.nissa.runs.copies.storage import Storage, StorageError
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs", RunConfig(), ["test"], "one")


@pytest.fixture(params=["file", "s3"])
def storage(request, tmp_path):
    if request.param == "s3":
        return Storage(request.getfixturevalue("s3_bucket")("runs"))
    return Storage(f"file://{tmp_path}/bucket")


def checkpoint(run, index, text="{}"):
    folder = run.checkpoints / f"round-{index:05d}"
    folder.mkdir(exist_ok=True)
    (folder / "learner.safetensors").write_bytes(b"weights %d" % index)
    (folder / "state.json").write_text(text)


def progress(run, index):
    run.log([{"kind": "environment_quarantined", "round": index, "env": env, "error": "e"} for env in range(3)])
    run.add_round({"round": index}, {"seconds": index})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pulled_copy_equals_the_run(run, storage, tmp_path):
    remote = RemoteCopy(storage, run)
    for index in range(3):
        progress(run, index)
        checkpoint(run, index)
        remote.push()
    run.add_fault({"kind": "learner_died"})
    remote.push()
    copied = pull(storage, "one", tmp_path / "elsewhere")
    assert files(copied.path) == files(run.path)
    assert remote.place == storage.within("one").place


def test_every_byte_of_a_growing_file_is_uploaded_once(run, storage):
    remote = RemoteCopy(storage, run)
    for index in range(3):
        progress(run, index)
        remote.push()
    parts = storage.names("one/events.jsonl.parts")
    assert len(parts) == 3
    content = [storage.read(f"one/events.jsonl.parts/{part}") for part in parts]
    assert b"".join(content) == (run.path / "events.jsonl").read_bytes()


def test_a_rewound_run_is_truncated_in_the_copy(run, storage, tmp_path):
    remote = RemoteCopy(storage, run)
    progress(run, 0)
    position = run.position()
    remote.push()
    progress(run, 1)
    remote.push()
    run.rewind(position)
    rewound = RemoteCopy(storage, run)
    rewound.rewind(position)
    progress(run, 7)
    rewound.push()
    assert files(pull(storage, "one", tmp_path / "elsewhere").path) == files(run.path)


def test_a_resumed_run_has_no_integrity_file_in_the_copy(run, storage, tmp_path):
    remote = RemoteCopy(storage, run)
    progress(run, 0)
    position = run.position()
    progress(run, 1)
    run.close()
    remote.push()
    assert storage.read("one/integrity.json") is not None
    run.rewind(position)
    remote.rewind(position)
    remote.push()
    copied = pull(storage, "one", tmp_path / "elsewhere")
    assert not (run.path / "integrity.json").exists()
    assert [event["round"] for event in copied.events(evidence=True)] == [0, 0, 0]


def test_compacted_events_replace_their_lines_in_the_copy(run, storage, tmp_path):
    remote = RemoteCopy(storage, run)
    for index in range(3):
        progress(run, index)
        remote.push()
        if index == 1:
            run.event_log.compact(always=True)
    assert storage.names("one/events") == ["000000000000-000000000005"]
    assert storage.names("one/events.jsonl.parts") == ["000000000000006"]
    assert files(pull(storage, "one", tmp_path / "elsewhere").path) == files(run.path)


@pytest.mark.parametrize("compacted_after", rest_at_night([1, 0, 2]))
def test_a_rewound_run_with_parquet_equals_its_copy(run, storage, tmp_path, compacted_after):
    remote, positions = RemoteCopy(storage, run), []
    for index in range(3):
        progress(run, index)
        positions.append(run.position())
        if index != 1:  # one push for two rounds
            remote.push()
        if index == compacted_after:
            run.event_log.compact(always=True)
    for position in reversed(positions):
        run.rewind(position)
        rewound = RemoteCopy(storage, run)
        rewound.rewind(position)
        rewound.push()
        copied = pull(storage, "one", tmp_path / f"elsewhere-{position.events.sequence}")
        assert files(copied.path) == files(run.path)
    progress(run, 9)
    rewound.push()
    assert files(pull(storage, "one", tmp_path / "last").path) == files(run.path)


def test_a_partly_uploaded_parquet_folder_is_ignored(run, storage, tmp_path):
    remote = RemoteCopy(storage, run)
    progress(run, 0)
    remote.push()
    storage.write("one/events/000000000000-000000000002/environment_quarantined.parquet", b"half of it")
    assert files(pull(storage, "one", tmp_path / "elsewhere").path) == files(run.path)


def test_checkpoints_removed_from_the_run_are_removed_from_the_copy(run, storage, tmp_path):
    remote = RemoteCopy(storage, run)
    for index in range(3):
        checkpoint(run, index)
    remote.push()
    shutil.rmtree(run.checkpoints / "round-00000")
    remote.push()
    assert storage.names("one/checkpoints") == ["round-00001", "round-00002"]


def test_a_partly_uploaded_checkpoint_is_ignored_and_replaced(run, storage, tmp_path):
    remote = RemoteCopy(storage, run)
    checkpoint(run, 1)
    remote.push()
    storage.write("one/checkpoints/round-00002/learner.safetensors", b"half of it")
    copied = pull(storage, "one", tmp_path / "elsewhere")
    assert [path.name for path in copied.checkpoints.iterdir()] == ["round-00001"]
    checkpoint(run, 2)
    remote.push()
    assert storage.read("one/checkpoints/round-00002/learner.safetensors") == b"weights 2"


def test_a_failed_push_is_completed_by_the_next(run, storage, tmp_path, monkeypatch):
    remote = RemoteCopy(storage, run)
    progress(run, 0)
    write, calls = Storage.write, []

    def fails_once(self, name, data):
        calls.append(name)
        if len(calls) == 4:
            raise StorageError("the network is down")
        write(self, name, data)

    monkeypatch.setattr(Storage, "write", fails_once)
    with pytest.raises(StorageError, match="network is down"):
        remote.push()
    progress(run, 1)
    checkpoint(run, 2)
    remote.push()
    assert files(pull(storage, "one", tmp_path / "elsewhere").path) == files(run.path)


def test_pulling_a_missing_or_existing_run_is_refused(run, storage, tmp_path):
    with pytest.raises(RunDirectoryError, match=r"/two\S* holds no run: it has no config.yaml"):
        pull(storage, "two", tmp_path / "elsewhere")
    RemoteCopy(storage, run).push()
    with pytest.raises(RunDirectoryError, match="exists: resume it"):
        pull(storage, "one", run.path.parent)


def test_a_missing_part_of_a_file_is_refused(run, storage, tmp_path):
    remote = RemoteCopy(storage, run)
    for index in range(2):
        progress(run, index)
        remote.push()
    storage.remove("one/rounds.csv.parts/000000000000000")
    with pytest.raises(RunDirectoryError, match=r"a part of rounds.csv is missing at byte 0"):
        pull(storage, "one", tmp_path / "elsewhere")


def test_foreign_files_in_a_copy_are_passed_over_and_never_removed(run, tmp_path):
    folder = tmp_path / "storage"
    checkpoint(run, 1)
    RemoteCopy(Storage(folder), run).push()
    copy = folder / run.run_id
    foreign = [copy / "checkpoints" / "round-00001 copy" / "state.json", copy / "events" / "notes" / "part.json"]
    foreign += [copy / "rounds.csv.parts" / "x", copy / "events.jsonl.parts" / "notes.txt"]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    RemoteCopy(Storage(folder), run).push()
    pulled = pull(Storage(folder), run.run_id, tmp_path / "pulled")
    assert list(pulled.events()) == list(run.events())
    assert [path.name for path in pulled.checkpoints.iterdir()] == ["round-00001"]
    assert all(path.read_text() == "x" for path in foreign)

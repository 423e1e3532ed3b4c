"""A copy of a run from which it can be gone on with elsewhere."""

import shutil

import pytest

from esper_ray.leyline.config.run import RunConfig
from esper_ray.nissa.runs.remote_copy import RemoteCopy, pull
from esper_ray.nissa.runs.run_directory import RunDirectory, RunDirectoryError
from esper_ray.nissa.runs.storage import Storage, StorageError

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


def test_a_copy_is_the_run_again(run, storage, tmp_path):
    mirror = RemoteCopy(storage, run)
    for index in range(3):
        progress(run, index)
        checkpoint(run, index)
        mirror.push()
    run.add_fault({"kind": "learner_died"})
    mirror.push()
    copied = pull(storage, "one", tmp_path / "elsewhere")
    assert files(copied.path) == files(run.path)
    assert mirror.place == storage.within("one").place


def test_every_byte_of_a_growing_file_travels_once(run, storage):
    mirror = RemoteCopy(storage, run)
    for index in range(3):
        progress(run, index)
        mirror.push()
    parts = storage.names("one/events.jsonl.parts")
    assert len(parts) == 3
    content = [storage.read(f"one/events.jsonl.parts/{part}") for part in parts]
    assert b"".join(content) == (run.path / "events.jsonl").read_bytes()


def test_what_is_cut_off_here_is_cut_off_there(run, storage, tmp_path):
    mirror = RemoteCopy(storage, run)
    progress(run, 0)
    position = run.position()
    mirror.push()
    progress(run, 1)
    mirror.push()
    run.rewind(position)
    again = RemoteCopy(storage, run)
    again.rewind(position)
    progress(run, 7)
    again.push()
    assert files(pull(storage, "one", tmp_path / "elsewhere").path) == files(run.path)


def test_a_run_that_goes_on_is_no_longer_counted_as_over(run, storage, tmp_path):
    mirror = RemoteCopy(storage, run)
    progress(run, 0)
    position = run.position()
    progress(run, 1)
    run.close()
    mirror.push()
    assert storage.read("one/integrity.json") is not None
    run.rewind(position)
    mirror.rewind(position)
    mirror.push()
    copied = pull(storage, "one", tmp_path / "elsewhere")
    assert not (run.path / "integrity.json").exists()
    assert [event["round"] for event in copied.events(evidence=True)] == [0, 0, 0]


def test_events_that_have_become_parquet_replace_their_lines(run, storage, tmp_path):
    mirror = RemoteCopy(storage, run)
    for index in range(3):
        progress(run, index)
        mirror.push()
        if index == 1:
            run.event_log.compact(always=True)
    assert storage.names("one/events") == ["000000000000-000000000005"]
    assert storage.names("one/events.jsonl.parts") == ["000000000000006"]
    assert files(pull(storage, "one", tmp_path / "elsewhere").path) == files(run.path)


@pytest.mark.parametrize("compacted_after", [0, 1, 2])
def test_a_rewound_run_with_parquet_is_copied_as_it_is(run, storage, tmp_path, compacted_after):
    mirror, positions = RemoteCopy(storage, run), []
    for index in range(3):
        progress(run, index)
        positions.append(run.position())
        if index != 1:  # one push for two rounds
            mirror.push()
        if index == compacted_after:
            run.event_log.compact(always=True)
    for position in reversed(positions):
        run.rewind(position)
        again = RemoteCopy(storage, run)
        again.rewind(position)
        again.push()
        copied = pull(storage, "one", tmp_path / f"elsewhere-{position['sequence']}")
        assert files(copied.path) == files(run.path)
    progress(run, 9)
    again.push()
    assert files(pull(storage, "one", tmp_path / "last").path) == files(run.path)


def test_parquet_that_was_being_copied_does_not_count(run, storage, tmp_path):
    mirror = RemoteCopy(storage, run)
    progress(run, 0)
    mirror.push()
    storage.write("one/events/000000000000-000000000002/environment_quarantined.parquet", b"half of it")
    assert files(pull(storage, "one", tmp_path / "elsewhere").path) == files(run.path)


def test_checkpoints_that_are_gone_here_are_gone_there(run, storage, tmp_path):
    mirror = RemoteCopy(storage, run)
    for index in range(3):
        checkpoint(run, index)
    mirror.push()
    shutil.rmtree(run.checkpoints / "round-00000")
    mirror.push()
    assert storage.names("one/checkpoints") == ["round-00001", "round-00002"]


def test_a_checkpoint_without_its_last_file_does_not_count(run, storage, tmp_path):
    mirror = RemoteCopy(storage, run)
    checkpoint(run, 1)
    mirror.push()
    storage.write("one/checkpoints/round-00002/learner.safetensors", b"half of it")
    copied = pull(storage, "one", tmp_path / "elsewhere")
    assert [path.name for path in copied.checkpoints.iterdir()] == ["round-00001"]
    checkpoint(run, 2)
    mirror.push()
    assert storage.read("one/checkpoints/round-00002/learner.safetensors") == b"weights 2"


def test_a_push_that_fails_is_made_up_for_by_the_next(run, storage, tmp_path, monkeypatch):
    mirror = RemoteCopy(storage, run)
    progress(run, 0)
    write, calls = Storage.write, []

    def fails_once(self, name, data):
        calls.append(name)
        if len(calls) == 4:
            raise StorageError("the network is gone")
        write(self, name, data)

    monkeypatch.setattr(Storage, "write", fails_once)
    with pytest.raises(StorageError, match="network is gone"):
        mirror.push()
    progress(run, 1)
    checkpoint(run, 2)
    mirror.push()
    assert files(pull(storage, "one", tmp_path / "elsewhere").path) == files(run.path)


def test_what_is_no_copy_of_a_run_is_refused(run, storage, tmp_path):
    with pytest.raises(RunDirectoryError, match=r"/two\S* holds no run: it has no config.yaml"):
        pull(storage, "two", tmp_path / "elsewhere")
    RemoteCopy(storage, run).push()
    with pytest.raises(RunDirectoryError, match="exists: resume it"):
        pull(storage, "one", run.path.parent)


def test_a_lost_part_is_found_out(run, storage, tmp_path):
    mirror = RemoteCopy(storage, run)
    for index in range(2):
        progress(run, index)
        mirror.push()
    storage.remove("one/rounds.csv.parts/000000000000000")
    with pytest.raises(RunDirectoryError, match=r"a part of rounds.csv is missing at byte 0"):
        pull(storage, "one", tmp_path / "elsewhere")

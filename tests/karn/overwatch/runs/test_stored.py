"""Copies in a storage: listed by their manifests, fetched while they are watched, never written."""

import json

import pytest
from overwatch_builders import eventually, served, state_of
from sanctum_builders import NAME, recorded_run, round_records

from esper_ray.karn.overwatch.runs.stored import LIST_SECONDS, Copies, StoredRuns
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy
from esper_ray.nissa.runs.copies.storage import Storage, StorageError


@pytest.fixture
def stored(tmp_path):
    """A run, its copy, and the storage as a URI."""
    run = recorded_run(tmp_path / "runs", rounds=2)
    copy = RemoteCopy(Storage(tmp_path / "store"), run)
    copy.push()
    return run, copy, f"file://{tmp_path}/store"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def files(storage, name=NAME):
    """Files of a mirror."""
    folder = storage.folder / name
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_list_needs_tables_and_manifest_and_no_log(stored):
    storage = StoredRuns(stored[2])
    assert files(storage) == {"config.yaml", "manifest.json", "timings.csv"}
    storage.fetch(NAME)
    assert "events.jsonl" in files(storage)


def test_the_address_of_one_copy_shows_it_alone(stored, tmp_path):
    RemoteCopy(Storage(tmp_path / "store"), recorded_run(tmp_path / "others", name="other")).push()
    storage = StoredRuns(f"{stored[2]}/{NAME}")
    assert [path.name for path in storage.folder.iterdir()] == [NAME]
    assert storage.shown == f"file://{tmp_path}/store"


def test_the_log_is_fetched_again_while_the_run_is_watched(stored):
    run, copy, place = stored
    clock = Clock()
    storage = StoredRuns(place, clock)
    storage.fetch(NAME)
    log = storage.folder / NAME / "events.jsonl"
    before = log.read_bytes()
    run.log(round_records(2))
    copy.push()
    clock.now = 6.0
    storage.poll()
    assert len(log.read_bytes()) > len(before)
    run.log(round_records(3))
    copy.push()
    read = log.read_bytes()
    clock.now = 600.0
    storage.poll()
    assert log.read_bytes() == read  # nobody has watched it for a while


def test_new_copies_are_found_and_removed_ones_are_dropped(stored, tmp_path):
    clock = Clock()
    storage = StoredRuns(stored[2], clock)
    RemoteCopy(Storage(tmp_path / "store"), recorded_run(tmp_path / "runs", name="other")).push()
    stored[1].storage.remove("manifest.json")
    clock.now = LIST_SECONDS
    storage.poll()
    assert [path.name for path in storage.folder.iterdir()] == ["other"]


def test_a_lost_storage_is_a_problem_until_it_answers_again(stored, monkeypatch):
    clock = Clock()
    storage = StoredRuns(stored[2], clock)
    copies, path = Copies([storage]), storage.folder / NAME

    def fail(self, name):
        raise StorageError("storage is away")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "stamp", fail)
        copies.fetch(path, now=True)
        assert copies.problems == ("storage is away",)
        assert copies.notes(path)[1] == "storage is away; what is shown stays"
    copies.fetch(path, now=True)
    assert copies.problems == ()
    assert [note.partition(":")[0] for note in copies.notes(path)] == ["a copy by round"]


def test_a_place_without_a_run_or_a_scheme_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        StoredRuns(f"file://{tmp_path}/nowhere")
    with pytest.raises(StorageError):
        StoredRuns("nothing://bucket/run")


@pytest.mark.nightly
def test_a_copy_is_served_with_its_place_and_follows_the_run(stored, tmp_path):
    run, copy, place = stored
    copies = Copies([StoredRuns(place)])
    with served(copies=copies) as client:
        (line,) = client.get("/api/v1/places").json()["places"]
        assert (line["id"], line["path"]) == (NAME, f"{place}/{NAME}")
        sections = state_of(client)
        assert len(sections["rounds"]["columns"]["round"]) == 2
        assert sections["facts"]["path"] == f"{place}/{NAME}"
        assert sections["integrity"]["notes"][0].startswith("a copy by round")
        assert client.get(f"/api/v1/runs/{NAME}/episodes").json()["total"] > 0
        run.log(round_records(2))
        copy.push()
        eventually(lambda: len(state_of(client)["rounds"]["columns"]["round"]) == 3, seconds=20.0)


@pytest.mark.integration
def test_a_copy_in_s3_is_served(stored, s3_bucket):
    place = s3_bucket("copies")
    RemoteCopy(Storage(place), stored[0]).push()
    with served(copies=Copies([StoredRuns(place)])) as client:
        assert len(state_of(client)["rounds"]["columns"]["round"]) == 2
        assert "secret" not in json.dumps(client.get("/api/v1/places").json()).lower()

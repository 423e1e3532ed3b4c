"""Storage of files that are complete or absent."""

import os
from pathlib import Path

import pytest

from esper_ray.nissa.runs.copies.storage import (
    Storage,
    StorageError,
    check_place,
    checked_storage,
    place_within,
    split_place,
)


@pytest.fixture(params=["path", "uri", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    place = tmp_path / "here"
    if request.param == "s3":
        return Storage(request.getfixturevalue("s3_bucket")("here"))
    return Storage(place if request.param == "path" else f"file://{place}")


def test_a_file_is_read_as_written_and_replaced_by_a_second_write(storage: Storage) -> None:
    storage.write("a/b.bin", b"one")
    assert storage.read("a/b.bin") == b"one"
    storage.write("a/b.bin", b"another")
    assert storage.read("a/b.bin") == b"another"


def test_missing_files_are_none_and_can_be_removed(storage: Storage) -> None:
    assert storage.read("a/b.bin") is None
    assert storage.stamp("a/b.bin") is None
    assert storage.names("a") == []
    storage.remove("a/b.bin")
    storage.remove("a")


def test_the_stamp_changes_with_every_write(storage: Storage) -> None:
    storage.write("a", b"one")
    first = storage.stamp("a")
    assert storage.stamp("a") == first
    storage.write("a", b"three")
    assert storage.stamp("a") != first


def test_names_are_sorted_without_partly_written_files(storage: Storage) -> None:
    for name in ("c", "a/x", "b", ".b.half"):
        storage.write(name, b"")
    assert storage.names() == ["a", "b", "c"]
    assert storage.names("a") == ["x"]


def test_removing_a_folder_removes_its_content(storage: Storage) -> None:
    for name in ("a/x", "a/b/y", "c"):
        storage.write(name, b"1")
    storage.remove("a")
    assert storage.names() == ["c"]


def test_the_storage_of_a_subfolder_writes_below_it(storage: Storage) -> None:
    inner = storage.within("run").within("snapshots")
    inner.write("x", b"1")
    assert storage.read("run/snapshots/x") == b"1"
    assert inner.place.partition("?")[0].endswith("/here/run/snapshots")
    assert Storage(inner.place).read("x") == b"1"


@pytest.mark.parametrize(
    ("place", "inner"),
    [
        ("/runs", "/runs/first"),
        ("/runs/", "/runs/first"),
        ("/what?/runs", "/what?/runs/first"),
        ("s3://bucket/runs", "s3://bucket/runs/first"),
        ("s3://bucket?region=eu&scheme=http", "s3://bucket/first?region=eu&scheme=http"),
        ("s3://bucket/runs/?region=eu", "s3://bucket/runs/first?region=eu"),
    ],
)
def test_options_of_a_uri_stay_behind_its_path(place: str, inner: str) -> None:
    assert place_within(place, "first") == inner
    parent, name = split_place(inner)
    assert (place_within(parent, name), name) == (inner, "first")


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)
    storage.write("a", b"old")

    def fails(*arguments: object) -> None:
        raise OSError("disk is lost")

    monkeypatch.setattr("esper_ray.leyline.files.durable.os.replace", fails)
    with pytest.raises(StorageError, match="a cannot be written: disk is lost"):
        storage.write("a", b"new")
    assert storage.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["", "/a", "a//b", "../a", "a/..", "./a"])
def test_names_outside_the_storage_are_refused(storage: Storage, name: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        storage.write(name, b"")


def test_an_unknown_kind_of_storage_is_refused() -> None:
    with pytest.raises(StorageError, match="nowhere://bucket cannot be used"):
        Storage("nowhere://bucket")


def test_the_check_refuses_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        Storage(tmp_path / "file" / "run").check()
    good = Storage(tmp_path / "good")
    good.check()
    assert list((tmp_path / "good").iterdir()) == []


def test_the_check_refuses_a_bucket_that_does_not_exist(s3_server: str) -> None:
    with pytest.raises(StorageError, match=r"s3://missing.*cannot be written.*NO_SUCH_BUCKET"):
        Storage(f"s3://missing/runs?{s3_server}").check()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_unread(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(StorageError, match=r"a cannot be read: .* is not a regular file"):
        Storage(tmp_path).read("a")


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(2**35)
    with pytest.raises(StorageError, match="34359738368 bytes; at most 17179869184 are read"):
        Storage(tmp_path).read("a")


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("", "storage '': it is blank"),
        ("   ", "storage '   ': it is blank"),
        ("\t\n", "it is blank"),
        ("file:///", "storage file:///: it is the root of the file system"),
        ("/", "it is the root of the file system"),
        ("/tmp/..", "it is the root of the file system"),
        ("s3:/bucket/runs", "storage s3:/bucket/runs: it is neither a folder nor a URI"),
        ("file:/tmp/runs", "neither a folder nor a URI"),
        ("abc+def:/x", "neither a folder nor a URI"),
        ("s3%3A//bucket/x", "neither a folder nor a URI"),
        ("s3:/AKIA:SECRET@bucket/x", "storage s3:/bucket/x: it is neither a folder nor a URI"),
        ("s3://bucket/x#secret_key=SECRET", "storage s3://bucket/x: such a URI has no # and no ;"),
        ("s3://bucket/x;secret_key=SECRET", "storage s3://bucket/x: such a URI has no # and no ;"),
    ],
)
def test_a_place_without_meaning_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError) as caught:
        checked_storage(place)
    assert problem in str(caught.value).replace("\\\\", "\\")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place",
    ["runs", "./runs/", "runs/../runs", "link", "{f}/runs", "file://{f}/runs", "runs/r", "runs/r/checkpoints", "above"],
)
def test_a_copy_that_would_be_the_run_or_overlap_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("above/r/runs/r" if place == "above" else "runs/r")
    (tmp_path / run).mkdir(parents=True)
    (tmp_path / "link").symlink_to("runs")
    with pytest.raises(StorageError, match=f"the copy of {run} would be {tmp_path}/"):
        check_place(place.replace("{f}", str(tmp_path)), run)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("place", ["store", "runs/other", "file:///tmp/store", "s3://bucket/runs?region=eu", "a b"])
def test_a_place_apart_from_the_run_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    check_place(place, Path("runs/r"))
    assert list(tmp_path.iterdir()) == []

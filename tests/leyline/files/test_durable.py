"""Durable writes: whole files and folders, growing files, and what a refused write leaves."""

import errno
import fcntl
import hashlib
import os
import pickle
import shutil
import socket
from pathlib import Path

import pytest

from esper_ray.leyline.files import durable
from esper_ray.leyline.files.durable import (
    FilePrefix,
    GrowingFile,
    WriteError,
    copy_folder,
    remove,
    rewrite_file,
    write_file,
    write_folder,
)


@pytest.fixture
def full_disk(monkeypatch):
    """After ``full_disk(bytes)`` files grow by so many bytes more, then not at all."""

    def fill(room):
        left = [room]

        def limited(descriptor, data):
            grows = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND or os.fstat(descriptor).st_size < len(data)
            taken = os.write(descriptor, data[: left[0]] if grows else data)
            left[0] -= taken if grows else 0
            if taken < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(durable, "write_all", limited)

    return fill


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


class TestWriteFile:
    def test_content_is_replaced_and_nothing_else_is_left(self, tmp_path):
        for text in ("first", b"second"):
            write_file(tmp_path / "a", text)
        assert content(tmp_path) == {"a": "second"}

    @pytest.mark.parametrize("kind", ["a pipe", "a socket"])
    def test_what_is_no_file_is_not_replaced(self, kind, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # the address of a socket is short
        path = Path("a")
        if kind == "a pipe":
            os.mkfifo(path)
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        before = os.lstat(path)
        with pytest.raises(WriteError, match="a cannot be written: it is not a file"):
            write_file(path, "text")
        assert (os.lstat(path).st_ino, names(tmp_path)) == (before.st_ino, ["a"])

    def test_a_device_is_no_file(self):
        with pytest.raises(OSError, match="it is not a file"):
            durable._check_replaceable(Path("/dev/null"))

    def test_a_full_disk_leaves_the_old_content_and_names_the_path(self, tmp_path, full_disk):
        write_file(tmp_path / "a", "old")
        full_disk(2)
        with pytest.raises(WriteError, match=rf"^{tmp_path}/a cannot be written: No space left on device$") as caught:
            write_file(tmp_path / "a", "new content")
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.exit_code == 1
        assert content(tmp_path) == {"a": "old"}

    def test_a_removed_folder_is_not_made_again(self, tmp_path):
        with pytest.raises(WriteError, match="No such file or directory"):
            write_file(tmp_path / "gone" / "a", "x")
        assert names(tmp_path) == []

    def test_an_error_survives_a_copy_between_processes(self):
        copy = pickle.loads(pickle.dumps(WriteError("runs/a cannot be written: full")))
        assert (type(copy), str(copy)) == (WriteError, "runs/a cannot be written: full")


class TestRewriteFile:
    def test_a_full_disk_is_written_in_place_and_padded(self, tmp_path, full_disk):
        rewrite_file(tmp_path / "a", '{"status": "running"}\n')
        full_disk(0)
        rewrite_file(tmp_path / "a", '{"status": "failed"}\n')
        assert content(tmp_path) == {"a": '{"status": "failed"}\n '}

    def test_longer_content_needs_room_and_the_file_stays(self, tmp_path, full_disk):
        write_file(tmp_path / "a", "ab")
        full_disk(0)
        with pytest.raises(WriteError, match="a cannot be written: No space left on device"):
            rewrite_file(tmp_path / "a", "abc")
        assert content(tmp_path) == {"a": "ab"}


class TestWriteFolder:
    def test_files_and_inner_folders_appear_and_replace_the_old_ones(self, tmp_path):
        write_folder(tmp_path / "f", [("a", "1"), ("in/b", b"2")])
        write_folder(tmp_path / "f", [("c", "3")])
        assert content(tmp_path) == {"f/c": "3"}
        assert names(tmp_path) == ["f"]

    def test_a_full_disk_leaves_the_old_folder(self, tmp_path, full_disk):
        write_folder(tmp_path / "f", [("a", "old")])
        full_disk(5)
        with pytest.raises(WriteError, match="f cannot be written: No space left"):
            write_folder(tmp_path / "f", [("a", "new"), ("b", "new")])
        assert content(tmp_path) == {"f/a": "old"}
        assert names(tmp_path) == ["f"]

    def test_an_error_of_the_content_leaves_the_old_folder(self, tmp_path):
        def broken():
            yield "a", "new"
            raise ValueError("no more")

        write_folder(tmp_path / "f", [("a", "old")])
        with pytest.raises(ValueError, match="no more"):
            write_folder(tmp_path / "f", broken())
        assert content(tmp_path) == {"f/a": "old"}
        assert names(tmp_path) == ["f"]

    def test_a_replacement_that_a_kill_interrupted_is_undone_first(self, tmp_path, full_disk):
        """Killed between the two renames: only the old folder is left, under its temporary name."""
        write_folder(tmp_path / ".f.old", [("a", "old")])
        full_disk(0)
        with pytest.raises(WriteError):
            write_folder(tmp_path / "f", [("a", "new")])
        assert content(tmp_path) == {"f/a": "old"}

    def test_a_removed_parent_is_not_made_again(self, tmp_path):
        with pytest.raises(WriteError):
            write_folder(tmp_path / "gone" / "f", [("a", "1")])
        assert names(tmp_path) == []

    def test_a_copy_has_all_files(self, tmp_path):
        write_folder(tmp_path / "f", [("a", "1"), ("in/b", "2")])
        copy_folder(tmp_path / "f", tmp_path / "g")
        assert content(tmp_path / "g") == {"a": "1", "in/b": "2"}

    def test_files_and_folders_are_removed_and_missing_ones_ignored(self, tmp_path):
        write_folder(tmp_path / "f", [("a", "1")])
        write_file(tmp_path / "b", "")
        for name in ("f", "b", "none"):
            remove(tmp_path / name)
        assert names(tmp_path) == []


class TestGrowingFile:
    def test_text_is_appended_cut_and_replaced(self, tmp_path):
        file = GrowingFile(tmp_path / "a")
        file.append("one\n")
        file.append("two\n")
        file.truncate(4)
        assert (file.size(), content(tmp_path)) == (4, {"a": "one\n"})
        file.replace(b"new\n")
        file.flush()
        file.append("end\n")
        assert content(tmp_path) == {"a": "new\nend\n"}

    def test_an_existing_file_is_accepted_as_it_is(self, tmp_path):
        (tmp_path / "a").write_text("old\n")
        GrowingFile(tmp_path / "a").append("new\n")
        assert content(tmp_path) == {"a": "old\nnew\n"}

    def test_a_foreign_line_behind_ours_is_noticed_and_nothing_added(self, tmp_path):
        file = GrowingFile(tmp_path / "a")
        file.append("one\n")
        (tmp_path / "a").write_text("one\nx\n")
        with pytest.raises(WriteError, match="a was extended by another process: it has 6 bytes, the run wrote 4"):
            file.append("two\n")
        assert content(tmp_path) == {"a": "one\nx\n"}

    def test_a_full_disk_leaves_no_torn_line(self, tmp_path, full_disk):
        file = GrowingFile(tmp_path / "a")
        file.append("one\n")
        full_disk(2)
        with pytest.raises(WriteError, match="a cannot be written: No space left on device"):
            file.append("two\n")
        assert content(tmp_path) == {"a": "one\n"}

    @pytest.mark.parametrize(
        ("change", "message", "left"),
        [
            (lambda path: path.write_text("o"), "was cut by another process: it has 1 bytes, the run wrote 4", "o"),
            (lambda path: path.write_text(""), "was cut by another process: it has 0 bytes, the run wrote 4", ""),
            (lambda path: os.replace(shutil.copy(path, f"{path}.b"), path), "was replaced by another file", "one\n"),
        ],
        ids=["cut", "emptied", "replaced"],
    )
    @pytest.mark.parametrize(
        "write", [lambda f: f.append("two\n"), lambda f: f.truncate(0), lambda f: f.replace(b""), lambda f: f.size()]
    )
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_a_foreign_change_is_noticed_before_the_next_one(self, tmp_path, change, message, left, write):
        file = GrowingFile(tmp_path / "a")
        file.append("one\n")
        change(file.path)
        with pytest.raises(WriteError, match=message):
            write(file)
        assert content(tmp_path)["a"] == left

    def test_a_deleted_file_is_restored_and_reported(self, tmp_path):
        file = GrowingFile(tmp_path / "a")
        file.append("one\n")
        file.path.unlink()
        with pytest.raises(WriteError, match="a was deleted while the run wrote to it; its 4 bytes have been restored"):
            file.append("two\n")
        assert content(tmp_path) == {"a": "one\n"}

    def test_a_moved_file_is_reported_and_not_made_again(self, tmp_path):
        file = GrowingFile(tmp_path / "a")
        file.append("one\n")
        file.path.rename(tmp_path / "b")
        with pytest.raises(WriteError, match="a was moved while the run wrote to it; put it back"):
            file.append("two\n")
        assert content(tmp_path) == {"b": "one\n"}

    @pytest.mark.parametrize("lose", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))])
    def test_a_lost_folder_is_reported_and_not_made_again(self, tmp_path, lose):
        folder = tmp_path / "run"
        folder.mkdir()
        file = GrowingFile(folder / "a")
        file.append("one\n")
        lose(folder)
        with pytest.raises(WriteError, match="run was removed or moved while the run wrote to it"):
            file.append("two\n")
        assert not folder.exists()

    def test_the_descriptor_of_a_dropped_file_is_closed(self, tmp_path):
        before = os.listdir("/proc/self/fd")
        for _ in range(20):
            GrowingFile(tmp_path / "a").append("x")
        assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


def test_the_prefix_of_a_growing_file_is_size_and_digest_of_its_content(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    file = GrowingFile(path)
    file.append("two\n")
    for content, change in (
        (b"one\ntwo\n", lambda: None),
        (b"one\ntwo\nthree\n", lambda: file.append("three\n")),
        (b"one\n", lambda: file.truncate(4)),
        (b"one\nfour\n", lambda: file.append("four\n")),
        (b"five", lambda: file.replace(b"five")),
        (b"", lambda: file.truncate(0)),
    ):
        change()
        assert path.read_bytes() == content
        assert file.prefix() == FilePrefix(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def test_the_prefix_of_a_file_that_was_extended_by_another_process_is_refused(tmp_path):
    file = GrowingFile(tmp_path / "log")
    file.append("one\n")
    with file.path.open("a") as other:
        other.write("x")
    with pytest.raises(WriteError, match="was extended by another process"):
        file.prefix()

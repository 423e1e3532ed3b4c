"""Folder of a local cluster: private, short enough for sockets, and refused before anything is written."""

import os
import stat
import sys

import pytest

from esper_actors.cluster import ray_folder as module
from esper_actors.cluster.ray_folder import RayFolderError, ray_folder

SOCKET = f"/esper/r/session_2026-11-29_19-26-47_123456_{os.getpid()}/sockets/plasma_store"
LONGEST = module.SOCKET_BYTES - len(SOCKET)


@pytest.fixture
def short(tmp_path_factory, monkeypatch):
    """A short folder in /tmp, removed afterwards; neither variable is set."""
    import shutil
    import tempfile

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    folder = tempfile.mkdtemp(dir="/tmp")
    yield folder
    shutil.rmtree(folder)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def of_length(folder, length):
    return folder + "/" + "x" * (length - len(folder) - 1)


def test_the_folder_is_in_ray_tmpdir_and_only_this_user_can_enter_it(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", short + "/new")
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    assert str(ray_folder()) == short + "/new/esper/r"
    assert mode(short + "/new/esper") == 0o700
    assert ray_folder().is_dir()


def test_a_folder_that_others_could_enter_is_closed(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", short)
    ray_folder().parent.chmod(0o777)
    assert mode(ray_folder().parent) == 0o700


def test_the_folder_is_in_tmpdir_unless_that_is_too_long(short, monkeypatch):
    monkeypatch.setenv("TMPDIR", short)
    assert str(ray_folder()) == f"{short}/esper-{os.getuid()}/r"
    monkeypatch.setenv("TMPDIR", of_length(short, 60))
    assert str(ray_folder()) == f"/tmp/esper-{os.getuid()}/r"
    assert os.listdir(short) == [f"esper-{os.getuid()}"]  # nothing was made of the long one
    monkeypatch.setenv("TMPDIR", "/proc/nowhere")
    assert str(ray_folder()) == f"/tmp/esper-{os.getuid()}/r"


@pytest.mark.skipif(sys.platform == "darwin", reason="the bound is that of Linux")
def test_the_longest_ray_tmpdir_is_what_the_path_of_a_socket_leaves_room_for(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", of_length(short, LONGEST))
    assert len(str(ray_folder()) + SOCKET.removeprefix("/esper/r")) == 107
    monkeypatch.setenv("RAY_TMPDIR", of_length(short, LONGEST + 1))
    message = (
        rf"RAY_TMPDIR=/tmp/.*: it has {LONGEST + 1} bytes, but .* room for {LONGEST} .*at most 107\); set RAY_TMPDIR"
    )
    with pytest.raises(RayFolderError, match=message) as raised:
        ray_folder()
    assert raised.value.exit_code == 2
    assert not os.path.exists(os.environ["RAY_TMPDIR"])


def test_bytes_count_not_characters(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", short + "/" + "ä" * 20)
    with pytest.raises(RayFolderError, match=f"it has {len(short) + 41} bytes"):
        ray_folder()


def test_a_ray_tmpdir_that_cannot_be_written_is_refused(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    with pytest.raises(RayFolderError, match=r"RAY_TMPDIR=/proc/nowhere: it cannot be written: No such.*; set RAY"):
        ray_folder()
    with open(short + "/file", "w"):
        monkeypatch.setenv("RAY_TMPDIR", short + "/file")
    with pytest.raises(RayFolderError, match="it cannot be written: Not a directory"):
        ray_folder()


def test_a_link_in_place_of_the_folder_is_refused(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", short)
    os.symlink("/tmp", short + "/esper")
    with pytest.raises(RayFolderError, match="is not a folder of this user"):
        ray_folder()
    assert mode("/tmp") == 0o1777


def test_a_folder_of_another_user_is_refused(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", short)
    ray_folder()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(RayFolderError, match="is not a folder of this user; set RAY_TMPDIR"):
        ray_folder()


def test_a_session_refuses_the_folder_before_it_writes_anything(tmp_path, monkeypatch, tiny_config):
    from esper_actors.session import train

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    monkeypatch.setattr("esper_actors.session._on_cluster", lambda config: False)  # other tests may have a cluster
    with pytest.raises(RayFolderError, match="RAY_TMPDIR=/proc/nowhere"):
        train(tiny_config, run=tmp_path / "runs" / "r")
    assert list(tmp_path.iterdir()) == []

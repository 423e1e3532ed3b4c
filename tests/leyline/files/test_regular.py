"""Regular files are read; folders, pipes, devices and long files are refused without waiting."""

import os
from pathlib import Path

import pytest

from esper_ray.leyline.files.regular import open_regular, read_regular


def test_the_content_of_a_file_and_of_a_link_to_it_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        assert read_regular(tmp_path / name) == b"content"
        with open_regular(tmp_path / name) as file:
            assert file.read(3) == b"con"


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device", "a link to a device"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = Path("/dev/zero") if kind == "a device" else tmp_path / "a"
    makers = {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path)}
    makers |= {"a link to a device": lambda: path.symlink_to("/dev/zero"), "a device": lambda: None}
    makers[kind]()
    for read in (open_regular, read_regular):
        with pytest.raises(OSError, match="it is not a regular file"):
            read(path)


def test_a_missing_file_is_an_error_and_a_link_to_itself_too(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nowhere")
    with pytest.raises(OSError, match="symbolic links"):
        read_regular(tmp_path / "loop")


def test_a_longer_file_is_refused_and_one_of_the_length_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_regular(tmp_path / "a", most=5) == b"12345"
    with pytest.raises(OSError, match="it is longer than 4 bytes"):
        read_regular(tmp_path / "a", most=4)

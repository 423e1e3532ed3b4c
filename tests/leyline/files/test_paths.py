"""Paths for new folders, and files that may be replaced."""

import os

import pytest

from esper_ray.leyline.files.paths import may_be_replaced, unused_paths


def test_unused_paths_leave_out_those_that_exist(tmp_path):
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
    paths = unused_paths(tmp_path, "a")
    assert [next(paths).name for _ in range(2)] == ["a-1", "a-3"]


@pytest.mark.parametrize(
    ("content", "exactly", "in_any_case"),
    [
        (b"", True, True),
        (b"<html>x", True, True),
        (b"<HTML>", False, True),
        (b"<ht", False, False),
        (b"x", False, False),
    ],
)
def test_a_file_that_begins_otherwise_may_not_be_replaced(tmp_path, content, exactly, in_any_case):
    path = tmp_path / "page"
    path.write_bytes(content)
    assert may_be_replaced(path, b"<html>") is exactly
    assert may_be_replaced(path, b"<html>", any_case=True) is in_any_case


def test_what_is_not_a_file_may_not_be_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nothing")
    assert may_be_replaced(tmp_path / "new", b"x")
    assert not any(may_be_replaced(tmp_path / name, b"x") for name in ("folder", "pipe", "link"))

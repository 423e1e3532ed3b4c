"""The place that an argument names."""

from pathlib import Path

import pytest
from sanctum_builders import recorded_run, set_times

from esper_ray.karn.places import place_of, runs_in
from esper_ray.leyline.errors import UsageError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, year in (("older", 2024), ("newer", 2025)):
        run = recorded_run(tmp_path / "runs", rounds=0, name=name)
        set_times(run)
        run.write_manifest(run.read_manifest() | {"started": f"{year}-01-01T00:00:00+00:00"})
    return tmp_path / "runs"


def test_without_an_argument_it_is_the_newest_run(folder):
    assert place_of(None).run.path.name == "newer"


def test_a_run_and_a_folder_are_told_apart(folder):
    assert place_of(folder / "older").run.path.name == "older"
    assert place_of(folder).run is None


def test_an_unknown_run_is_refused_with_the_nearest_name(folder):
    with pytest.raises(UsageError, match=r"there is no run 'runs/oldr': it does not exist; did you mean runs/older\?"):
        place_of(Path("runs/oldr"))
    with pytest.raises(UsageError, match=r"did you mean runs/older\?"):
        place_of(Path("older"))


def test_an_empty_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is not a run and holds none"):
        place_of(tmp_path)
    with pytest.raises(UsageError, match="there is no run in runs/"):
        place_of(None)


def test_a_damaged_manifest_is_left_out(folder):
    (folder / "older" / "manifest.json").write_text("{")
    (folder / "file").write_text("x")
    assert [line.name for line in runs_in(folder)] == ["newer"]

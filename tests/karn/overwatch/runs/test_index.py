"""Names in URLs lead to places that were found in the folders, and nowhere else."""

import json
import shutil

import pytest
from overwatch_builders import live_run, served
from report_builders import run_of, small_records
from sanctum_builders import NAME

from esper_ray.karn.overwatch.runs.index import PlaceIndex, UnknownPlaceError, check_folder
from esper_ray.leyline.errors import UsageError


def ids(*folders, **more):
    return [(place.kind, place.id) for place in PlaceIndex(folders, **more).places()]


def comparison(folder):
    for name in ("one", "two"):
        run = run_of(folder, small_records(), run_id=name)
        run.write_manifest(run.read_manifest() | {"run": folder.name, "group": name})


def test_runs_comparisons_and_sweeps_with_what_belongs_to_them(tmp_path):
    run_of(tmp_path / "runs", [], run_id="single")
    comparison(tmp_path / "runs" / "pair")
    (tmp_path / "sweeps" / "grid" / "trials").mkdir(parents=True)
    (tmp_path / "sweeps" / "grid" / "sweep.json").write_text("{}")
    run_of(tmp_path / "sweeps" / "grid" / "trials", [], run_id="t0")
    (tmp_path / "evaluations" / "last").mkdir(parents=True)
    (tmp_path / "evaluations" / "last" / "evaluation.json").write_text("{}")
    (tmp_path / "other").mkdir()
    expected = [
        ("evaluation", "last"),
        ("comparison", "pair"), ("run", "pair~one"), ("run", "pair~two"), ("run", "single"),
        ("sweep", "grid"), ("run", "grid~t0"),
    ]  # fmt: skip
    assert sorted(ids(tmp_path)) == sorted(expected)
    assert sorted(ids(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "evaluations")) == sorted(expected)


def test_a_place_itself_can_be_watched(tmp_path):
    run = run_of(tmp_path, [], run_id="single")
    assert ids(run.path) == [("run", "single")]


def test_a_folder_of_two_runs_is_no_comparison(tmp_path):
    run_of(tmp_path / "runs", [], run_id="one")
    run_of(tmp_path / "runs", [], run_id="two")
    assert ids(tmp_path / "runs") == [("run", "one"), ("run", "two")]


def test_equal_names_in_two_folders_are_told_apart(tmp_path):
    for name in ("first", "second"):
        run_of(tmp_path / name, [], run_id="run")
    assert ids(tmp_path / "first", tmp_path / "second") == [("run", "run"), ("run", "run~2")]


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../secret",
        "%2e%2e",
        "..%2fsecret",
        "/etc",
        "%2Fetc%2Fpasswd",
        ".",
        "",
        "secret/../secret",
        "\\",
        "a\x00b",
    ],
)
def test_a_name_is_never_joined_to_a_path(tmp_path, name):
    run_of(tmp_path, [], run_id="secret")
    run_of(tmp_path / "runs", [], run_id="open")
    index = PlaceIndex([tmp_path / "runs"])
    with pytest.raises(UnknownPlaceError, match="there is no run"):
        index.find("run", name)


@pytest.mark.parametrize("path", ["%2e%2e", "..%2fsecret", "%2fetc%2fpasswd", "open/../../secret", "%2e%2e%2fsecret"])
def test_paths_in_addresses_lead_nowhere(tmp_path, path):
    run_of(tmp_path, [], run_id="secret")
    live_run(tmp_path / "runs")
    with served(tmp_path / "runs") as client:
        for prefix in ("/runs/", "/api/v1/runs/", "/static/", "/static/../"):
            response = client.get(prefix + path)
            assert response.status_code == 404
            assert "c0ffee" not in response.text  # what only the log of the other run holds


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path):
    secret = run_of(tmp_path / "outside", [], run_id="secret")
    run_of(tmp_path / "runs", [], run_id="open")
    (tmp_path / "runs" / "linked").symlink_to(secret.path)
    index = PlaceIndex([tmp_path / "runs"])
    assert [place.id for place in index.places()] == ["open"]
    assert "linked is a link that leads out of the folder" in index.problems[0]


@pytest.mark.parametrize("name", ["events.jsonl", "manifest.json", "events", "flight"])
def test_a_run_with_a_file_that_is_a_link_out_of_the_folder_is_not_shown(tmp_path, name):
    run = run_of(tmp_path / "runs", small_records(), run_id="open")
    run_of(tmp_path / "runs", [], run_id="other")
    outside = tmp_path / "outside"
    outside.mkdir()
    path = run.path / name
    if path.exists():
        shutil.move(path, outside / name)
    else:
        (outside / name).mkdir()
    path.symlink_to(outside / name)
    index = PlaceIndex([tmp_path / "runs"])
    assert [place.id for place in index.places()] == ["other"]
    assert f"{name} is a link that leads out of the folder" in index.problems[0]


def test_a_part_that_is_a_link_out_of_the_folder_hides_its_run(tmp_path):
    run = run_of(tmp_path / "runs", small_records(), run_id="open")
    (part,) = run.event_log.parts()
    shutil.move(part.path, tmp_path / part.path.name)
    part.path.symlink_to(tmp_path / part.path.name)
    assert PlaceIndex([tmp_path / "runs"]).places() == ()


def test_a_file_of_a_part_that_is_a_link_out_of_the_folder_hides_its_run(tmp_path):
    run = run_of(tmp_path / "runs", small_records(), run_id="open")
    (part,) = run.event_log.parts()
    file = part.file("outcome")
    shutil.move(file, tmp_path / file.name)
    file.symlink_to(tmp_path / file.name)
    assert PlaceIndex([tmp_path / "runs"]).places() == ()


def test_a_link_that_appears_later_hides_its_run(tmp_path):
    run = run_of(tmp_path / "runs", small_records(), run_id="open")
    clock = [0.0]
    index = PlaceIndex([tmp_path / "runs"], clock=lambda: clock[0])
    assert len(index.places()) == 1
    (tmp_path / "secret").mkdir()
    (run.path / "flight").symlink_to(tmp_path / "secret")
    clock[0] = 10.0
    assert index.places() == ()


def test_a_watched_folder_may_be_a_link(tmp_path):
    run_of(tmp_path / "far", [], run_id="run")
    (tmp_path / "near").symlink_to(tmp_path / "far")
    assert ids(tmp_path / "near") == [("run", "run")]


def test_a_new_run_is_found_after_a_while_and_by_its_name_sooner(tmp_path):
    clock = [0.0]
    index = PlaceIndex([tmp_path], clock=lambda: clock[0])
    assert index.places() == ()
    run_of(tmp_path, [], run_id="run")
    clock[0] = 0.9
    with pytest.raises(UnknownPlaceError):
        index.find("run", "run")
    clock[0] = 1.1
    assert index.find("run", "run").path == tmp_path / "run"


def test_an_unknown_name_is_refused_with_the_nearest_of_its_kind(tmp_path):
    run_of(tmp_path, [], run_id=NAME)
    with pytest.raises(UnknownPlaceError) as error:
        PlaceIndex([tmp_path]).find("run", "digits-s43")
    assert error.value.nearest == NAME
    with pytest.raises(UnknownPlaceError) as error:
        PlaceIndex([tmp_path]).find("sweep", NAME)
    assert error.value.nearest is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [("rnus", "it does not exist; did you mean"), ("file", "it is a file")],
)
def test_a_folder_that_cannot_be_watched_is_refused(tmp_path, name, reason):
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=reason):
        check_folder(tmp_path / name)


def test_a_folder_that_does_not_exist_yet_holds_nothing(tmp_path):
    assert ids(tmp_path / "runs") == []


def test_a_damaged_manifest_is_no_error(tmp_path):
    run = run_of(tmp_path, [], run_id="run")
    (run.path / "manifest.json").write_text("{")
    with served(tmp_path) as client:
        (line,) = client.get("/api/v1/places").json()["places"]
        assert line["status"] == "unknown"
        response = client.get("/api/v1/runs/run")
    assert response.status_code == 400
    assert "manifest.json cannot be used" in response.json()["error"]
    assert json.dumps(line)

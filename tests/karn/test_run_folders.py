"""Folders of runs: comparisons, sweeps, evaluations, and copies in a storage."""

import json
import shutil

import pytest
from sanctum_builders import config, recorded_run, round_records, set_times, watched

from esper_ray.karn.places import folder_kind, lines_in, place_of
from esper_ray.karn.sanctum.frame import frame, rows
from esper_ray.karn.sanctum.keys import pressed
from esper_ray.karn.sanctum.view import RUNS, Controls
from esper_ray.karn.sanctum.watch import watch_of
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.errors import UsageError
from esper_ray.nissa.runs.copies.copy_mirror import CopyMirror
from esper_ray.nissa.runs.copies.remote_copy import RemoteCopy
from esper_ray.nissa.runs.copies.storage import Storage, StorageError
from esper_ray.nissa.runs.run_directory import Names, RunDirectory
from esper_ray.nissa.state.codec import state_to_json

pytestmark = pytest.mark.integration


def side(folder, name, mode):
    """One side of a comparison."""
    changed = build(config().model_dump(mode="json"), {"reward.mode": mode})
    return RunDirectory.create(folder, changed, ["test"], name, Names(folder.name, name))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a run and a comparison."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    set_times(recorded_run(folder, rounds=1, name="alone"))
    side(folder / "ab", "A", "shaped")
    side(folder / "ab", "B", "sparse")
    return folder


def text(view, **choices):
    return "\n".join(rows(frame(view, Controls(screen=RUNS, **choices), 80, 24)))


def test_a_comparison_is_one_line_of_its_folder_and_lists_what_differs(runs):
    assert [(line.name, line.kind) for line in lines_in(runs)] == [("alone", "run"), ("ab", "comparison")]
    assert folder_kind(runs / "ab") == "comparison"
    lines = {line.group: line.detail for line in lines_in(runs / "ab")}
    assert lines == {"A": "reward.mode shaped", "B": "reward.mode sparse"}
    assert place_of(runs / "ab").run is None
    shown = text(watched(runs / "ab"), run="B")
    assert "2 runs in the comparison runs/ab" in shown
    assert "reward.mode sparse" in shown


def test_a_comparison_of_which_one_side_has_started_is_one(runs):
    shutil.rmtree(runs / "ab" / "B")
    assert folder_kind(runs / "ab") == "comparison"
    assert folder_kind(runs) == "folder"


def test_a_comparison_is_opened_and_left_in_the_list(runs):
    watch = watch_of(str(runs))
    view = watch.poll(runs=True)
    opened = pressed(Controls(screen=RUNS, run="ab"), "enter", view)
    assert (opened.run, opened.controls.screen) == ("ab", RUNS)
    watch.open("ab")
    view = watch.poll(runs=True)
    assert (view.folder_kind, view.is_nested, len(view.runs)) == ("comparison", True, 2)
    left = pressed(Controls(screen=RUNS), "escape", view)
    assert left.run == ".."
    watch.open("..")
    view = watch.poll(runs=True)
    assert (view.folder_kind, view.is_nested, len(view.runs)) == ("folder", False, 2)


def test_the_groups_of_a_comparison_are_known_from_one_of_its_runs(runs):
    view = watched(runs / "ab" / "A")
    assert pressed(Controls(), "t", view).run == "B"


def test_trials_of_a_sweep_are_listed_and_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "sweep.json").write_text("{}")
    assert "no trial has started yet" in text(watched(sweep))
    recorded_run(sweep / "trials", rounds=1, name="shaped-s1")
    watch = watch_of("sweep")
    view = watch.poll(runs=True)
    assert [line.name for line in view.runs] == ["trials/shaped-s1"]
    watch.open("trials/shaped-s1")
    assert watch.poll().name == "shaped-s1"


def test_policies_of_an_evaluation_are_listed_with_their_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    score = {"mean": 61.25, "low": 60.0, "high": 62.0}
    summary = {"policy": "tamiyo", "episodes": 20, "test_accuracy_pp": score, "objective_pp": score}
    (tmp_path / "evaluation.json").write_text(json.dumps({"summaries": [summary]}))
    view = watched(tmp_path)
    shown = text(view)
    assert "1 policy in the evaluation" in shown
    assert "test accuracy 61.2 [60.0, 62.0], objective 61.2" in shown
    assert "esper report" in pressed(Controls(screen=RUNS), "enter", view).controls.message
    (tmp_path / "evaluation.json").write_text("{")
    assert "its policies cannot be read" in text(watched(tmp_path))


def content(view):
    """The state without the numbers of items, whose order between files depends on the looks."""
    tree = state_to_json(view.state)["state"]
    return {name: value for name, value in tree.items() if not name.startswith("changed")}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A run and its copy in a storage."""
    monkeypatch.chdir(tmp_path)
    run = recorded_run(tmp_path / "runs", rounds=2)
    copy = RemoteCopy(Storage(tmp_path / "store"), run)
    copy.push()
    return run, copy, f"file://{tmp_path}/store"


def test_a_copy_is_shown_as_the_run_is_and_follows_it_by_round(stored):
    run, copy, place = stored
    clock = [0.0]
    watch = watch_of(f"{place}/digits-s42", clock=lambda: clock[0])
    view = watch.poll()
    assert content(view) == content(watched(run.path))
    assert "a copy by round" in view.notes[0]
    for index in (2, 3):
        run.log(round_records(index))
        if index == 3:
            run.compact(always=True)
        copy.push()
        clock[0] += 6.0
        watch.poll()
        view = watch.poll()
        assert len(view.state.rounds) == index + 1
    assert view.problems == ()
    assert content(view) == content(watched(run.path))


def test_no_checkpoint_is_fetched(stored, tmp_path):
    run, copy, _ = stored
    copy.storage.write("checkpoints/round-00001/learner.safetensors", b"x")
    copy.storage.write("checkpoints/round-00001/state.json", b"{}")
    CopyMirror(copy.storage, tmp_path / "mirror").update()
    assert list((tmp_path / "mirror" / "checkpoints").iterdir()) == []
    assert (tmp_path / "mirror" / "events.jsonl").read_bytes() == run.event_log.tail.read_bytes()


def test_a_lost_storage_keeps_what_is_known_and_says_its_age(stored, monkeypatch):
    clock = [0.0]
    watch = watch_of(f"{stored[2]}/digits-s42", clock=lambda: clock[0])
    view = watch.poll()
    rounds = len(view.state.rounds)

    def fail(self, name):
        raise StorageError("storage is away")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "stamp", fail)
        clock[0] = 7.0
        view = watch.poll()
    assert view.connection == "storage is away; what is shown is 7 s old, the next try is in 5 s"
    assert len(view.state.rounds) == rounds
    assert "storage is away" in "\n".join(rows(frame(view, Controls(), 80, 24)))
    clock[0] = 14.0
    assert watch.poll().connection == ""


def test_a_storage_lists_its_runs_and_opens_one(stored):
    watch = watch_of(stored[2])
    assert not watch.shows_run
    view = watch.poll(runs=True)
    assert ([line.name for line in view.runs], view.folder_kind) == (["digits-s42"], "storage")
    watch.open("digits-s42")
    assert watch.poll().path.endswith("/store/digits-s42")


def test_an_empty_or_unknown_storage_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        watch_of(f"file://{tmp_path}/nowhere")
    with pytest.raises(StorageError):
        watch_of("nothing://bucket/run")


def test_a_copy_in_s3_is_shown(stored, s3_bucket):
    run, _, _ = stored
    place = s3_bucket("copies")
    RemoteCopy(Storage(place), run).push()
    view = watch_of(place).poll(runs=True)
    assert [line.name for line in view.runs] == ["digits-s42"]

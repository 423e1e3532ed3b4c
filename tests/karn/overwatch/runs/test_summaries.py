"""The line about a run is that of its files, and is read anew only when they change."""

import pytest
from report_builders import run_of, small_records
from state_builders import outcome

from esper_ray.karn.overwatch.runs import summaries
from esper_ray.karn.overwatch.runs.index import PlaceIndex
from esper_ray.karn.overwatch.runs.summaries import Summaries, logged_ends
from esper_ray.nissa.state.answers import Gain, gain
from esper_ray.nissa.state.fold import RECENT_OUTCOMES
from esper_ray.nissa.state.run_state import RunState

ROUNDS = "round,growth_ratio,val_accuracy_ratio\n"


def lines(folder, **more):
    found = Summaries(**more)
    places = PlaceIndex([folder]).places()
    found.lines(places)
    found.read_gains()
    return {line["id"]: line for line in found.lines(places)}


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("more", [0, 5, RECENT_OUTCOMES + 20])
def test_the_gain_is_that_of_the_whole_log(tmp_path, compacted, more):
    run = run_of(tmp_path, small_records(), status="running")
    if compacted:
        run.compact(always=True)
    run.log([outcome(100 + index, 1.0, 30.0 + index % 7) for index in range(more)])
    expected = gain(RunState.of(run.events()))
    assert gain(logged_ends(run.path)) == expected
    (line,) = lines(tmp_path).values()
    assert line["gain"]["mean_pp"] == expected.mean_pp
    assert line["reading"] is False


def test_the_newest_round_is_the_last_line_of_the_table(tmp_path):
    for name, rows in (
        ("none", ""),
        ("one", "0,1.5,0.5\n"),
        ("many", "".join(f"{i},{i}.0,0.5\n" for i in range(9000))),
    ):
        run = run_of(tmp_path, [], run_id=name, status="running")
        (run.path / "rounds.csv").write_text(ROUNDS + rows)
    found = lines(tmp_path)
    assert [(found[name]["round"], found[name]["growth_ratio"]) for name in ("none", "one", "many")] == [
        (0, None), (1, 1.5), (9000, 8999.0),
    ]  # fmt: skip
    assert found["one"]["rounds"] == 3


@pytest.mark.parametrize("content", ["x", "round\n", "a,b\n1,2\n", "\x00", ROUNDS + "0,nan,0\n"])
def test_a_damaged_table_is_no_error(tmp_path, content):
    run = run_of(tmp_path, [], status="running")
    (run.path / "rounds.csv").write_text(content)
    (line,) = lines(tmp_path).values()
    assert line["growth_ratio"] is None


def test_a_run_without_a_control_has_no_gain(tmp_path):
    run_of(tmp_path, [outcome(0, 1.0, 50.0)], status="running")
    (line,) = lines(tmp_path).values()
    assert (line["gain"], line["reading"]) == (None, False)


def test_unchanged_files_are_read_once(tmp_path, monkeypatch):
    run = run_of(tmp_path, small_records(), status="running")
    found, places, reads = Summaries(), PlaceIndex([tmp_path]).places(), []
    monkeypatch.setattr(summaries, "logged_ends", lambda path: reads.append(path) or logged_ends(path))
    for _ in range(3):
        found.lines(places)
        found.read_gains()
    assert len(reads) == 1
    run.log([outcome(100, 1.0, 90.0)])
    assert found.lines(places)[0]["reading"] is False  # the former gain is shown until the new one is known
    found.read_gains()
    assert len(reads) == 2
    assert found.lines(places)[0]["gain"]["episodes"] == 7


def test_the_gain_of_a_followed_run_is_that_of_its_state(tmp_path):
    run_of(tmp_path, small_records(), status="running")
    live = Gain(1.0, 0.5, 1.5, 2, 3)
    (line,) = lines(tmp_path, live_gain=lambda place: live).values()
    assert line["gain"] == {"mean_pp": 1.0, "low_pp": 0.5, "high_pp": 1.5, "episodes": 2, "controls": 3}


def test_only_settings_that_differ_are_listed_without_name_and_seed(tmp_path):
    run_of(tmp_path, [], run_id="one", seed=1)
    run_of(tmp_path, [], run_id="two", seed=2, gamma=0.9, name="other")
    found = lines(tmp_path)
    assert (found["one"]["settings"], found["two"]["settings"]) == ({"gamma": 0.995}, {"gamma": 0.9})
    assert (found["one"]["seed"], found["two"]["preset"]) == ("1", "other")


def test_a_comparison_and_a_sweep_have_the_time_of_their_start(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"started": "2026-01-02T03:04:05+00:00"}')
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sweep.json").write_text("[")
    found = lines(tmp_path)
    assert (found["sweep"]["started"], found["bad"]["started"]) == ("2026-01-02T03:04:05+00:00", None)

"""Every screen fits its window, and what must be seen is seen."""

import re
from dataclasses import replace

import pytest
from sanctum_builders import beat, recorded_run, set_times, watched

from esper_ray.karn.sanctum.frame import frame, rows
from esper_ray.karn.sanctum.text import plain
from esper_ray.karn.sanctum.view import SCREENS, Controls, RunView
from esper_ray.nissa.log.parquet import EventLogError

SIZES = [(80, 24), (100, 30), (160, 48)]


def shown(view, width=80, height=24, **choices):
    return rows(frame(view, Controls(**choices), width, height))


@pytest.mark.parametrize("size", [*SIZES, (81, 25), (149, 24), (300, 24)])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_every_screen_has_exactly_the_size_of_its_window(view, size, ascii_only):
    for screen in SCREENS:
        for overlay in ("", "help", "facts"):
            result = frame(view, Controls(screen=screen, overlay=overlay), *size, ascii_only=ascii_only)
            assert {len(plain(spans)) for spans in result.lines} == {size[0]}
            assert len(result.lines) == size[1]
            assert not ascii_only or "".join(rows(result)).isascii()


@pytest.mark.parametrize("size", [(79, 24), (80, 23), (10, 3), (1, 1)])
def test_a_window_that_is_too_small_says_what_is_needed(view, size):
    needed = f"esper sanctum needs 80x24, this terminal has {size[0]}x{size[1]}; q leaves"
    assert rows(frame(view, Controls(), *size))[0].rstrip("… ") in needed


def test_the_status_line_has_name_phase_round_and_age(view):
    first = shown(view)[0]
    assert first.startswith("esper > digits-s42   ")
    assert first.endswith("   TRAINING  playing 2/8  round 4/11  2 s")


def test_the_five_answers_have_marks_beside_their_colors(view):
    assert shown(view)[1] == "alive ok    learning ok    growing ok    explained ok    safe !1     6.1 steps/s"


def test_the_footer_names_screens_and_keys(view):
    assert shown(view)[-1] == " 1 Over 2 Policy 3 Nets 4 Episode 5 Seed 6 Log 7 Runs   / find  spc hold  ? help"


def test_a_driver_without_a_beat_is_gone_within_five_seconds(run):
    alive = shown(watched(run.path, (0.0, 4.9)))
    assert "GONE" not in "".join(alive)
    gone = shown(watched(run.path, (0.0, 5.1)))
    assert gone[2].startswith("! GONE, no beat for 5 s, process 4711 on box, last: playing round 4/11")
    assert "   GONE  playing 2/8  round 4/11" in gone[0]
    assert gone[3].startswith("  resume with: esper train ppo --resume runs/digits-s42")


def test_a_driver_that_beats_and_does_not_move_is_stuck(run):
    view = watched(run.path, (0.0, 60.0, 94.0), lambda index: beat(run, phase="learning", beat=index))
    assert shown(view)[2].startswith("! STUCK in learning for 94 s (usual 2)")


def test_damage_is_a_badge_and_a_line_and_the_screen_goes_on(run):
    with run.event_log.tail.open("ab") as file:
        file.write(b"{no json}\n")
    lines = shown(watched(run.path))
    assert " EVIDENCE NOT WHOLE " in lines[0]
    assert lines[2].startswith("! evidence is not whole: line ")
    assert " of /" in lines[2] or " of runs/" in lines[2]
    assert any(text.startswith("learning  accuracy 51.0 %") for text in lines)


def test_a_resumption_is_said(run):
    position = run.position()
    run.log([{"kind": "run_finished", "policy_sha256": "p"}])
    view = watched(run.path, (0.0, 1.0), lambda index: run.rewind(position) if index else None)
    assert shown(view)[2].startswith("! resumed at round 4: 1 event was dropped")


def test_a_held_screen_says_so(view):
    assert " HELD " in shown(view, held=True)[0]


def test_without_rounds_and_pulse_sentences_stand_where_numbers_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = recorded_run(tmp_path / "runs", rounds=0)
    view = watched(run.path)
    for screen, text in (
        (1, "no round is over yet; no step yet"),
        (2, "no update has ended yet"),
        (3, "no episode has started yet"),
        (4, "no episode has started yet"),
        (5, "no episode has started yet"),
    ):
        assert text in "\n".join(shown(view, screen=screen))
    assert shown(view)[1].startswith("alive ?    learning ?    growing ?    explained ?    safe ok")


def test_a_log_of_another_version_is_named_with_both_versions(run):
    run.event_log.tail.write_text('{"schema": 99, "kind": "round", "seq": 0}\n')
    lines = shown(watched(run.path), 160, 48)
    assert any("event log of version 99, this program reads" in text for text in lines)
    assert EventLogError.__name__ not in "\n".join(lines)


def test_an_ended_run_has_its_status_and_local_time(run):
    beat(run, phase="ended", status="finished")
    set_times(run, status="finished")
    assert shown(watched(run.path))[0].endswith("FINISHED  2026-01-02 03:14 UTC")


def test_a_folder_without_a_chosen_run_says_where_the_runs_are():
    assert "No run is chosen. Press 7" in "\n".join(shown(RunView(folder="runs")))


def test_help_has_the_keys_and_a_glossary_of_the_catalogue(view):
    text = "\n".join(shown(view, 100, 400, overlay="help"))
    assert re.search("e NUMBER +environment by its number", text)
    assert re.search("explained variance +explained variance of the returns by the values predicted", text)


def test_text_of_a_run_cannot_move_the_cursor(view):
    hostile = replace(view, name="a\x1b[2J", problems=("\x1b]0;x\x07",), notes=("\r\n",))
    for screen in SCREENS:
        assert all(text.isprintable() for text in shown(hostile, screen=screen))

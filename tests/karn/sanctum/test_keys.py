"""Keys change what is chosen, and nothing else."""

from dataclasses import replace

import pytest

from esper_ray.karn.sanctum.keys import pressed
from esper_ray.karn.sanctum.view import Controls


def after(view, *keys, **choices):
    controls = Controls(**choices)
    for key in keys:
        controls = pressed(controls, key, view).controls
    return controls


def test_digits_choose_a_screen_and_escape_goes_back(view):
    assert after(view, "6").screen == 6
    assert after(view, "6", "2", "escape").screen == 6
    assert after(view, "6", "2", "backspace", "escape", "escape").screen == 1
    assert after(view, "9", "0").screen == 1


def test_rows_are_chosen_by_letters_and_arrows(view):
    assert [after(view, key).env for key in ("j", "down", "G", "end")] == [1, 1, 7, 7]
    assert after(view, "G", "k").env == 6
    assert after(view, "G", "g").env == 0


def test_e_and_a_number_choose_an_environment(view):
    assert after(view, "e", "5", "enter").env == 5
    assert after(view, "e", "9", "9", "enter").message == "there is no environment 99; there are 0 to 7"
    assert after(view, "e", "x", "6", "7", "backspace", "enter").env == 6
    assert after(view, "e", "5", "escape").env is None


def test_sorting_keeps_the_environment_under_the_cursor(view):
    controls = after(view, "j", "j", "s")
    assert (controls.sort, controls.env) == ("accuracy", 2)
    assert controls.ordered(view)[0] == 7


def test_sorted_rows_hold_still_while_their_numbers_change(view):
    controls = after(view, "s")
    episodes = dict(view.state.episodes)
    episodes[0] = replace(episodes[0], val_accuracy_pp=99.0)
    later = replace(view, state=replace(view.state, episodes=episodes, previews={}))
    assert controls.ordered(later) == controls.ordered(view)


def test_enter_leads_from_the_overview_to_episode_and_seed(view):
    controls = after(view, "j", "enter")
    assert (controls.screen, controls.env) == (4, 1)
    assert after(view, "j", "enter", "enter").screen == 5
    assert after(view, "j", "enter", "enter", "escape", "escape").screen == 1


def test_steps_are_chosen_in_the_episode_and_the_newest_one_is_followed(view):
    at = {"screen": 4, "env": 1}
    assert after(view, "h", **at).step == 11
    assert after(view, "[", "[", "]", **at).step == 11
    assert after(view, "h", "l", **at).step is None
    assert after(view, "g", **at).step == 1
    assert after(view, "p", **at).step == 12


def test_slots_are_chosen_in_the_seed_screen(view):
    assert after(view, "l", screen=5, env=1, slot="r0c0").slot == "r0c1"
    assert after(view, "h", screen=5, env=1, slot="r0c0").slot == "r0c2"


def test_a_slash_filters_the_log_and_escape_leaves_it(view):
    controls = after(view, "/", *"veto x", "enter")
    assert (controls.screen, controls.filter, controls.prompt) == (6, "veto x", "")
    assert after(view, "/", *"veto", "escape").filter == ""


@pytest.mark.parametrize("key", ["1", "q", "?", "a", "s"])
def test_letters_at_a_prompt_are_text(view, key):
    assert after(view, "/", key).typed == key


def test_the_event_under_the_cursor_stays_when_new_ones_come(view):
    controls = after(view, "k", screen=6)
    assert controls.event is not None
    assert after(view, "k", "G", screen=6).event is None


def test_a_shows_trouble_only(view):
    assert (after(view, "a").screen, after(view, "a").anomalies_only) == (6, True)
    assert not after(view, "a", "a").anomalies_only


def test_enter_in_the_log_opens_the_episode_of_the_event(view):
    controls = after(view, "enter", screen=6, filter="kind=outcome e4")
    assert (controls.screen, controls.env) == (4, 4)
    older = after(view, "g", "enter", screen=6, filter="kind=outcome e4")
    assert older.message == "that episode is over; esper explain runs/digits-s42 --episode 4"


def test_space_holds_and_goes_on(view):
    assert after(view, " ").held
    assert not after(view, " ", " ").held


def test_overlays_scroll_and_close(view):
    assert after(view, "?").overlay == "help"
    assert after(view, "i", "j", "j", "k").scroll == 1
    assert after(view, "?", "escape").overlay == ""
    assert after(view, "?", "3").screen == 3


def test_q_and_ctrl_c_leave(view):
    assert pressed(Controls(), "q", view).leave
    assert pressed(Controls(prompt="filter"), "ctrl+c", view).leave
    assert not pressed(Controls(), "x", view).leave


def test_enter_in_the_runs_opens_the_run_under_the_cursor(view):
    result = pressed(Controls(screen=7), "enter", view)
    assert (result.run, result.controls.screen) == ("digits-s42", 1)

"""Screens of a recorded run, line by line."""

import pytest
from sanctum_builders import watched

from esper_ray.karn.sanctum.frame import frame, rows
from esper_ray.karn.sanctum.view import Controls


def shown(view, width=80, height=24, **choices):
    return [text.rstrip() for text in rows(frame(view, Controls(**choices), width, height))]


def test_the_overview_has_learning_safe_growing_and_every_environment(view):
    lines = shown(view)
    assert lines[2].startswith("learning  accuracy 51.0 %  control 26.0  gain +")
    assert lines[3] == "          return +0.80 (1.80 .. 3.90)  kl 0.012  explained 0.20  entropy 1.9"
    assert lines[4].startswith("safe    ! head collapsed (style): 0.0721, threshold 0.08, since round 3")
    assert lines[7] == "env   ep step   acc   best grow  r0c0        r0c1        r0c2        last"
    assert [text[:3] for text in lines[8:16]] == ["> 0", "  1", "  2", "  3", "  4", "  5", "  6", "  7"]


def test_wider_windows_have_more_columns_and_a_panel(view):
    assert "return  r0c0            r0c1" in shown(view, 100, 30)[7]
    wide = shown(view, 160, 48)
    assert any("blueprint        kept   lost   worth (pp)" in text for text in wide)
    assert any("reward per step of the last round, by source" in text for text in wide)


def test_an_operation_without_effect_is_a_capital(view):
    assert shown(view, screen=4, env=7)[4].startswith("operation   .g..g.....F.")


def test_the_policy_has_entropy_against_floor_and_operations_by_round(view):
    lines = shown(view, screen=2)
    assert lines[2] == "update of round 3: 16 steps   entropy 1.90 nats"
    style = next(text for text in lines if text.startswith("style"))
    assert style.startswith("style         0.07 !")
    assert style.split()[-2:] == ["%", "0.200"]
    assert sum(text.strip().startswith(("1 ", "2 ", "3 ")) for text in lines[-7:-1]) == 3


def test_the_tree_has_the_layers_of_the_host_and_the_seeds_behind_them(view):
    lines = shown(view, screen=3, env=1)
    texts = [text.partition(" │ ")[2] for text in lines[2:-1]]
    assert texts[:2] == ["environment 1, episode 17, step 12", "250 parameters, 1.6x the host"]
    assert [text.split()[0] for text in texts if "(" in text and "accuracy" not in text and "Shap" not in text] == [
        "stem",
        "pool",
        "body",
        "late",
        "head",
    ]
    assert any(text.startswith(" └─ r0c0 ") for text in texts)
    assert " └─ r0c2  empty" in texts


def test_the_episode_has_a_lane_for_each_slot_and_the_reward_by_source(view):
    lines = shown(view, screen=4, env=1, step=6)
    assert lines[2].startswith("environment 1, episode 17, round 3, 12 steps")
    assert lines[5].startswith("r0c0        ·GTTTBBBHHFF")
    step = lines.index(next(text for text in lines if text.endswith(" step 6")))
    assert any("+0.1200  gain" in text for text in lines[step:])
    assert any("-0.0050  rent" in text and "step 1" in text for text in lines[step:])


def test_the_episode_in_play_says_that_its_entries_come_later(view):
    lines = shown(view, screen=4, env=2)
    assert "in play" in lines[2]
    assert "  the entries of its reward are in the log when the round has ended" in lines


def test_the_seed_has_its_gates_and_its_worth(view):
    lines = shown(view, 100, 30, screen=5, env=3, slot="r0c1")
    text = "\n".join(lines)
    assert "r0c1-1  conv_light" in text
    assert "gate G2 refused: NOT contribution 1.2 (needed 1)" in text
    assert "pp, last" in text


def test_the_log_hides_steps_until_they_are_looked_for(view):
    assert not any(" env_epoch " in text for text in shown(view, screen=6))
    assert any(" env_epoch " in text for text in shown(view, screen=6, filter="kind=env_epoch e3"))


def test_a_filter_finds_kind_clock_and_words(view):
    lines = shown(view, screen=6, filter="fossilized e3")
    assert all("FOSSILIZED" in text and "e3" in text for text in lines[4:-5] if text)
    assert (
        shown(view, screen=6, filter="nothing like it")[4]
        == " no event matches; / changes the filter, a shows all kinds"
    )


def test_the_log_of_trouble_has_rollbacks_and_anomalies(view):
    lines = [text for text in shown(view, 120, 24, screen=6, anomalies_only=True)[4:-5] if text]
    assert [text.split()[-1] for text in lines] == ["6.9)", "0.08)"]


def test_the_runs_have_status_preset_and_seed(view):
    lines = shown(view, screen=7)
    assert lines[2] == "1 run in runs"
    assert lines[4].startswith("> digits-s42")


@pytest.mark.parametrize("screen", [4, 5])
def test_an_older_run_without_host_and_details_is_shown(run, screen):
    lines = run.event_log.tail.read_text().splitlines(keepends=True)
    run.event_log.tail.write_text("".join(text for text in lines if '"kind": "host"' not in text))
    assert shown(watched(run.path), screen=screen)

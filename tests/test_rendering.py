"""Drawings of an episode, from records made by hand."""

import numpy as np
from leyline_builders import make_report

from esper_ray.leyline.actions import Blueprint, LifecycleOp
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import Stage
from esper_ray.leyline.step_outcome import StepOutcome
from esper_ray.rendering import EMPTY, LEFT, Drawing

WAITING = make_report(Stage.TRAINING)
HALF = make_report(
    Stage.BLENDING,
    alpha=0.5,
    blueprint=Blueprint.CONV_LIGHT,
    parameters=1234,
    measured=SeedMeasurements(contribution_pp=-0.25),
)
LANES = {1: (None, None), 2: (WAITING, None), 4: (HALF, None)}


def outcome(**changes):
    fields = {
        "episode_seed": 1,
        "epoch": 4,
        "val_loss": 0.5,
        "val_accuracy_pp": 71.25,
        "committed_accuracy_pp": 70.0,
        "host_parameters": 1000,
        "total_parameters": 2234,
        "committed_parameters": 0,
        "reports": (HALF, None),
        "operation": LifecycleOp.ADVANCE,
        "slot": "r0c0",
        "reward": 0.125,
    }
    return StepOutcome(**(fields | changes))


def drawing(length=6, lanes=LANES, **changes):
    return Drawing(outcome(**changes), ("r0c0", "r0c1"), length, lanes)


def rgb(colour):
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def test_text_shows_figures_lanes_and_seeds():
    assert drawing().text() == (
        "epoch 4 of 6: validation accuracy 71.2 %, committed 70.0 %, 2,234 parameters (2.23 x host)\n"
        "last action: ADVANCE r0c0, reward +0.125\n"
        "r0c0  |.t b  | conv_light, BLENDING, amplitude 0.50, 1,234 parameters, contribution -0.25 pp\n"
        "r0c1  |.. .  | empty\n"
        "stages: g germinated, t training, b blending, h holding, F fossilized, p pruned, e embargoed, r resetting\n"
    )


def test_text_says_that_an_action_was_illegal_or_had_no_effect():
    assert "last action: WAIT (illegal)," in drawing(
        operation=LifecycleOp.WAIT, slot=None, success=False, illegal=True
    ).text().replace("reward", "")
    assert "ADVANCE r0c0 (no effect)" in drawing(success=False).text()


def test_a_long_episode_has_sixty_columns_each_with_its_last_epoch():
    lanes = {epoch: (WAITING if epoch == 120 else None, None) for epoch in range(1, 121)}
    (lane,) = (line for line in drawing(120, lanes, reports=(WAITING, None)).text().splitlines() if line[:4] == "r0c0")
    assert lane.split("|")[1] == "." * 59 + "t"


def test_a_seed_without_measurement_is_said_to_be_unmeasured():
    assert "contribution not measured" in drawing(reports=(WAITING, None)).text()


def test_a_picture_has_the_colours_of_stages_and_the_height_of_amplitudes():
    """Six epochs share 650 pixels: the second has the pixels 108 to 215 of the lane, the fourth 325 to 432."""
    picture = drawing().picture()
    assert (picture.shape, picture.dtype) == ((44 + 2 * 40, 720, 3), np.uint8)
    middle = {epoch: LEFT + 650 * (2 * epoch - 1) // 12 for epoch in range(1, 7)}
    assert picture[44 + 2, middle[2]].tolist() == rgb("#f2c14e")  # training: the whole height
    assert picture[44 + 18, middle[4]].tolist() == rgb("#4d9de0")  # blending at 0.5: the lower half
    for epoch in (1, 3, 4, 5, 6):
        assert picture[44 + 5, middle[epoch]].tolist() == rgb(EMPTY)

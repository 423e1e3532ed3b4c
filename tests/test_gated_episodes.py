"""Seeds with a gate network, trained straight through, lead whole lives in the environment."""

import math

import pytest

from esper_ray.environment import make_environment
from esper_ray.leyline.actions import WAIT, Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.stages import Stage

OVERRIDES = {
    "reward.mode": "sparse",
    "growth.incubation.method": "straight_through",
    "growth.styles": ["sigmoid_add", "gated_gate"],
    "episode_length": 14,
    "training.steps_per_epoch": 3,
    "task.validation_size": 100,
}


def life(style, **overrides):
    """Report of the seed after each epoch."""
    env = make_environment("digits", OVERRIDES | overrides)
    env.reset(seed=0)
    birth = Action(LifecycleOp.GERMINATE, slot=0, blueprint=Blueprint.CONV_LIGHT, style=style)
    env.step(birth.to_indices())
    reports = []
    for _ in range(10):
        env.step(WAIT.to_indices())
        reports.append(env.reports[0])
    return reports


@pytest.mark.integration
def test_a_gated_seed_is_measured_and_leaves_training_as_others_do():
    plain, gated = life(GerminationStyle.SIGMOID_ADD), life(GerminationStyle.GATED_GATE)
    for report in gated:
        measured = report.measured
        assert measured.finite is not False
        assert measured.gradient_norm is None or math.isfinite(measured.gradient_norm)
    assert [report.stage for report in gated] == [report.stage for report in plain]
    assert gated[-1].stage in (Stage.BLENDING, Stage.HOLDING)
    training = [r for r in gated if r.stage is Stage.TRAINING and r.measured.gradient_norm is not None]
    assert training
    assert [r.measured.gradient_norm for r in training] == [
        p.measured.gradient_norm for p in plain[: len(gated)] if p.stage is Stage.TRAINING and p.measured.gradient_norm
    ]

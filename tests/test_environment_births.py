"""Births near the end of an episode, and the shortest life of a seed."""

import pytest

from esper_ray.environment import make_environment
from esper_ray.leyline.actions import WAIT, Action, LifecycleOp

QUICK = {
    "training.steps_per_epoch": 1,
    "training.batch_size": 16,
    "task.validation_size": 50,
    "growth.embargo_ticks": 1,
}
LOOSE_GATES = {
    "growth.min_training_epochs": 2,
    "growth.min_training_improvement_pp": 0.0,
    "growth.min_gradient_ratio": 0.0,
    "growth.min_gradient_health": 0.0,
}


STRICT_GATES = {"growth.gates": "strict", "growth.min_blending_epochs": 4}


@pytest.mark.parametrize(
    ("auto", "strict"),
    [*(([*auto], {}) for auto in ("", "1", "2", "3", "123")), (["1"], STRICT_GATES), (["1", "2", "3"], STRICT_GATES)],
)
def test_births_are_legal_as_long_as_the_seed_can_still_be_committed(auto, strict):
    """The bound equals the number of epochs of a life in which everything happens as early as it can."""
    auto = [f"g{number}" for number in auto]
    env = make_environment("digits", QUICK | LOOSE_GATES | strict | {"growth.auto_forward": auto, "episode_length": 20})
    env.reset(seed=1)
    env.step(Action(LifecycleOp.GERMINATE, 0, min(env.limits.blueprints), min(env.limits.styles), 0).to_indices())
    while not env.masks.slot_by_op[LifecycleOp.FOSSILIZE, 0]:
        forward = Action(LifecycleOp.ADVANCE, 0)
        env.step((forward if env.masks.allows(forward) else WAIT).to_indices())
    assert env.limits.shortest_life == env.epoch + 1
    env.reset(seed=1)
    last = 20 - env.limits.shortest_life
    legal = [(bool(env.masks.op[LifecycleOp.GERMINATE]), env.step(WAIT.to_indices()))[0] for _ in range(20)]
    assert legal == [epoch <= last for epoch in range(20)]

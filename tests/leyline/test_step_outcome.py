"""The record of an environment step, and the info that is derived from it."""

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.records import Event, LedgerEntry
from esper_ray.leyline.step_outcome import StepOutcome, step_info

OUTCOME = StepOutcome(
    episode_seed=7,
    epoch=3,
    val_loss=0.5,
    val_accuracy_pp=80.0,
    committed_accuracy_pp=70.0,
    host_parameters=100,
    total_parameters=150,
    committed_parameters=30,
    reports=(None, None),
    operation=LifecycleOp.PRUNE,
    slot="r0c1",
    success=False,
    illegal=False,
    train_loss=0.6,
    events=(Event("gate", 2),),
    entries=(LedgerEntry("rent", -0.25, 2, 2),),
    reward=-0.25,
    truncated=True,
)


def test_info_has_the_documented_keys_of_a_step():
    assert step_info(OUTCOME) == {
        "episode_seed": 7,
        "epoch": 3,
        "operation": "PRUNE",
        "slot": "r0c1",
        "success": False,
        "illegal": False,
        "train_loss": 0.6,
        "val_loss": 0.5,
        "val_accuracy_pp": 80.0,
        "committed_accuracy_pp": 70.0,
        "total_parameters": 150,
        "committed_parameters": 30,
        "growth_ratio": 1.5,
        "entries": (LedgerEntry("rent", -0.25, 2, 2),),
        "events": (Event("gate", 2),),
        "reports": (None, None),
    }


def test_the_last_step_is_terminated_or_truncated():
    assert OUTCOME.last
    assert not StepOutcome(0, 0, 1.0, 10.0, 10.0, 100, 100, 0, ()).last

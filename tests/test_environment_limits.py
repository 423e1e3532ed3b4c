"""Limits of an environment: vetoes, exhausted memory, and intervals of measurements."""

import numpy as np
import pytest
import torch
from torch import nn

from esper_ray.environment import MorphogenesisEnv, make_environment
from esper_ray.kasmina.hosts import HostSpec
from esper_ray.leyline.actions import WAIT, Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.device_memory import DeviceMemoryError, is_out_of_memory

pytestmark = pytest.mark.integration

QUICK = {
    "episode_length": 30,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 40,
    "growth.min_training_epochs": 1,
    "growth.min_gradient_health": 0.0,
    "governor.snapshot_every": 1,
}
STAY = WAIT.to_indices()


def birth(slot, blueprint=Blueprint.CONV_LIGHT):
    style = int(GerminationStyle.LINEAR_ADD)
    return Action(op=int(LifecycleOp.GERMINATE), slot=slot, blueprint=int(blueprint), style=style).to_indices()


def test_a_germination_above_the_parameter_budget_is_vetoed_and_logged():
    env = make_environment("digits", QUICK | {"governor.max_parameters": 160 + 9 * 4 + 6})
    env.reset(seed=1)
    assert env.masks.slot_by_op[LifecycleOp.GERMINATE].all()
    *_, info = env.step(birth(2))  # 8 channels: too large
    assert (info["success"], info["illegal"], info["operation"]) == (False, False, "GERMINATE")
    (veto,) = info["events"]
    assert (veto.kind, veto.data["slot"]) == ("veto", "r0c2")
    assert (veto.data["value"], veto.data["limit"]) == (160 + 9 * 64 + 24, 160 + 42)
    assert env.reports == (None, None, None)
    *_, info = env.step(birth(0))  # 2 channels: fits
    assert info["success"]
    assert info["total_parameters"] == 160 + 42


def test_a_germination_above_the_memory_limit_is_vetoed():
    env = make_environment("digits", QUICK | {"governor.max_memory_mb": 0.05})
    env.reset(seed=1)
    *_, info = env.step(birth(2))
    assert [event.kind for event in info["events"]] == ["veto"]
    assert "governor.max_memory_mb" in info["events"][0].data["reason"]


def exhausted(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("where", ["training", "measuring"])
def test_a_seed_that_exhausts_the_memory_is_rolled_back(where):
    env = make_environment("digits", QUICK)
    env.reset(seed=1)
    env.step(STAY)
    good = {name: tensor.clone() for name, tensor in env.organism.model.host.state_dict().items()}
    env.step(birth(2))
    env.runtime.health.trust()
    graph = where == "training"
    seed = env.organism.model.cell("r0c2").seed
    seed.register_forward_hook(lambda *_: exhausted() if torch.is_grad_enabled() == graph else None)
    for _ in range(12):
        _, reward, terminated, _, info = env.step(STAY)
        if terminated:
            break
    assert terminated
    assert reward < -5.0
    (rollback,) = [event for event in info["events"] if event.kind == "rollback"]
    assert rollback.data["reason"] == "out of memory"
    assert rollback.data["value"] == 160 + 9 * 64 + 24
    assert all(torch.isfinite(tensor).all() for tensor in env.organism.model.host.state_dict().values())
    assert good.keys() == env.organism.model.host.state_dict().keys()
    env.reset(seed=1)
    assert env.step(STAY)[4]["success"]


def test_a_host_that_exhausts_the_memory_is_an_error_with_device_and_batch():
    env = make_environment("digits", QUICK)
    env.reset(seed=1)
    env.organism.model.host.register_forward_hook(exhausted)
    with pytest.raises(DeviceMemoryError, match="cpu has no memory for a host and batches of 16"):
        env.step(STAY)


class Huge(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 10)

    def forward(self, x):
        return exhausted()


def test_a_host_larger_than_the_memory_is_refused_at_construction():
    config = build(read_preset("digits"), QUICK | {"growth.slots": ["r0c0"]})
    with pytest.raises(DeviceMemoryError, match="cpu has no memory for the data of task 'digits' and a host: CUDA out"):
        MorphogenesisEnv(config, host=lambda data: HostSpec(Huge(), {"r0c0": "body"}))


def boom(*_):
    raise ArithmeticError("boom")


def test_other_errors_are_not_treated_as_lack_of_memory():
    env = make_environment("digits", QUICK)
    env.reset(seed=1)
    env.organism.model.host.register_forward_hook(boom)
    with pytest.raises(ArithmeticError, match="boom"):
        env.step(STAY)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))


def test_coalitions_are_measured_when_due_or_after_a_change_of_seeds():
    env = make_environment("digits", QUICK | {"measurement.every": 5, "episode_length": 40})
    env.reset(seed=1)
    ages, counts = [], []
    for step in range(40):
        free = np.flatnonzero(env.masks.slot_by_op[LifecycleOp.GERMINATE])
        measured_players = env.measured.players
        _, _, _, _, info = env.step(birth(int(free[0])) if len(free) and step < 20 else STAY)
        assert info["committed_accuracy_pp"] is not None  # in every epoch
        players = env.measured.players
        if len(players) >= 2:
            due = env.epoch % 5 == 0 or env.epoch == 40 or measured_players != players
            counts.append(len(env.measured.coalitions))
            assert counts[-1] == (2 ** len(players) if due else 2)
            live = [report for report in env.reports if report is not None and report.slot_id in players]
            ages.append({report.measured.epochs_since_measured for report in live})
            assert (ages[-1] == {0}) is due
            assert all(report.measured.contribution_pp is not None for report in live)
    assert {2, 4} <= set(counts)
    assert {0} in ages
    assert {3} in ages


def test_a_part_of_the_validation_split_can_be_measured():
    env = make_environment("digits", QUICK | {"measurement.examples": 25})
    env.reset(seed=1)
    env.step(STAY)
    assert env.measured.examples == 25
    assert env.test_measurement().examples == 300


def test_a_healthy_episode_has_no_alarm():
    """Growth on real digits with every alarm at its default."""
    env = make_environment("digits", {"episode_length": 25})
    env.reset(seed=4)
    for step in range(25):
        free = np.flatnonzero(env.masks.slot_by_op[LifecycleOp.GERMINATE])
        *_, terminated, _, info = env.step(birth(int(free[-1])) if len(free) and step > 3 else STAY)
        assert not terminated
        assert not [event for event in info["events"] if event.kind in ("rollback", "veto")]
    assert any(report is not None and report.stage is not Stage.GERMINATED for report in env.reports)

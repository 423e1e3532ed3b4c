"""HealthMonitor, SignalHistory and EpochOutcome: the parts that every training loop shares."""

import math
from dataclasses import replace

import pytest
import torch
from transition_builders import plain

from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.leyline.actions import WAIT, Action, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import GovernorConfig, MeasurementConfig
from esper_ray.runtime.health import HealthMonitor
from esper_ray.runtime.host import EpisodeRuntime, PlantedSeed, committed_seed
from esper_ray.runtime.signals import SignalHistory
from esper_ray.tolaria.assembly import ConfiguredHost
from esper_ray.tolaria.device_memory import DeviceMemoryError
from esper_ray.tolaria.governor import Governor, HealthVerdict
from esper_ray.tolaria.tasks import load_task
from esper_ray.tolaria.validation import SplitExamples

SLOTS = ["r0c0", "r0c1", "r0c2", "r1c0", "r1c1"]
SMALL = {
    "episode_length": 6,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 50,
    "growth.slots": SLOTS,
}
GROW = Action(op=int(LifecycleOp.GERMINATE), slot=1, style=int(GerminationStyle.LINEAR_ADD))


def runtime_of(**changes):
    config = build(read_preset("digits"), SMALL | {key.replace("__", "."): value for key, value in changes.items()})
    device = torch.device("cpu")
    return EpisodeRuntime(config, load_task(config.task, device), device, ConfiguredHost(config.host), 3)


def monitor_of(runtime, **settings):
    """Another monitor of the network and data of ``runtime``."""
    options = {"measurement": MeasurementConfig(), "governor": GovernorConfig(snapshot_every=1)} | settings
    examples = SplitExamples.first(runtime.data, runtime.data.validation)
    return HealthMonitor(runtime.organism, examples, seed=3, epochs=6, **options)


def tensors(runtime):
    return {name: tensor.clone() for name, tensor in runtime.organism.model.named_parameters()}


def break_host(runtime):
    with torch.no_grad():
        runtime.organism.model.host.head.weight.fill_(math.nan)


def test_the_committed_coalition_of_five_seeds_is_measured_and_judged(monkeypatch):
    """Above four seeds coalitions are sampled; the sample includes that of the committed ones."""
    runtime = runtime_of(measurement__permutations=1)
    runtime.plant([PlantedSeed(slot, "norm", GerminationStyle.LINEAR_ADD) for slot in SLOTS])
    growth = runtime.organism.model.growth
    record = growth.record()
    for slot in ("r0c1", "r1c1"):
        state = replace(record.states[slot], stage=record.states[slot].previous_stage)
        record = replace(record, states={**record.states, slot: state})
    growth.options = GrowthOptions()
    growth.adopt(record, growth.rebuild(record))
    judged = []
    monkeypatch.setattr(Governor, "judge", lambda self, train, val, pp: judged.append(pp) or HealthVerdict(False, True))
    monitor = monitor_of(runtime, measurement=MeasurementConfig(permutations=1))
    monitor.judge(0, None, {})
    assert runtime.organism.model.committed_slots == {"r0c0", "r0c2", "r1c0"}
    assert len(monitor.measured.coalitions) < 2**5
    assert judged == [monitor.measured.coalition_accuracy_pp(frozenset({"r0c0", "r0c2", "r1c0"}))]


def test_a_healthy_epoch_is_trusted_and_a_rollback_restores_it():
    runtime = runtime_of()
    monitor = monitor_of(runtime)
    training = runtime.train()
    assert monitor.judge(0, training.loss, training.gradients).healthy
    good, measured = tensors(runtime), monitor.measured
    break_host(runtime)
    verdict = monitor.judge(1, None, {})
    assert (verdict.panic, verdict.reason) == (True, "validation loss is not finite")
    monitor.roll_back()
    restored = tensors(runtime)
    assert all(torch.equal(good[name], restored[name]) for name in good)
    assert (monitor.measured, monitor.rollbacks) == (measured, 1)


def test_a_snapshot_is_taken_after_the_configured_number_of_healthy_epochs():
    runtime = runtime_of()
    monitor = monitor_of(runtime, governor=GovernorConfig(snapshot_every=3))
    snapshots = []
    for epoch in range(6):
        before = monitor.trusted
        training = runtime.train()
        monitor.judge(epoch, training.loss, training.gradients)
        snapshots.append(monitor.trusted is not before)
    assert snapshots == [False, False, True, False, False, True]


def test_advance_equals_its_phases_one_by_one():
    whole, parts = runtime_of(), runtime_of()
    for action in (WAIT, GROW, WAIT, WAIT):
        outcome = whole.advance(action)
        success, events = parts.execute(action)
        events += parts.tick()
        training = parts.train()
        verdict = parts.judge(training.loss, training.gradients)
        parts.epoch += 1
        assert (outcome.took_effect, outcome.success) == (success, success)
        assert (list(outcome.events), outcome.training, outcome.verdict) == (events, training, verdict)
        assert whole.measured == parts.measured
        assert outcome.seconds.keys() == {"execute", "train", "measure"}
    ours, expected = tensors(whole), tensors(parts)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_an_operation_undone_by_a_rollback_took_effect_without_success():
    runtime = runtime_of()
    break_host(runtime)
    outcome = runtime.advance(GROW)
    assert (outcome.took_effect, outcome.success, runtime.epoch) == (True, False, 1)
    assert outcome.events[-1].kind == "rollback"
    assert outcome.events[-1].epoch == 0
    assert runtime.reports() == (None,) * 5


def test_a_network_without_policy_that_exhausts_the_memory_is_an_error():
    runtime = runtime_of()
    runtime.plant([PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD)])

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    runtime.organism.model.host.register_forward_hook(exhausted)
    parameters = runtime.total_parameters
    with pytest.raises(DeviceMemoryError, match=f"no memory for a network of {parameters} parameters"):
        next(runtime.run_without_policy())


def test_signals_keep_the_last_five_results_and_the_last_operation():
    history = SignalHistory.start(9, plain(10.0, 2.0))
    assert (history.operation, history.success) == (LifecycleOp.WAIT, True)
    for epoch in range(1, 7):
        history = history.after(LifecycleOp.PRUNE, False, plain(10.0 + epoch, 2.0 - 0.1 * epoch))
    assert history.losses == pytest.approx((1.8, 1.7, 1.6, 1.5, 1.4))
    assert history.accuracies_pp == (12.0, 13.0, 14.0, 15.0, 16.0)
    assert (history.operation, history.success, history.max_epochs) == (LifecycleOp.PRUNE, False, 9)


def test_a_planted_seed_is_committed_at_full_amplitude():
    state = committed_seed(PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD))
    assert (state.stage.name, state.alpha.alpha, state.alpha.target) == ("FOSSILIZED", 1.0, 1.0)

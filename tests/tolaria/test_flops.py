"""FLOP meter: counts by hand for small networks, cached counts of known structures, and no side effects."""

import pytest
import torch
from variants import rest_at_night

from esper_ray.leyline.actions import Action, AlphaMode, BlendOperator, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.stages import Stage
from esper_ray.runtime.host import EpisodeRuntime, PlantedSeed
from esper_ray.tolaria.assembly import ConfiguredHost
from esper_ray.tolaria.flops import FlopMeter
from esper_ray.tolaria.tasks import load_task

pytestmark = pytest.mark.integration

BATCH, STEPS, EPOCHS = 4, 3, 3
SMALL = {
    "episode_length": 60,
    "training.batch_size": BATCH,
    "training.steps_per_epoch": STEPS,
    "task.validation_size": 40,
    "task.test_size": 20,
    "growth.min_training_epochs": 1,
    "growth.min_gradient_health": 0.0,
    "growth.embargo_ticks": 1,
}
MLP = SMALL | {"host": {"family": "mlp", "width": 6, "blocks": 2, "expansion": 2}, "growth.slots": ["r0c0"]}
MLP |= {"growth.blueprints": ["mlp_small", "norm", "lora"]}
CNN = SMALL | {"growth.slots": ["r0c0"]}


def make_runtime(settings, seed=1, flops=None):
    config = build(read_preset("digits"), settings)
    device = torch.device("cpu")
    return EpisodeRuntime(config, load_task(config.task, device), device, ConfiguredHost(config.host), seed, flops)


def trained(runtime, epochs=EPOCHS):
    for _ in range(epochs):
        runtime.train()
        runtime.epoch += 1
    return runtime


def linear(batch, inputs, outputs, *, input_gradient=True):
    """FLOPs of a linear layer, forward and backward: output, weight gradient and input gradient if needed."""
    return 2 * batch * inputs * outputs * (3 if input_gradient else 2)


def test_a_tiny_mlp_by_hand():
    """64 pixels to width 6; two blocks of 6 to 12 and back; 6 to ten classes. The pixels need no gradient."""
    meter = FlopMeter()
    trained(make_runtime(MLP, flops=meter), epochs=1)
    step = linear(BATCH, 64, 6, input_gradient=False)
    step += 2 * (linear(BATCH, 6, 12) + linear(BATCH, 12, 6)) + linear(BATCH, 6, 10)
    assert step == 4 * 4 * 64 * 6 + 6 * 4 * (4 * 72 + 60)
    assert meter.total == STEPS * step


def test_a_tiny_cnn_by_hand():
    """1x1 convolutions 1 to 2 on 8x8, 2 to 4 on 4x4, 4 to 8 on 2x2, then pooled: 8 to ten classes."""
    meter = FlopMeter()
    trained(make_runtime(CNN, flops=meter), epochs=1)
    step = linear(BATCH * 64, 1, 2, input_gradient=False) + linear(BATCH * 16, 2, 4) + linear(BATCH * 4, 4, 8)
    step += linear(BATCH, 8, 10)
    assert meter.total == STEPS * step


def test_a_committed_convolution_adds_its_own_products():
    """A 3x3 convolution of two channels on the first 8x8 features: nine 2 by 2 products at 64 positions.

    The identity at birth hides it from the loss, but its weights and inputs have gradients.
    """
    alone, grown = FlopMeter(), FlopMeter()
    trained(make_runtime(CNN, flops=alone), epochs=1)
    runtime = make_runtime(CNN, flops=grown)
    runtime.plant([PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD)])
    trained(runtime, epochs=1)
    assert grown.total - alone.total == STEPS * linear(BATCH * 64, 9 * 2, 2)


def test_epochs_of_a_known_structure_use_the_cached_count(monkeypatch):
    meter = FlopMeter()
    runtime = trained(make_runtime(MLP, flops=meter), epochs=1)
    first = meter.total
    monkeypatch.setattr("esper_ray.tolaria.flops.FlopCounterMode", lambda **_: pytest.fail("counted again"))
    trained(runtime)
    assert meter.total == (1 + EPOCHS) * first


def counts_by_epoch(settings, blueprint, flops):
    """Counts by epoch of two seeds in one slot: germination, ramp, retarget or other operator, prune."""
    runtime, counts = make_runtime(settings, flops=flops), []
    style = int(GerminationStyle.LINEAR_ADD)
    birth = Action(LifecycleOp.GERMINATE, 0, int(blueprint), style, alpha_target=2)
    dim = Action(LifecycleOp.SET_ALPHA_TARGET, 0, style=style, alpha_target=0, alpha_speed=1)
    gated = Action(
        LifecycleOp.SET_ALPHA_TARGET, 0, style=int(GerminationStyle.GATED_GATE), alpha_target=2, alpha_speed=1
    )
    fade = Action(LifecycleOp.PRUNE, 0, alpha_speed=2)
    for _ in range(55):
        report = runtime.reports()[0]
        stage = None if report is None else report.stage
        if stage is None:
            runtime.execute(birth)
        elif report.alpha >= 0.5 and report.alpha_mode is AlphaMode.HOLD:
            change = dim if report.seed_id == "r0c0-1" else gated
            untouched = report.alpha == 1.0 and report.operator is BlendOperator.ADD
            runtime.execute(change if untouched else fade)
        runtime.tick()
        before = flops.total
        result = runtime.train()
        counts.append((stage, flops.total - before))
        runtime.judge(result.loss, result.gradients)
        runtime.epoch += 1
    return counts


class Recounting(FlopMeter):
    """Meter without cache, which counts every epoch."""

    def epoch(self, model):
        self._known = {}
        return super().epoch(model)


@pytest.mark.parametrize(
    ("settings", "blueprint"),
    rest_at_night([(CNN, Blueprint.CONV_LIGHT), (MLP, Blueprint.MLP_SMALL)]),
    ids=["cnn", "mlp"],
)
def test_cached_counts_equal_repeated_counts(settings, blueprint):
    settings = settings | {"growth.styles": ["linear_add", "gated_gate"], "training.steps_per_epoch": 1}
    looked_up = counts_by_epoch(settings, blueprint, FlopMeter())
    assert looked_up == counts_by_epoch(settings, blueprint, Recounting())
    assert len({count for _, count in looked_up}) >= 5
    assert {Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.EMBARGOED} <= {stage for stage, _ in looked_up}


@pytest.mark.parametrize("settings", [CNN, MLP], ids=["cnn", "mlp"])
def test_counting_does_not_change_what_is_learned(settings):
    counted, plain = (trained(make_runtime(settings, flops=flops)) for flops in (FlopMeter(), None))
    ours, theirs = (runtime.organism.model.state_dict() for runtime in (counted, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_failed_epoch_is_neither_counted_nor_cached():
    meter, runtime = FlopMeter(), make_runtime(MLP)
    with pytest.raises(ArithmeticError, match="boom"), meter.epoch(runtime.organism.model):
        raise ArithmeticError("boom")
    assert meter.total == 0.0
    with meter.epoch(runtime.organism.model):
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert meter.total == 2 * 2 * 3 * 4

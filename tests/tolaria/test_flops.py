"""Counted operations: by hand for small networks, looked up for structures that are known, and of no influence."""

import pytest
import torch

from esper_ray.leyline.actions import Action, AlphaMode, BlendOperator, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.stages import Stage
from esper_ray.runtime.host import HostRuntime, PlantedSeed
from esper_ray.tolaria.assembly import configured_host
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


def life_of(settings, seed=1, flops=None):
    config = build(read_preset("digits"), settings)
    device = torch.device("cpu")
    return HostRuntime(config, load_task(config.task, device), device, configured_host(config.host), seed, flops)


def played(life, epochs=EPOCHS):
    for _ in range(epochs):
        life.train()
        life.epoch += 1
    return life


def linear(batch, inputs, outputs, *, input_gradient=True):
    """Forwards and backwards: one product for the output, one for the weights, one for the inputs if they want it."""
    return 2 * batch * inputs * outputs * (3 if input_gradient else 2)


def test_a_tiny_mlp_by_hand():
    """64 pixels to width 6; two blocks of 6 to 12 and back; 6 to ten classes. The pixels want no gradient."""
    meter = FlopMeter()
    played(life_of(MLP, flops=meter), epochs=1)
    step = linear(BATCH, 64, 6, input_gradient=False)
    step += 2 * (linear(BATCH, 6, 12) + linear(BATCH, 12, 6)) + linear(BATCH, 6, 10)
    assert step == 4 * 4 * 64 * 6 + 6 * 4 * (4 * 72 + 60)
    assert meter.total == STEPS * step


def test_a_tiny_cnn_by_hand():
    """1x1 convolutions 1 to 2 on 8x8, 2 to 4 on 4x4, 4 to 8 on 2x2, then pooled: 8 to ten classes."""
    meter = FlopMeter()
    played(life_of(CNN, flops=meter), epochs=1)
    step = linear(BATCH * 64, 1, 2, input_gradient=False) + linear(BATCH * 16, 2, 4) + linear(BATCH * 4, 4, 8)
    step += linear(BATCH, 8, 10)
    assert meter.total == STEPS * step


def test_a_committed_convolution_adds_its_own_products():
    """A 3x3 convolution of two channels on the first 8x8 features: nine times 2 by 2 products at 64 places.

    The identity at birth hides it from the loss, yet its weights and its inputs are given gradients.
    """
    alone, grown = FlopMeter(), FlopMeter()
    played(life_of(CNN, flops=alone), epochs=1)
    life = life_of(CNN, flops=grown)
    life.plant([PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD)])
    played(life, epochs=1)
    assert grown.total - alone.total == STEPS * linear(BATCH * 64, 9 * 2, 2)


def test_epochs_of_a_known_structure_are_looked_up_and_cost_the_same(monkeypatch):
    meter = FlopMeter()
    life = played(life_of(MLP, flops=meter), epochs=1)
    first = meter.total
    monkeypatch.setattr("esper_ray.tolaria.flops.FlopCounterMode", lambda **_: pytest.fail("counted again"))
    played(life)
    assert meter.total == (1 + EPOCHS) * first


def lives(settings, blueprint, flops):
    """Two lives in one slot: birth, ramp, dimming, fading out; birth, another operator, fading out. Counts by epoch."""
    life, counts = life_of(settings, flops=flops), []
    style = int(GerminationStyle.LINEAR_ADD)
    birth = Action(LifecycleOp.GERMINATE, 0, int(blueprint), style, alpha_target=2)
    dim = Action(LifecycleOp.SET_ALPHA_TARGET, 0, style=style, alpha_target=0, alpha_speed=1)
    gated = Action(
        LifecycleOp.SET_ALPHA_TARGET, 0, style=int(GerminationStyle.GATED_GATE), alpha_target=2, alpha_speed=1
    )
    fade = Action(LifecycleOp.PRUNE, 0, alpha_speed=2)
    for _ in range(55):
        report = life.reports()[0]
        stage = None if report is None else report.stage
        if stage is None:
            life.execute(birth)
        elif report.alpha >= 0.5 and report.alpha_mode is AlphaMode.HOLD:
            change = dim if report.seed_id == "r0c0-1" else gated
            untouched = report.alpha == 1.0 and report.operator is BlendOperator.ADD
            life.execute(change if untouched else fade)
        life.tick()
        before = flops.total
        result = life.train()
        counts.append((stage, flops.total - before))
        life.judge(result)
        life.epoch += 1
    return counts


class Recounting(FlopMeter):
    """Counts every epoch anew."""

    def epoch(self, model):
        self._known = {}
        return super().epoch(model)


@pytest.mark.parametrize(
    ("settings", "blueprint"), [(CNN, Blueprint.CONV_LIGHT), (MLP, Blueprint.MLP_SMALL)], ids=["cnn", "mlp"]
)
def test_what_is_looked_up_is_what_would_be_counted(settings, blueprint):
    settings = settings | {"growth.styles": ["linear_add", "gated_gate"], "training.steps_per_epoch": 1}
    looked_up = lives(settings, blueprint, FlopMeter())
    assert looked_up == lives(settings, blueprint, Recounting())
    assert len({count for _, count in looked_up}) >= 5
    assert {Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.EMBARGOED} <= {stage for stage, _ in looked_up}


@pytest.mark.parametrize("settings", [CNN, MLP], ids=["cnn", "mlp"])
def test_counting_does_not_change_what_is_learnt(settings):
    counted, plain = (played(life_of(settings, flops=flops)) for flops in (FlopMeter(), None))
    ours, theirs = (life.organism.model.state_dict() for life in (counted, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_epoch_that_fails_is_neither_counted_nor_remembered():
    meter, life = FlopMeter(), life_of(MLP)
    with pytest.raises(ArithmeticError, match="boom"), meter.epoch(life.organism.model):
        raise ArithmeticError("boom")
    assert meter.total == 0.0
    with meter.epoch(life.organism.model):
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert meter.total == 2 * 2 * 3 * 4

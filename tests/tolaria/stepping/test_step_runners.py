"""Captured steps equal eager steps; the capture is simulated on the CPU."""

import math

import pytest
import torch

from esper_ray.leyline.stages import Stage
from esper_ray.tolaria.assembly import build_organism, build_trainer
from esper_ray.tolaria.stepping.step_runners import WARM_UP, CapturedRunner, EagerRunner
from esper_ray.tolaria.training import EpochSettings, Trainer

pytestmark = pytest.mark.integration

SETTINGS = EpochSettings(1.0, 1.0, 0.5)


def simulated_capture(work):
    """Simulated graph: repeats ``work`` on the present content of its inputs."""
    return work


def tensors(organism):
    return {name: tensor.clone() for name, tensor in organism.model.state_dict().items()}


def trained(organism, data, runner, rates=None):
    """Losses and tensors of eight epochs with a germination and a prune."""
    trainer = Trainer(organism, data, SETTINGS, runner)
    losses = []
    for epoch in range(8):
        if epoch == 2:
            organism.model.germinate("r0c1", "conv_light")
            organism.model.advance("r0c1")
        if epoch == 6:
            organism.model.prune("r0c1")
        losses.append(trainer.train(data.plan(3, epoch, 32, 5), rates and rates(organism, epoch)).loss)
    return losses, tensors(organism)


def test_captured_steps_equal_eager_steps_bit_for_bit(data, grow):
    runner = CapturedRunner(capture=simulated_capture)
    losses, state = trained(grow(seed=1), data, runner)
    expected, twin = trained(grow(seed=1), data, EagerRunner())
    assert losses == expected
    assert all(torch.equal(state[name], twin[name]) for name in twin)
    assert runner.captures == 3  # alone, with a seed that trains, and alone again


def test_a_graph_is_captured_once_for_each_structure_and_batch(data, grow):
    runner = CapturedRunner(capture=simulated_capture)
    organism = grow(seed=1)
    trainer = Trainer(organism, data, SETTINGS, runner)
    counts = []
    for batch, steps in ((32, 2), (32, 2), (32, 4), (32, 5), (16, 3), (16, 4)):
        trainer.train(data.plan(3, 0, batch, steps))
        counts.append(runner.captures)
    assert WARM_UP == 3
    assert counts == [0, 1, 1, 1, 1, 2]
    organism.model.germinate("r0c1", "norm")
    trainer.train(data.plan(3, 0, 16, 4))
    assert runner.captures == 3


def test_inputs_are_copied_into_the_captured_buffers(data):
    seen = []

    def step(rows, draws, rates):
        seen.append((rows.data_ptr(), rows.tolist(), rates.tolist()))

    runner = CapturedRunner(capture=simulated_capture)
    for k in range(6):
        rows = torch.tensor([k, k + 1])
        runner.run("key", step, rows, torch.empty(2, 0), torch.tensor([0.1 * k]))
    assert [rows for _, rows, _ in seen] == [[k, k + 1] for k in range(6)]
    assert len({place for place, _, _ in seen}) == 1
    assert seen[5][2] == pytest.approx([0.5])


def test_learning_rates_reach_captured_steps(data, grow):
    def falling(organism, epoch):
        return {name: [0.1 / (1 + epoch + step) for step in range(5)] for name in organism.optimizer.group_names}

    losses, state = trained(grow(seed=1), data, CapturedRunner(capture=simulated_capture), falling)
    expected, twin = trained(grow(seed=1), data, EagerRunner(), falling)
    assert losses == pytest.approx(expected, rel=1e-4)  # rates are float32 there
    assert losses != trained(grow(seed=1), data, EagerRunner())[0]
    for name in twin:
        assert torch.allclose(state[name].float(), twin[name].float(), rtol=1e-3, atol=1e-4), name


@pytest.mark.gpu
def test_a_captured_graph_equals_eager_steps_on_a_gpu(config, data):
    from esper_ray.tolaria.tasks import load_task

    device = torch.device("cuda:0")
    gpu = load_task(config.task, device)
    results = []
    for runner in (EagerRunner(), CapturedRunner()):
        organism = build_organism(config, gpu, device, 1)
        results.append(trained(organism, gpu, runner))
    (eager, _), (captured, _) = results
    assert captured == pytest.approx(eager, rel=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["off", "captured"])
def test_an_epoch_synchronises_with_the_device_once(config, mode):
    """Torch raises at every synchronisation except during the read-out at the end."""
    from esper_ray.leyline.config.loading import build
    from esper_ray.tolaria.tasks import load_task

    device = torch.device("cuda:0")
    chosen = build(config.model_dump(), {"training.compile_mode": mode})
    gpu = load_task(chosen.task, device)
    organism = build_organism(chosen, gpu, device, 1)
    trainer = build_trainer(chosen, organism, gpu)
    organism.model.germinate("r0c1", "conv_light")
    organism.model.advance("r0c1")
    trainer.train(gpu.plan(0, 0, 64, 6))
    collect, waits = trainer._collect, []

    def counted(*args):
        torch.cuda.set_sync_debug_mode("default")
        waits.append(1)
        return collect(*args)

    trainer._collect = counted
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = trainer.train(gpu.plan(0, 1, 64, 6))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(result.loss)
    assert waits == [1]


def test_the_structure_key_depends_on_amplitude_zero_only(grow):
    """The key changes when the amplitude leaves zero, and not with its later values."""
    organism = grow(seed=1, r0c1=(Stage.TRAINING, 0.0))
    growth = organism.model.growth
    keys = [growth.structure()]
    for alpha in (0.0, 0.2, 0.4):
        organism.model.cell("r0c1").alpha.fill_(alpha)
        organism.model.cell("r0c1").open = alpha > 0
        keys.append(growth.structure())
    assert keys[0] == keys[1] != keys[2] == keys[3]

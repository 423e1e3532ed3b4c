"""EpisodeRuntime without a policy: the rest of an episode, and planted seeds."""

import pytest
import torch

from esper_ray.environment import make_environment
from esper_ray.leyline.actions import WAIT, BlendOperator, Blueprint, GerminationStyle
from esper_ray.leyline.blueprints import Topology, seed_parameter_count
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.stages import Stage
from esper_ray.runtime.control import NoGrowthBaseline
from esper_ray.runtime.host import EpisodeRuntime, PlantedSeed
from esper_ray.tolaria.assembly import ConfiguredHost
from esper_ray.tolaria.governor import HealthVerdict
from esper_ray.tolaria.tasks import load_task

pytestmark = pytest.mark.integration

SMALL = {
    "episode_length": 6,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 50,
    "task.test_size": 50,
}
STYLES = list(GerminationStyle)


def config_of(**changes):
    return build(read_preset("digits"), SMALL | {key.replace("__", "."): value for key, value in changes.items()})


def runtime_of(config, seed=3):
    device = torch.device("cpu")
    return EpisodeRuntime(config, load_task(config.task, device), device, ConfiguredHost(config.host), seed)


def weights(runtime):
    return {name: tensor.clone() for name, tensor in runtime.organism.model.named_parameters()}


def equal(ours, expected):
    return ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)


def idle(env, seed):
    """An episode of WAIT; accuracies after every step."""
    env.reset(seed=seed)
    accuracies, over = [], False
    while not over:
        _, _, terminated, truncated, _ = env.step(WAIT.to_indices())
        accuracies.append(env.measured.accuracy_pp)
        over = terminated or truncated
    return accuracies


def test_running_without_policy_equals_stepping_with_wait():
    env = make_environment("digits", SMALL)
    waited = idle(env, seed=3)
    runtime = runtime_of(env.config)
    assert [measured.accuracy_pp for measured in runtime.run_without_policy()] == waited
    assert equal(weights(runtime), weights(env.runtime))
    assert (runtime.epoch, runtime.health.rollbacks) == (6, 0)
    assert runtime.test_measurement() == env.test_measurement()


def test_running_without_policy_gives_the_no_growth_baseline():
    config = config_of()
    runtime = runtime_of(config, seed=9)
    curve = NoGrowthBaseline(config, runtime.data, runtime.device, ConfiguredHost(config.host)).curve(9)
    assert curve == (
        runtime.health.first_accuracy_pp,
        *(measured.accuracy_pp for measured in runtime.run_without_policy()),
    )


def test_running_without_policy_continues_from_the_present_epoch():
    runtime, straight = runtime_of(config_of()), runtime_of(config_of())
    begun = runtime.run_without_policy()
    first = [next(begun), next(begun)]
    assert runtime.epoch == 2
    rest = list(runtime.run_without_policy())
    assert [*first, *rest] == list(straight.run_without_policy())
    assert list(runtime.run_without_policy()) == []


def test_a_panic_is_rolled_back_and_counted_and_training_continues(monkeypatch):
    runtime = runtime_of(config_of(governor__snapshot_every=1))
    judge = type(runtime.health.governor).judge

    def nervous(governor, *measured):
        verdict = judge(governor, *measured)
        return HealthVerdict(True, False, "nerves", 1.0, 0.0) if runtime.epoch == 3 else verdict

    monkeypatch.setattr(type(runtime.health.governor), "judge", nervous)
    trained = [(measured, weights(runtime)) for measured in runtime.run_without_policy()]
    assert runtime.health.rollbacks == 1
    assert runtime.epoch == len(trained) == 6
    assert trained[3][0] == trained[2][0]
    assert equal(trained[3][1], trained[2][1])
    assert not equal(trained[4][1], trained[3][1])


def test_planted_seeds_are_committed_and_counted_in_their_slots():
    runtime = runtime_of(config_of())
    alone = runtime.total_parameters
    runtime.plant(
        [
            PlantedSeed("r0c1", "depthwise", GerminationStyle.LINEAR_ADD),
            PlantedSeed("r0c0", "conv_light", GerminationStyle.GATED_GATE),
        ]
    )
    first, second, third = runtime.reports()
    assert third is None
    assert (first.blueprint, first.operator, second.blueprint) == (
        Blueprint.CONV_LIGHT,
        BlendOperator.GATE,
        Blueprint.DEPTHWISE,
    )
    for report in (first, second):
        assert (report.stage, report.alpha, report.alpha_target) == (Stage.FOSSILIZED, 1.0, 1.0)
    assert first.parameters == seed_parameter_count(Topology.IMAGES, Blueprint.CONV_LIGHT, 2, BlendOperator.GATE)
    assert second.parameters == seed_parameter_count(Topology.IMAGES, Blueprint.DEPTHWISE, 4, BlendOperator.ADD)
    assert runtime.total_parameters == alone + first.parameters + second.parameters
    assert runtime.total_parameters == sum(p.numel() for p in runtime.organism.model.parameters())


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.id)
def test_a_planted_network_starts_with_the_output_of_the_host(style):
    runtime, host = runtime_of(config_of()), runtime_of(config_of())
    runtime.plant([PlantedSeed(f"r0c{i}", "conv_light", style) for i in range(3)])
    assert runtime.health.first_accuracy_pp == runtime.measured.accuracy_pp == host.health.first_accuracy_pp
    assert runtime.measured.loss == pytest.approx(host.measured.loss)
    assert set(runtime.measured.players) == {"r0c0", "r0c1", "r0c2"}


@pytest.mark.parametrize("freeze", [False, True], ids=["trained", "frozen"])
def test_planted_seeds_train_with_the_host_also_if_later_fossils_are_frozen(freeze):
    runtime = runtime_of(config_of(growth__freeze_fossils=freeze, episode_length=3))
    runtime.plant([PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD)])
    before = weights(runtime)
    list(runtime.run_without_policy())
    after = weights(runtime)
    seed = [name for name in before if "cells.r0c0.seed" in name]
    assert seed
    assert all(not torch.equal(before[name], after[name]) for name in seed)
    assert any(not torch.equal(before[name], after[name]) for name in before.keys() - set(seed))


def test_a_planted_runtime_is_a_function_of_its_seed():
    def trained(seed):
        runtime = runtime_of(config_of(), seed)
        runtime.plant([PlantedSeed("r0c2", "bottleneck", GerminationStyle.LINEAR_ADD)])
        return list(runtime.run_without_policy()), weights(runtime)

    (accuracies, final), (repeated, repeated_final) = trained(5), trained(5)
    assert accuracies == repeated
    assert equal(final, repeated_final)
    assert trained(6)[0] != accuracies


def test_a_panic_in_the_first_epochs_restores_the_planted_network():
    runtime = runtime_of(config_of())
    runtime.plant([PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD)])
    before = weights(runtime)
    runtime.train()
    assert not equal(weights(runtime), before)
    runtime.roll_back(HealthVerdict(True, False, "nerves", 1.0, 0.0))
    assert equal(weights(runtime), before)
    assert runtime.reports()[0].stage is Stage.FOSSILIZED


def test_a_network_without_planted_seeds_is_the_host():
    runtime, host = runtime_of(config_of()), runtime_of(config_of())
    runtime.plant([])
    assert list(runtime.run_without_policy()) == list(host.run_without_policy())


def test_planting_after_the_start_or_in_an_unknown_slot_is_refused():
    runtime = runtime_of(config_of())
    with pytest.raises(ValueError, match=r"unknown slot 'r9c9'.*\(known: r0c0, r0c1, r0c2\)"):
        runtime.plant([PlantedSeed("r9c9", "norm", GerminationStyle.LINEAR_ADD)])
    assert runtime.reports() == (None, None, None)
    next(runtime.run_without_policy())
    with pytest.raises(ValueError, match="can be planted before the first epoch only, not after 1 epochs"):
        runtime.plant([PlantedSeed("r0c0", "norm", GerminationStyle.LINEAR_ADD)])
    assert runtime.reports() == (None, None, None)

"""Lives that nobody steers: the rest of an episode by itself, and seeds that are there from the start."""

import pytest
import torch

from esper_ray.environment import make_environment
from esper_ray.leyline.actions import WAIT, BlendOperator, Blueprint, GerminationStyle
from esper_ray.leyline.blueprints import Topology, seed_parameter_count
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.stages import Stage
from esper_ray.runtime.control import NoGrowthBaseline
from esper_ray.runtime.host import HostRuntime, PlantedSeed
from esper_ray.tolaria.assembly import configured_host
from esper_ray.tolaria.governor import HealthVerdict
from esper_ray.tolaria.tasks import load_task

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


def life_of(config, seed=3):
    device = torch.device("cpu")
    return HostRuntime(config, load_task(config.task, device), device, configured_host(config.host), seed)


def weights(life):
    return {name: tensor.clone() for name, tensor in life.organism.model.named_parameters()}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def idle(env, seed):
    """An episode of WAIT; accuracies after every step."""
    env.reset(seed=seed)
    accuracies, over = [], False
    while not over:
        _, _, terminated, truncated, _ = env.step(WAIT.to_indices())
        accuracies.append(env.measured.accuracy_pp)
        over = terminated or truncated
    return accuracies


def test_living_alone_is_stepping_with_wait():
    env = make_environment("digits", SMALL)
    waited = idle(env, seed=3)
    life = life_of(env.config)
    assert [measured.accuracy_pp for measured in life.live_alone()] == waited
    assert equal(weights(life), weights(env.life))
    assert (life.epoch, life.rollbacks) == (6, 0)
    assert life.test_measurement() == env.test_measurement()


def test_living_alone_is_the_control_curve():
    config = config_of()
    life = life_of(config, seed=9)
    curve = NoGrowthBaseline(config, life.data, life.device, configured_host(config.host)).of(9)
    assert curve == (life.first_accuracy_pp, *(measured.accuracy_pp for measured in life.live_alone()))


def test_living_alone_goes_on_from_wherever_a_life_stands():
    life, straight = life_of(config_of()), life_of(config_of())
    begun = life.live_alone()
    first = [next(begun), next(begun)]
    assert life.epoch == 2
    rest = list(life.live_alone())
    assert [*first, *rest] == list(straight.live_alone())
    assert list(life.live_alone()) == []


def test_a_panic_is_undone_and_counted_and_life_goes_on(monkeypatch):
    life = life_of(config_of(governor__snapshot_every=1))
    judge = type(life.governor).judge

    def nervous(governor, *measured):
        verdict = judge(governor, *measured)
        return HealthVerdict(True, False, "nerves", 1.0, 0.0) if life.epoch == 3 else verdict

    monkeypatch.setattr(type(life.governor), "judge", nervous)
    trained = [(measured, weights(life)) for measured in life.live_alone()]
    assert life.rollbacks == 1
    assert life.epoch == len(trained) == 6
    assert trained[3][0] == trained[2][0]
    assert equal(trained[3][1], trained[2][1])
    assert not equal(trained[4][1], trained[3][1])


def test_planted_seeds_are_committed_counted_and_where_they_should_be():
    life = life_of(config_of())
    alone = life.total_parameters
    life.begin_grown(
        [
            PlantedSeed("r0c1", "depthwise", GerminationStyle.LINEAR_ADD),
            PlantedSeed("r0c0", "conv_light", GerminationStyle.GATED_GATE),
        ]
    )
    first, second, third = life.reports()
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
    assert life.total_parameters == alone + first.parameters + second.parameters
    assert life.total_parameters == sum(p.numel() for p in life.organism.model.parameters())


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.id)
def test_a_planted_network_begins_where_the_host_does(style):
    life, host = life_of(config_of()), life_of(config_of())
    life.begin_grown([PlantedSeed(f"r0c{i}", "conv_light", style) for i in range(3)])
    assert life.first_accuracy_pp == life.measured.accuracy_pp == host.first_accuracy_pp
    assert life.measured.loss == pytest.approx(host.measured.loss)
    assert set(life.measured.players) == {"r0c0", "r0c1", "r0c2"}


@pytest.mark.parametrize("freeze", [False, True], ids=["trained", "frozen"])
def test_planted_seeds_are_trained_with_the_host_whatever_happens_to_later_fossils(freeze):
    life = life_of(config_of(growth__freeze_fossils=freeze, episode_length=3))
    life.begin_grown([PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD)])
    before = weights(life)
    list(life.live_alone())
    after = weights(life)
    seed = [name for name in before if "cells.r0c0.seed" in name]
    assert seed
    assert all(not torch.equal(before[name], after[name]) for name in seed)
    assert any(not torch.equal(before[name], after[name]) for name in before.keys() - set(seed))


def test_a_planted_life_is_a_function_of_its_seed():
    def lived(seed):
        life = life_of(config_of(), seed)
        life.begin_grown([PlantedSeed("r0c2", "bottleneck", GerminationStyle.LINEAR_ADD)])
        return list(life.live_alone()), weights(life)

    (ours, final), (again, same) = lived(5), lived(5)
    assert ours == again
    assert equal(final, same)
    assert lived(6)[0] != ours


def test_a_panic_in_the_first_epochs_goes_back_to_the_planted_network():
    life = life_of(config_of())
    life.begin_grown([PlantedSeed("r0c0", "conv_light", GerminationStyle.LINEAR_ADD)])
    before = weights(life)
    life.train()
    assert not equal(weights(life), before)
    life.roll_back(HealthVerdict(True, False, "nerves", 1.0, 0.0))
    assert equal(weights(life), before)
    assert life.reports()[0].stage is Stage.FOSSILIZED


def test_nothing_planted_is_the_host():
    life, host = life_of(config_of()), life_of(config_of())
    life.begin_grown([])
    assert list(life.live_alone()) == list(host.live_alone())


def test_seeds_from_the_start_are_refused_afterwards_and_where_there_is_no_slot():
    life = life_of(config_of())
    with pytest.raises(ValueError, match=r"unknown slot 'r9c9'.*\(known: r0c0, r0c1, r0c2\)"):
        life.begin_grown([PlantedSeed("r9c9", "norm", GerminationStyle.LINEAR_ADD)])
    assert life.reports() == (None, None, None)
    next(life.live_alone())
    with pytest.raises(ValueError, match="can be there from the start only, not after 1 epochs"):
        life.begin_grown([PlantedSeed("r0c0", "norm", GerminationStyle.LINEAR_ADD)])
    assert life.reports() == (None, None, None)

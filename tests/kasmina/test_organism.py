"""Organism: consistency of model and optimizer over every operation."""

import random

import numpy as np
import pytest
import torch
from kasmina_builders import SLOTS, WORTHY, fingerprint, germinate, grow, make_organism, order, train
from torch import nn

from esper_ray.kasmina.blueprints import register_blueprint, unregister_blueprint
from esper_ray.kasmina.lifecycle.reducer import Advance, Fossilize, Prune, SetAlphaTarget, StageChanged
from esper_ray.kasmina.modules import count_parameters
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.leyline.actions import AlphaMode, BlendOperator, Blueprint
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.records import UNMEASURED
from esper_ray.leyline.stages import Stage


def assert_consistent(organism):
    optimized = [id(parameter) for parameter in organism.optimizer.parameters()]
    trainable = [id(parameter) for parameter in organism.model.parameters() if parameter.requires_grad]
    assert len(optimized) == len(set(optimized))
    assert set(optimized) == set(trainable)
    for slot in organism.model.slot_ids:
        state, cell = organism.model.states[slot], organism.model.cell(slot)
        assert cell.stage is (Stage.DORMANT if state is None else state.stage)
        assert cell.alpha.item() == (0.0 if state is None else pytest.approx(state.alpha.alpha))


def weights(organism, slot):
    return {name: tensor.clone() for name, tensor in organism.model.cell(slot).seed.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_optimizer_holds_exactly_the_trainable_parameters_after_every_operation(freeze):
    organism = make_organism(options=GrowthOptions(freeze))
    assert_consistent(organism)
    for slot in ("r0c0", "r0c1"):
        germinate(organism, slot)
        assert_consistent(organism)
        for _ in range(2):
            order(organism, slot, Advance())
            assert_consistent(organism)
            train(organism, 1)
        organism.model.tick()
        order(organism, slot, Advance())
        assert_consistent(organism)
    order(organism, "r0c0", Fossilize())
    assert_consistent(organism)
    assert organism.optimizer.group_names == ["host", "r0c1"]
    order(organism, "r0c1", Prune(3))
    assert_consistent(organism)
    for _ in range(10):
        organism.model.tick()
        organism.model.growth.count_epoch()
        assert_consistent(organism)
    assert organism.model.states["r0c1"] is None
    assert organism.optimizer.group_names == ["host"]


def test_an_instant_prune_frees_the_module_at_once():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    train(organism, 2)
    order(organism, "r0c0", Prune(0))
    assert organism.model.cell("r0c0").seed is None
    assert organism.model.states["r0c0"].stage is Stage.PRUNED
    assert organism.model.seed_parameters("r0c0") == 0
    assert_consistent(organism)


def test_a_scheduled_prune_frees_the_module_on_the_tick_that_reaches_zero():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    order(organism, "r0c0", Prune(3))
    held = []
    for _ in range(3):
        organism.model.tick()
        held.append(organism.model.cell("r0c0").seed is not None)
    assert held == [True, True, False]
    assert_consistent(organism)


def test_momentum_survives_fossilization():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    train(organism, 3)
    seed = organism.model.cell("r0c0").seed
    before = [
        organism.optimizer.parameter_state(parameter)["momentum_buffer"].clone() for parameter in seed.parameters()
    ]
    assert all(buffer.abs().max() > 0 for buffer in before)
    order(organism, "r0c0", Fossilize())
    after = [organism.optimizer.parameter_state(parameter)["momentum_buffer"] for parameter in seed.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    values = weights(organism, "r0c0")
    train(organism, 1)
    assert not same(values, weights(organism, "r0c0"))


def test_a_frozen_fossil_still_changes_the_output_and_no_longer_learns():
    organism = make_organism(options=GrowthOptions(True))
    grow(organism, "r0c0", Stage.HOLDING)
    train(organism, 3)
    order(organism, "r0c0", Fossilize())
    values, count = weights(organism, "r0c0"), organism.model.seed_parameters("r0c0")
    train(organism, 2)
    assert same(values, weights(organism, "r0c0"))
    assert organism.model.cell("r0c0").contributes
    assert count == organism.model.seed_parameters("r0c0") == 9 * 4 * 4 + 3 * 4


def widening(shape):
    return nn.Conv2d(shape.channels, shape.channels + 1, 1)


class Talking(nn.Module):
    def forward(self, h):
        return h, h


def talking(shape):
    return Talking()


def meddling(shape):
    return nn.ReLU(inplace=True)


def lonely(shape):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(4, 4), nn.Upsample(size=8))


def exploding(shape):
    raise RuntimeError("no memory left")


def without_value(shape):
    layer = nn.Conv2d(shape.channels, shape.channels, 1)
    nn.init.constant_(layer.weight, float("nan"))
    return layer


@pytest.fixture
def own_blueprint():
    """Registers one own body for images until the end of the test."""

    def register(build):
        register_blueprint("own", Topology.IMAGES, build)

    yield register
    unregister_blueprint("own", Topology.IMAGES)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (exploding, RuntimeError, "no memory left"),
        (widening, ValueError, r"slot r0c0: the seed turns \(2, 4, 8, 8\) into \(2, 5, 8, 8\); it must keep the shape"),
        (talking, ValueError, r"slot r0c0: the seed turns \(2, 4, 8, 8\) into a tuple"),
        (meddling, ValueError, "slot r0c0: the seed works in place, on features that belong to the host"),
        (lonely, ValueError, r"slot r0c0: the seed cannot work on features \(1, 4, 8, 8\): Expected more than 1 value"),
        (without_value, ValueError, "slot r0c0: the seed is not the identity at birth"),
    ],
)
def test_a_germination_that_fails_changes_nothing(own_blueprint, build, error, message):
    own_blueprint(build)
    organism = make_organism()
    grow(organism, "r0c1", Stage.TRAINING)
    train(organism, 2)
    before, rng = fingerprint(organism), torch.get_rng_state()
    modules, events = [id(module) for module in organism.model.modules()], list(organism.model.events)
    with pytest.raises(error, match=message):
        organism.model.germinate("r0c0", "own")
    assert fingerprint(organism) == before
    assert [id(module) for module in organism.model.modules()] == modules
    assert organism.model.events == events
    assert organism.model.growth.next_seed_id("r0c0") == "r0c0-1"
    assert torch.equal(torch.get_rng_state(), rng)
    germinate(organism, "r0c0")
    assert_consistent(organism)


def test_a_germination_that_the_optimizer_refuses_changes_nothing(monkeypatch):
    def refuse(groups):
        raise RuntimeError("no room")

    organism = make_organism()
    before = fingerprint(organism)
    with monkeypatch.context() as patch:
        patch.setattr(organism.optimizer, "arrange", refuse)
        with pytest.raises(RuntimeError, match="no room"):
            organism.model.germinate("r0c0", "norm")
    assert fingerprint(organism) == before
    assert organism.model.cell("r0c0").seed is None
    assert_consistent(organism)


def test_a_blueprint_that_images_lack_changes_nothing():
    organism = make_organism()
    before = fingerprint(organism)
    with pytest.raises(ValueError, match=r"'lora' is built for sequences .* not for images; choices for images:"):
        organism.model.germinate("r0c0", "lora")
    assert fingerprint(organism) == before


@pytest.mark.parametrize("command", [Advance(), Fossilize(), Prune(3), SetAlphaTarget(0.5, 3)])
def test_a_refused_command_has_no_success_and_changes_nothing(command):
    organism = make_organism()
    before = fingerprint(organism)
    assert not organism.model.execute("r0c0", command, WORTHY).success
    assert fingerprint(organism) == before


def test_a_failed_gate_has_no_success():
    organism = make_organism()
    grow(organism, "r0c0", Stage.TRAINING)
    outcome = organism.model.execute("r0c0", Advance(), UNMEASURED)
    assert not outcome.success
    assert organism.model.states["r0c0"].stage is Stage.TRAINING


def test_germination_does_not_change_the_global_generators():
    organism = make_organism()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    grow(organism, "r0c0", Stage.FOSSILIZED)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_the_weights_of_a_seed_depend_on_seed_slot_and_count_only():
    first, second = make_organism(), make_organism(host_seed=2)
    for slot in ("r0c0", "r0c1"):
        germinate(first, slot)
    torch.manual_seed(99)
    for slot in ("r0c1", "r0c0"):
        germinate(second, slot)
        train(second, 1)
    third = make_organism()
    for slot in ("r0c0", "r0c1"):
        germinate(third, slot)
        assert same(weights(first, slot), weights(third, slot))
    germinated = make_organism(host_seed=2)
    germinate(germinated, "r0c1")
    assert same(weights(first, "r0c1"), weights(germinated, "r0c1"))


def test_another_organism_seed_slot_or_count_gives_other_weights():
    organism, reseeded = make_organism(), make_organism(seed=8)
    germinate(organism, "r0c0")
    germinate(organism, "r1c0")  # as wide as r0c0
    germinate(reseeded, "r0c0")
    first = weights(organism, "r0c0")
    order(organism, "r0c0", Prune(0))
    for _ in range(7):
        organism.model.tick()
        organism.model.growth.count_epoch()
    assert organism.model.growth.next_seed_id("r0c0") == "r0c0-2"
    germinate(organism, "r0c0")
    drawn_weights = [first, weights(organism, "r1c0"), weights(reseeded, "r0c0"), weights(organism, "r0c0")]
    assert len({tuple(w["body.0.weight"].flatten().tolist()) for w in drawn_weights}) == 4


def test_a_tick_reports_the_slots_with_events():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    germinate(organism, "r0c1")
    order(organism, "r0c1", Prune(0))
    events = organism.model.tick()
    assert set(events) == {"r0c1"}
    assert [e.target for e in events["r0c1"] if isinstance(e, StageChanged)] == [Stage.EMBARGOED]


def test_an_elapsed_epoch_is_counted_once_for_every_occupied_slot():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    germinate(organism, "r1c0")
    organism.model.growth.count_epoch()
    assert [None if s is None else (s.ticks_in_stage, s.age) for s in organism.model.states.values()] == [
        (1, 1),
        None,
        (1, 1),
    ]


def test_a_report_has_the_lifecycle_state_of_the_seed():
    organism = make_organism()
    assert organism.model.report("r0c0", UNMEASURED) is None
    germinate(organism, "r0c0", "norm", tempo=5)
    order(organism, "r0c0", Advance())
    order(organism, "r0c0", Advance())
    organism.model.tick()
    report = organism.model.report("r0c0", WORTHY)
    assert (report.slot_id, report.seed_id, report.blueprint) == ("r0c0", "r0c0-1", Blueprint.NORM)
    assert (report.stage, report.previous_stage) == (Stage.BLENDING, Stage.TRAINING)
    assert (report.alpha, report.alpha_target, report.alpha_velocity) == pytest.approx((0.2, 1.0, 0.2))
    assert (report.alpha_mode, report.ramp_total, report.ramp_done, report.tempo) == (AlphaMode.UP, 5, 1, 5)
    assert (report.operator, report.parameters, report.measured) == (BlendOperator.ADD, 12, WORTHY)


def test_host_parameters_are_counted_without_seeds():
    organism = make_organism()
    expected = count_parameters(organism.model.host)
    for slot in SLOTS:
        germinate(organism, slot)
    assert organism.model.host_parameters == count_parameters(organism.model.host) == expected


def test_the_weights_of_a_seed_do_not_depend_on_the_other_slots():
    wide, narrow = make_organism(), make_organism(slots=("r0c1", "r1c0"))
    for organism in (wide, narrow):
        germinate(organism, "r0c1")
    assert same(weights(wide, "r0c1"), weights(narrow, "r0c1"))

"""Snapshots of an organism: exact restore and independence from later changes."""

import pytest
import torch
from kasmina_builders import (
    HOST_OPTIONS,
    READY,
    fingerprint,
    germinate,
    grow,
    images,
    make_host,
    make_organism,
    order,
    train,
)

from esper_ray.kasmina.lifecycle.reducer import Fossilize, Prune, SetAlphaTarget
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.stages import Stage


def grown_organism(**options):
    """A fossil, a fading seed and a seed in training, all with momentum."""
    organism = make_organism(**options)
    grow(organism, "r0c0", Stage.HOLDING)
    train(organism, 2)
    order(organism, "r0c0", Fossilize())
    grow(organism, "r1c0", Stage.HOLDING, "norm")
    grow(organism, "r0c1", Stage.TRAINING, "depthwise")
    train(organism, 3)
    order(organism, "r1c0", Prune(5))
    organism.model.tick()
    return organism


def change_everything(organism):
    """Prune, grow, commit and train, so that every part of the state changes."""
    organism.model.execute("r0c1", Prune(0))
    organism.model.execute("r1c0", Prune(0))
    for _ in range(7):
        organism.model.tick()
        organism.model.growth.count_epoch()
    grow(organism, "r1c0", Stage.FOSSILIZED)
    germinate(organism, "r0c1", "bottleneck")
    train(organism, 4, seed=77)


@pytest.mark.parametrize("freeze", [False, True])
def test_restoring_resets_structure_weights_groups_and_momentum(freeze):
    organism = grown_organism(options=GrowthOptions(freeze))
    snapshot, before = organism.snapshot(), fingerprint(organism)
    assert before["optimizer"]
    change_everything(organism)
    assert fingerprint(organism) != before
    organism.restore(snapshot)
    assert fingerprint(organism) == before


@pytest.mark.parametrize("freeze", [False, True])
def test_a_restored_organism_continues_bit_for_bit_as_an_undisturbed_one(freeze):
    undisturbed, disturbed = (
        grown_organism(options=GrowthOptions(freeze)),
        grown_organism(options=GrowthOptions(freeze)),
    )
    assert fingerprint(undisturbed) == fingerprint(disturbed)
    snapshot = disturbed.snapshot()
    change_everything(disturbed)
    disturbed.restore(snapshot)
    futures = []
    for organism in (undisturbed, disturbed):
        losses = train(organism, 3, seed=5)
        for _ in range(12):
            organism.model.tick()
            organism.model.growth.count_epoch()
        germinate(organism, "r1c0")
        losses += train(organism, 2, seed=6)
        futures.append((losses, fingerprint(organism)))
    assert futures[0] == futures[1]


def test_a_snapshot_is_unchanged_by_training_and_restoring():
    organism = grown_organism()
    snapshot, before = organism.snapshot(), fingerprint(organism)
    for seed in (1, 2):
        train(organism, 2, seed=seed)
        order(organism, "r0c1", Prune(0)) if seed == 1 else None
        organism.restore(snapshot)
        assert fingerprint(organism) == before


def test_a_snapshot_restores_into_a_fresh_organism():
    grown, fresh = grown_organism(), make_organism(host_seed=5)
    fresh.restore(grown.snapshot())
    assert fingerprint(fresh) == fingerprint(grown)
    assert train(fresh, 3, seed=9) == train(grown, 3, seed=9)
    x = images(4)
    assert torch.equal(fresh.model.eval()(x), grown.model.eval()(x))


def test_a_snapshot_of_an_untrained_organism_has_no_momentum_and_restoring_drops_it():
    organism = make_organism()
    snapshot = organism.snapshot()
    assert snapshot.optimizer == {}
    train(organism, 2)
    organism.restore(snapshot)
    assert all(organism.optimizer.parameter_state(p) == {} for p in organism.optimizer.parameters())


def test_germination_counts_are_restored_so_that_the_next_seed_is_the_same():
    organism = make_organism()
    snapshot = organism.snapshot()
    initial_weights = []
    for _ in range(2):
        germinate(organism, "r0c0")
        initial_weights.append(organism.model.cell("r0c0").seed.body[0].weight.tolist())
        organism.restore(snapshot)
        assert organism.model.growth.next_seed_id("r0c0") == "r0c0-1"
    assert initial_weights[0] == initial_weights[1]


def test_ramps_and_cooldowns_continue_after_a_restore():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    order(organism, "r0c0", SetAlphaTarget(0.5, 5))
    organism.model.tick()
    germinate(organism, "r0c1")
    order(organism, "r0c1", Prune(0))
    snapshot = organism.snapshot()
    expected = [(organism.model.tick(), fingerprint(organism)) for _ in range(4)]
    organism.restore(snapshot)
    assert [(organism.model.tick(), fingerprint(organism)) for _ in range(4)] == expected


def test_restoring_does_not_change_the_global_generator():
    organism = grown_organism()
    snapshot, rng = organism.snapshot(), torch.get_rng_state()
    organism.restore(snapshot)
    assert torch.equal(torch.get_rng_state(), rng)


def test_frozen_layers_of_a_host_stay_frozen_after_a_restore():
    host = make_host()
    host.blocks[0].requires_grad_(False)
    model = MorphogeneticModel.wrap(host, {"r0c1": "blocks.1"}, images(2), rules=READY)
    organism = Organism(model, GrowingOptimizer(model, **HOST_OPTIONS))
    grow(organism, "r0c1", Stage.TRAINING)
    organism.restore(organism.snapshot())
    frozen = {name for name, parameter in host.named_parameters() if not parameter.requires_grad}
    assert frozen == {"blocks.0.0.weight", "blocks.0.1.weight", "blocks.0.1.bias"}

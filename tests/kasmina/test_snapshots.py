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
from esper_ray.kasmina.network.growth import GrowthOptions
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.stages import Stage


def lively(**options):
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


def upheaval(organism):
    """Kill, grow, commit and train until nothing is as it was."""
    organism.model.execute("r0c1", Prune(0))
    organism.model.execute("r1c0", Prune(0))
    for _ in range(7):
        organism.model.tick()
        organism.model.epoch_elapsed()
    grow(organism, "r1c0", Stage.FOSSILIZED)
    germinate(organism, "r0c1", "bottleneck")
    train(organism, 4, seed=77)


@pytest.mark.parametrize("freeze", [False, True])
def test_restoring_brings_back_structure_weights_groups_and_momentum(freeze):
    organism = lively(options=GrowthOptions(freeze))
    snapshot, before = organism.snapshot(), fingerprint(organism)
    assert before["optimizer"]
    upheaval(organism)
    assert fingerprint(organism) != before
    organism.restore(snapshot)
    assert fingerprint(organism) == before


@pytest.mark.parametrize("freeze", [False, True])
def test_a_restored_organism_goes_on_bit_by_bit_as_one_that_was_never_disturbed(freeze):
    calm, disturbed = lively(options=GrowthOptions(freeze)), lively(options=GrowthOptions(freeze))
    assert fingerprint(calm) == fingerprint(disturbed)
    snapshot = disturbed.snapshot()
    upheaval(disturbed)
    disturbed.restore(snapshot)
    futures = []
    for organism in (calm, disturbed):
        losses = train(organism, 3, seed=5)
        for _ in range(12):
            organism.model.tick()
            organism.model.epoch_elapsed()
        germinate(organism, "r1c0")
        losses += train(organism, 2, seed=6)
        futures.append((losses, fingerprint(organism)))
    assert futures[0] == futures[1]


def test_a_snapshot_is_a_copy_that_training_and_restoring_do_not_touch():
    organism = lively()
    snapshot, before = organism.snapshot(), fingerprint(organism)
    for seed in (1, 2):
        train(organism, 2, seed=seed)
        order(organism, "r0c1", Prune(0)) if seed == 1 else None
        organism.restore(snapshot)
        assert fingerprint(organism) == before


def test_a_snapshot_moves_into_a_fresh_organism():
    grown, fresh = lively(), make_organism(host_seed=5)
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
    drawn = []
    for _ in range(2):
        germinate(organism, "r0c0")
        drawn.append(organism.model.cell("r0c0").seed.body[0].weight.tolist())
        organism.restore(snapshot)
        assert organism.model.growth.next_seed_id("r0c0") == "r0c0-1"
    assert drawn[0] == drawn[1]


def test_ramps_and_cooldowns_go_on_where_they_stood():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    order(organism, "r0c0", SetAlphaTarget(0.5, 5))
    organism.model.tick()
    germinate(organism, "r0c1")
    order(organism, "r0c1", Prune(0))
    snapshot = organism.snapshot()
    upheaval_free = [(organism.model.tick(), fingerprint(organism)) for _ in range(4)]
    organism.restore(snapshot)
    assert [(organism.model.tick(), fingerprint(organism)) for _ in range(4)] == upheaval_free


def test_restoring_leaves_the_global_generator_alone():
    organism = lively()
    snapshot, rng = organism.snapshot(), torch.get_rng_state()
    organism.restore(snapshot)
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_host_that_came_with_frozen_layers_keeps_them_frozen_through_a_restore():
    host = make_host()
    host.blocks[0].requires_grad_(False)
    model = MorphogeneticModel.wrap(host, {"r0c1": "blocks.1"}, images(2), rules=READY)
    organism = Organism(model, GrowingOptimizer(model, host=HOST_OPTIONS))
    grow(organism, "r0c1", Stage.TRAINING)
    organism.restore(organism.snapshot())
    frozen = {name for name, parameter in host.named_parameters() if not parameter.requires_grad}
    assert frozen == {"blocks.0.0.weight", "blocks.0.1.weight", "blocks.0.1.bias"}

"""Branching passes over coalitions against one pass per coalition."""

import random
from itertools import combinations

import pytest
import torch
from kasmina_builders import READY, SLOTS, WORTHY, grow, images, make_organism, wake
from torch import nn

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.passes.branching import Fork, forks, subsets
from esper_ray.leyline.stages import Stage

SEEDS = {"r0c0": "conv_light", "r0c1": "bottleneck", "r1c0": "depthwise"}
SUBSETS = [frozenset(c) for n in (0, 1, 2, 3) for c in combinations(SLOTS, n)]


@pytest.fixture
def model():
    organism = make_organism()
    for slot, blueprint in SEEDS.items():
        grow(organism, slot, Stage.HOLDING, blueprint)
        wake(organism.model.cell(slot).seed)
    for slot, alpha in (("r0c0", 0.7), ("r0c1", 1.0), ("r1c0", 0.4)):
        organism.model.cell(slot).alpha.fill_(alpha)
    return organism.model.eval()


def naive(model, x, players, on):
    """Output with amplitude zero for all players except those in ``on``."""
    alphas = {slot: model.cell(slot).alpha.item() for slot in players}
    for slot in players:
        model.cell(slot).alpha.fill_(alphas[slot] if slot in on else 0.0)
    out = model(x)
    for slot in players:
        model.cell(slot).alpha.fill_(alphas[slot])
    return out


@torch.no_grad()
@pytest.mark.parametrize("players", SUBSETS, ids=lambda s: "+".join(sorted(s)) or "none")
@pytest.mark.parametrize("batch", [1, 4])
def test_one_branching_pass_equals_the_naive_loop_over_coalitions(model, players, batch):
    x = images(batch, size=(16, 12))
    with model.branching(players) as coalitions:
        out = model(x)
    assert out.shape == (batch * 2 ** len(players), 3)
    assert sorted(map(sorted, coalitions)) == sorted(sorted(on) for on in SUBSETS if on <= players)
    for on, block in zip(coalitions, out.split(batch), strict=True):
        assert torch.allclose(block, naive(model, x, players, on), rtol=0, atol=1e-6), on


@torch.no_grad()
def test_the_outputs_of_all_coalitions_differ(model):
    with model.branching(frozenset(SLOTS)):
        blocks = model(images(4)).split(4)
    for first, second in combinations(blocks, 2):
        assert (first - second).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_any_choice_of_coalitions_equals_the_naive_loop(model, seed):
    chosen = random.Random(seed).sample(SUBSETS, seed + 1)
    x = images(3)
    with model.branching(frozenset(SLOTS), chosen) as coalitions:
        out = model(x)
    assert sorted(map(sorted, coalitions)) == sorted(map(sorted, chosen))
    for on, block in zip(coalitions, out.split(3), strict=True):
        assert torch.allclose(block, naive(model, x, frozenset(SLOTS), on), rtol=0, atol=1e-6), on


def test_forks_by_hand():
    """Slots a, b; coalitions {}, {a, b}: the block without a stays, the block with a is added; b acts on the latter."""
    plan, blocks = forks(("a", "b"), [frozenset(), frozenset("ab")])
    assert plan == {"a": Fork(1, (0,), (0,)), "b": Fork(2, (0,), (1,))}
    assert blocks == (frozenset(), frozenset("ab"))
    assert [fork.complete for fork in plan.values()] == [True, False]


@torch.no_grad()
def test_blocks_follow_the_order_of_execution_not_of_names(model):
    with model.branching(frozenset({"r0c1", "r1c0"})) as blocks:
        assert blocks == (frozenset(), frozenset({"r1c0"}), frozenset({"r0c1"}), frozenset({"r1c0", "r0c1"}))


@torch.no_grad()
def test_empty_lists_and_unknown_members_of_coalitions_are_refused(model):
    with pytest.raises(ValueError, match=r"\['r0c1'\] has members that are not among \['r0c0'\]"):
        model.branching(frozenset({"r0c0"}), [frozenset({"r0c1"})]).__enter__()
    with pytest.raises(ValueError, match="at least one coalition"):
        model.branching(frozenset({"r0c0"}), []).__enter__()


@torch.no_grad()
def test_modules_before_the_first_slot_are_computed_once(model):
    rows = {}
    for name in ("blocks.0", "blocks.1", "blocks.2", "head"):
        model.host.get_submodule(name).register_forward_pre_hook(
            lambda _m, inputs, name=name: rows.__setitem__(name, len(inputs[0]))
        )
    with model.branching(frozenset({"r0c1", "r1c0"})):
        model(images(5))
    assert rows == {"blocks.0": 5, "blocks.1": 10, "blocks.2": 20, "head": 20}


@torch.no_grad()
def test_branching_leaves_the_model_unchanged_also_after_an_error(model):
    x = images(4)
    before = model(x)
    with model.branching(frozenset(SLOTS)):
        model(x)
    assert torch.equal(model(x), before)
    with pytest.raises(RuntimeError), model.branching(frozenset(SLOTS)):
        model(images(1, channels=3))
    assert torch.equal(model(x), before)


@torch.no_grad()
def test_a_nested_branching_pass_restores_the_outer_one(model):
    x = images(2)
    with model.branching(frozenset({"r0c0"})):
        with model.branching(frozenset({"r0c1", "r1c0"})):
            assert len(model(x)) == 8
        assert len(model(x)) == 4


HOSTS = {
    "images": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        (1, 5, 5),
        "conv_light",
    ),
    "sequences": (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)), (6, 4), "attention"),
    "features": (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)), (4,), "mlp_small"),
}


@torch.no_grad()
@pytest.mark.parametrize("style", ["linear_add", "linear_multiply", "gated_gate"])
@pytest.mark.parametrize("topology", HOSTS)
def test_branching_equals_one_pass_for_each_coalition_on_every_topology(topology, style):
    build, shape, blueprint = HOSTS[topology]
    torch.manual_seed(2)
    slots = {"r0c0": "0", "r0c1": "1", "r1c0": "2"}
    model = MorphogeneticModel.wrap(build(), slots, torch.zeros(2, *shape), rules=READY)
    for slot in slots:
        assert model.germinate(slot, blueprint, style=style, tempo=3)
        wake(model.cell(slot).seed)
        assert model.advance(slot)
        assert model.advance(slot, WORTHY)
        model.tick()
    model.eval()
    x = torch.randn(3, *shape)
    with model.branching(frozenset(slots)) as coalitions:
        blocks = model(x).split(3)
    assert len(blocks) == 8
    for on, block in zip(coalitions, blocks, strict=True):
        assert torch.allclose(block, naive(model, x, frozenset(slots), on), rtol=0, atol=1e-6), on
    assert (blocks[0] - blocks[7]).abs().max() > 1e-3


SUBSETS_OF_PLACES = subsets(("r0c0", "r0c1", "r0c2"))


class Shortcut(nn.Module):
    """A slot inside a residual branch: another path leads around it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.inside = nn.Conv2d(4, 4, 3, padding=1)
        self.after = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = self.stem(x)
        return self.head(self.after(h + self.inside(h)).mean(dim=(2, 3)))


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("chosen", [None, [frozenset(), frozenset({"r0c1"}), frozenset({"r0c0", "r0c2"})]])
def test_branching_with_a_slot_inside_a_residual_branch_equals_single_passes(batch, chosen):
    places = {"r0c0": "stem", "r0c1": "inside", "r0c2": "after"}
    with seeded_initialisation(0):
        model = MorphogeneticModel.wrap(Shortcut(), places, images(2), rules=READY).eval()
    passes = {slot: at.passes for slot, at in model.attachments.items()}
    assert passes == {"r0c0": "forked", "r0c1": "repeated", "r0c2": "forked"}
    for slot, alpha in (("r0c0", 0.7), ("r0c1", 1.0), ("r0c2", 0.4)):
        model.germinate(slot, "conv_light", style="linear_add", tempo=1, target=alpha)
        for _ in range(2):
            model.advance(slot, WORTHY)
        model.tick()
        wake(model.cell(slot).seed)
    x = images(batch)
    alone = model(x)
    with model.branching(frozenset(places), chosen) as coalitions:
        out = model(x)
    assert set(coalitions) == set(chosen or SUBSETS_OF_PLACES)
    for on, block in zip(coalitions, out.split(batch), strict=True):
        assert torch.allclose(block, naive(model, x, places, on), rtol=0, atol=1e-6), on
    assert (out[:batch] - out[-batch:]).abs().max() > 1e-3
    assert torch.equal(model(x), alone)


def test_a_single_example_does_not_enable_branching():
    model = MorphogeneticModel.wrap(Shortcut(), {"r0c0": "stem"}, images(1))
    assert model.attachments["r0c0"].passes == "repeated"

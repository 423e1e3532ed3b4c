"""MorphogeneticModel: attachment of slots, state dict and output without seeds."""

import pytest
import torch
from kasmina_builders import SLOTS, grow, images, make_host, make_model, make_organism, named, wake
from torch import nn

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.leyline.slots import SlotIdError
from esper_ray.leyline.stages import Stage


class Pieces(nn.Module):
    """Host with submodules that are never called, called twice, or return no tensor first."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.twice = nn.Conv2d(2, 2, 1)
        self.spare = nn.Conv2d(2, 2, 1)
        self.pair = Pair()
        self.branch = named(inner=nn.Conv2d(2, 5, 1))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        h = self.twice(self.twice(self.stem(x)))
        _, first = self.pair(h)
        return self.head(self.branch(first).mean(dim=(2, 3)))


class Pair(nn.Module):
    def forward(self, h):
        return "pair", h


def wrapped(slots):
    return MorphogeneticModel.wrap(Pieces(), slots, images(2))


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"r0c0": "stam"}, "slot r0c0: unknown submodule 'stam'; did you mean 'stem'"),
        ({"r0c0": "branch.iner"}, "unknown submodule 'branch.iner'; did you mean 'branch.inner'"),
        ({"r0c0": ""}, "slot r0c0: unknown submodule ''"),
        ({"r0c0": "stem", "r0c1": "stem"}, "slots r0c0 and r0c1 sit on the same submodule: 'stem', 'stem'"),
        ({"r0c0": "stem", "r0c1": "spare"}, "slot r0c1: submodule 'spare' is never called"),
        ({"r0c0": "twice"}, "slot r0c0: submodule 'twice' is shared, it is called 2 times"),
        ({"r0c0": "pair"}, "slot r0c0: submodule 'pair' returns a tuple of str, Tensor; a slot needs a dense tensor"),
    ],
)
def test_a_slot_that_cannot_be_attached_is_refused_naming_slot_and_submodule(slots, message):
    with pytest.raises(ValueError, match=message):
        wrapped(slots)


@pytest.mark.parametrize("slots", [{}, {"early": "stem"}])
def test_slot_ids_are_checked(slots):
    with pytest.raises(SlotIdError):
        wrapped(slots)


def test_a_refused_host_has_no_hooks_and_its_former_modes():
    host = Pieces()
    host.twice.eval()
    modes = [module.training for module in host.modules()]
    with pytest.raises(ValueError, match="called 2 times"):
        MorphogeneticModel.wrap(host, {"r0c0": "stem", "r0c1": "twice"}, images(2))
    assert all(not module._forward_hooks for module in host.modules())
    assert [module.training for module in host.modules()] == modes


def test_any_module_can_be_a_host_and_its_channels_are_discovered():
    model = wrapped({"r0c1": "branch.inner", "r0c0": "stem"})
    assert model.slot_ids == ("r0c0", "r0c1")
    assert [model.cell(slot).shape.channels for slot in model.slot_ids] == [2, 5]


def test_wrapping_does_not_change_weights_statistics_modes_and_generators():
    host, untouched = make_host(), make_host()
    host.blocks[1].eval()
    modes = [module.training for module in host.modules()]
    rng = torch.get_rng_state()
    model = MorphogeneticModel.wrap(host, {"r0c0": "blocks.0"}, images(2))
    assert torch.equal(torch.get_rng_state(), rng)
    assert [module.training for module in host.modules()] == modes
    for name, tensor in untouched.state_dict().items():
        assert torch.equal(model.state_dict()[f"host.{name}"], tensor), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_state_dict_has_the_names_of_the_host_below_host():
    keys = set(make_model().state_dict())
    cells = {f"cells.{slot}.{name}" for slot in SLOTS for name in ("alpha", "operator_share")}
    assert keys == {f"host.{name}" for name in make_host().state_dict()} | cells | {"_extra_state"}
    assert set(make_model().host.state_dict()) == set(make_host().state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_without_seeds_the_model_equals_its_host(training):
    model, host, x = make_model().train(training), make_host().train(training), images(4)
    assert torch.equal(model(x), host(x))


def test_slots_are_listed_row_major_and_executed_in_network_order():
    model = make_model(("r1c0", "r0c2", "r0c1", "r0c0"))
    assert model.slot_ids == ("r0c0", "r0c1", "r0c2", "r1c0")
    assert model.execution_order == ("r0c0", "r1c0", "r0c1", "r0c2")


def test_an_unknown_slot_is_an_error_naming_the_nearest():
    with pytest.raises(ValueError, match="unknown slot 'r0c7'; did you mean 'r0c"):
        make_model().cell("r0c7")


def test_a_seed_acts_at_its_own_submodule():
    organism = make_organism()
    grow(organism, "r0c1", Stage.HOLDING)
    seed = organism.model.cell("r0c1").seed
    wake(seed)
    host, model, x = make_host().eval(), organism.model.eval(), images(3)
    h = host.pools[0](host.blocks[0](x))
    h = host.blocks[1](h)
    by_hand = host.head(host.blocks[2](h + seed(h)).mean(dim=(2, 3)))
    assert torch.allclose(model(x), by_hand, atol=1e-6)
    assert not torch.allclose(model(x), host(x), atol=1e-3)

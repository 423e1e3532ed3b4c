import pytest
import torch
from torch import nn

from esper_ray.kasmina.optimizer import HOST_GROUP, GroupSettings, GrowingSGD

SETTINGS = GroupSettings(lr=0.5, seed_lr=0.25, momentum=0.5, weight_decay=0.1)


class Number(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([float(value)]))


def step(sgd, **gradients):
    sgd.zero_grad()
    for parameter, gradient in gradients.values():
        parameter.grad = torch.tensor([float(gradient)])
    sgd.step()


def test_host_and_seed_move_by_their_own_rates_and_only_the_host_decays():
    host, seed = Number(1.0), Number(1.0)
    sgd = GrowingSGD(host, SETTINGS)
    sgd.add_seed("r0c0", seed)
    step(sgd, host=(host.x, 1.0), seed=(seed.x, 1.0))
    assert host.x.item() == pytest.approx(1.0 - 0.5 * (1.0 + 0.1))
    assert seed.x.item() == pytest.approx(1.0 - 0.25)


def test_a_committed_seed_keeps_its_momentum_and_moves_as_the_host_does():
    host, seed = Number(0.0), Number(1.0)
    sgd = GrowingSGD(host, SETTINGS)
    sgd.add_seed("r0c0", seed)
    step(sgd, seed=(seed.x, 1.0))  # momentum 1, value 3/4
    sgd.commit_seed("r0c0", freeze=False)
    assert sgd.group_names == [HOST_GROUP]
    assert sgd.momentum_of(seed.x).item() == 1.0
    step(sgd, seed=(seed.x, 2.0))  # momentum 1/2 + 2 + 0.1 * 3/4, rate 1/2
    assert seed.x.item() == pytest.approx(0.75 - 0.5 * (0.5 + 2.0 + 0.075))


def test_a_frozen_fossil_leaves_the_optimiser_and_never_moves_again():
    host, seed = Number(0.0), Number(1.0)
    sgd = GrowingSGD(host, SETTINGS)
    sgd.add_seed("r0c0", seed)
    step(sgd, seed=(seed.x, 1.0))
    sgd.commit_seed("r0c0", freeze=True)
    assert [p is host.x for p in sgd.parameters()] == [True]
    assert (seed.x.requires_grad, seed.x.grad, sgd.momentum_of(seed.x)) == (False, None, None)
    before = seed.x.item()
    step(sgd, host=(host.x, 1.0))
    assert seed.x.item() == before


def test_a_removed_seed_is_forgotten_with_its_momentum():
    sgd = GrowingSGD(Number(0.0), SETTINGS)
    first, second = Number(1.0), Number(1.0)
    sgd.add_seed("r0c0", first)
    step(sgd, seed=(first.x, 1.0))
    sgd.remove_seed("r0c0")
    assert sgd.group_names == [HOST_GROUP]
    assert sgd.momentum_of(first.x) is None
    sgd.add_seed("r0c0", second)
    assert sgd.momentum_of(second.x) is None


def test_a_slot_has_one_group():
    sgd = GrowingSGD(Number(0.0), SETTINGS)
    sgd.add_seed("r0c0", Number(1.0))
    with pytest.raises(ValueError, match="already has a group for slot r0c0"):
        sgd.add_seed("r0c0", Number(2.0))


@pytest.mark.parametrize("method", ["group", "remove_seed"])
def test_an_unknown_group_is_an_error_naming_what_there_is(method):
    sgd = GrowingSGD(Number(0.0), SETTINGS)
    sgd.add_seed("r0c0", Number(1.0))
    with pytest.raises(KeyError, match=r"no group 'r0c1', only \['host', 'r0c0'\]"):
        getattr(sgd, method)("r0c1")


def test_regrouping_replaces_the_groups_and_drops_all_momentum():
    host, old, new = Number(0.0), Number(1.0), Number(1.0)
    sgd = GrowingSGD(host, SETTINGS)
    sgd.add_seed("r0c0", old)
    step(sgd, host=(host.x, 1.0), seed=(old.x, 1.0))
    sgd.regroup({HOST_GROUP: [host.x], "r0c1": [new.x]})
    assert sgd.group_names == [HOST_GROUP, "r0c1"]
    assert [sgd.momentum_of(p) for p in (host.x, old.x, new.x)] == [None] * 3
    step(sgd, seed=(new.x, 1.0))
    assert new.x.item() == pytest.approx(0.75)


def test_frozen_parameters_of_a_host_are_not_optimised():
    host = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    optimised = list(GrowingSGD(host, SETTINGS).parameters())
    assert [id(p) for p in optimised] == [id(p) for p in host[1].parameters()]

"""Where slots sit: depth and parameters upstream, by hand and for models of several kinds."""

import torch
from torch import nn

from esper_ray.environment import make_environment
from esper_ray.kasmina import MorphogeneticModel
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.context import SlotPlace


class Chain(nn.Module):
    """Five layers; the parameter of the module itself is used before them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.first = nn.Sequential(nn.Linear(4, 8), nn.ReLU())  # 40 parameters
        self.second = nn.Sequential(nn.Linear(8, 6), nn.ReLU())  # 54
        self.head = nn.Linear(6, 3)  # 21

    def forward(self, x):
        return self.head(self.second(self.first(x * self.scale)))


def test_depth_and_upstream_share_of_a_chain_by_hand():
    """116 parameters; a module counts from its start, and the slot is at the output of its submodule."""
    model = MorphogeneticModel.wrap(Chain(), {"r0c0": "first", "r0c1": "second.0", "r0c2": "second"}, torch.randn(2, 4))
    places = {slot: at.position for slot, at in model.attachments.items()}
    assert places["r0c0"] == SlotPlace(2 / 5, 8, 1, 41 / 116, Topology.FEATURES)
    assert places["r0c1"] == SlotPlace(3 / 5, 6, 1, 95 / 116, Topology.FEATURES)
    assert places["r0c2"] == SlotPlace(4 / 5, 6, 1, 95 / 116, Topology.FEATURES)


def test_the_order_is_that_of_execution_not_of_slots():
    class Headless(Chain):
        def forward(self, x):
            return self.second(self.first(x))

    model = MorphogeneticModel.wrap(Headless(), {"r0c0": "second", "r0c1": "first"}, torch.randn(2, 4))
    late, early = (model.attachments[slot].position for slot in ("r0c0", "r0c1"))
    assert (early.depth, late.depth) == (0.5, 1.0)
    assert early.upstream_share < late.upstream_share < 1.0


def test_places_of_spans_images_and_tokens():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2, padding=1))
    model = MorphogeneticModel.wrap(network, {"r0c0": "0 -> 2"}, torch.randn(2, 3, 8, 8))
    place = model.attachments["r0c0"].position
    assert (place.channels, place.positions, place.on_span, place.topology) == (4, 16, True, Topology.IMAGES)
    assert place.depth == 1.0
    tokens = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 10))
    model = MorphogeneticModel.wrap(tokens, {"r0c0": "1"}, torch.zeros(2, 5, dtype=torch.long))
    assert model.attachments["r0c0"].position == SlotPlace(2 / 3, 6, 5, 102 / 172, Topology.SEQUENCES)


def test_a_shared_parameter_counts_once_and_hooks_are_removed():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    host = Tied()
    model = MorphogeneticModel.wrap(host, {"r0c0": "a"}, torch.randn(2, 4))
    assert model.attachments["r0c0"].position.upstream_share == 1.0
    assert [len(module._forward_pre_hooks) for module in host.modules()] == [0, 0, 0]


def test_slots_of_an_environment_have_growing_depth_and_constant_context():
    env = make_environment("digits", {"episode_length": 9, "training.steps_per_epoch": 1})
    first = env.reset(seed=0)[0]["context"]
    assert (first[:, 0].tolist(), first[:, 3].tolist()) == (sorted(first[:, 0]), sorted(first[:, 3]))
    assert env.observation_space["context"].contains(first)
    for _ in range(9):
        observation, *_ = env.step([0] * 8)
        assert (observation["context"] == first).all()

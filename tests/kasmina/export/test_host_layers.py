"""Layers of hosts in forward order, with shapes, parameters and slots."""

import pytest
import torch
from torch import nn

from esper_ray.kasmina.export.host_layers import HostLayer, host_layers
from esper_ray.kasmina.hosts import CNN_VARIANTS, build_host
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.leyline.config.host import TransformerHostConfig


class Reordered(nn.Module):
    """A host that calls its modules in another order than it declares them, and one of them never."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.unused = nn.Linear(7, 7)
        self.first = nn.Sequential(nn.Linear(3, 4), nn.ReLU())

    def forward(self, x):
        return self.last(self.first(x))


def test_layers_come_in_the_order_of_their_calls():
    model = MorphogeneticModel.wrap(Reordered(), {"r0c0": "first"}, torch.zeros(2, 3))
    assert host_layers(model, torch.zeros(2, 3)) == [
        HostLayer("first.0", "Linear", (4,), 16, None),
        HostLayer("first.1", "ReLU", (4,), 0, None),
        HostLayer("first", "Sequential", (4,), 0, "r0c0"),
        HostLayer("last", "Linear", (2,), 10, None),
        HostLayer("unused", "Linear", (), 56, None),
    ]


@pytest.mark.parametrize("name", ["cifar_baseline", "cifar_deep_impaired"])
def test_every_slot_of_a_built_in_host_is_behind_a_layer(name):
    spec = build_host(CNN_VARIANTS[name], (3, 32, 32), 10)
    model = MorphogeneticModel.wrap(spec.module, spec.slot_modules, torch.zeros(2, 3, 32, 32))
    layers = host_layers(model, torch.zeros(2, 3, 32, 32))
    assert [layer.slot for layer in layers if layer.slot] == list(model.execution_order)
    assert sum(layer.parameters for layer in layers) == model.host_parameters
    assert all(layer.shape for layer in layers)


def test_the_layers_of_a_text_host_have_shapes_of_one_sequence():
    spec = build_host(TransformerHostConfig(layers=2, segments=2, embedding=16, heads=2, context=8), (8,), 11)
    model = MorphogeneticModel.wrap(spec.module, spec.slot_modules, torch.zeros(2, 8, dtype=torch.int64))
    layers = host_layers(model, torch.zeros(2, 8, dtype=torch.int64))
    assert [layer.slot for layer in layers if layer.slot] == ["r0c0", "r0c1"]
    assert [layer.shape for layer in layers if layer.shape][-1] in {(8, 11), (11,)}


def test_drawing_the_layers_leaves_the_model_as_it_was():
    model = MorphogeneticModel.wrap(Reordered(), {"r0c0": "first"}, torch.zeros(2, 3)).train()
    before = torch.random.get_rng_state()
    host_layers(model, torch.zeros(2, 3))
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(model.host.last._forward_hooks) == 0

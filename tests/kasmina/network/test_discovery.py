"""Places for slots that are found in a module."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from esper_ray.kasmina.network.discovery import find_slots
from esper_ray.leyline.blueprints import Topology

EVERY = tuple(Topology)


def stage(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


def test_slots_sit_at_the_ends_of_the_last_stages():
    model = resnet18(num_classes=10)
    found = find_slots(model, torch.zeros(2, 3, 32, 32), EVERY, 3)
    assert found == {"r0c0": "layer2", "r0c1": "layer3", "r0c2": "layer4"}
    assert find_slots(model, torch.zeros(2, 3, 32, 32), EVERY, 1) == {"r0c0": "layer4"}


def test_one_large_part_is_divided_into_its_stages():
    widths, layers = (1, 4, 8, 8), []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(2)]
    model = nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Linear(8, 3))
    found = find_slots(model, torch.zeros(2, 1, 8, 8), EVERY, 3)
    assert list(found.values()) == ["0.2", "0.4", "0"]


class Encoder(nn.Module):
    def __init__(self, blocks, width=8):
        super().__init__()
        self.embed = nn.Embedding(11, width)
        layer = [nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True) for _ in range(blocks)]
        self.blocks = nn.ModuleList(layer)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, tokens):
        h = self.embed(tokens)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h).mean(dim=1))


def test_equal_blocks_of_one_stage_get_evenly_spaced_slots():
    found = find_slots(Encoder(6), torch.zeros(2, 5, dtype=torch.long), EVERY, 3)
    assert list(found.values()) == ["blocks.1", "blocks.3", "blocks.5"]


@pytest.mark.parametrize("blocks", [2, 3])
def test_the_blocks_of_a_short_transformer_are_not_divided(blocks):
    found = find_slots(Encoder(blocks), torch.zeros(2, 5, dtype=torch.long), EVERY, 3)
    assert list(found.values()) == [f"blocks.{number}" for number in range(blocks)]


def test_a_block_that_ends_with_an_activation_is_preferred_to_its_last_layer():
    model = nn.Sequential(nn.Sequential(stage(1, 4), stage(4, 8, 2)), nn.Flatten(), nn.Linear(128, 3))
    found = find_slots(model, torch.zeros(2, 1, 8, 8), EVERY, 3)
    assert list(found.values()) == ["0.0", "0.1"]


def test_only_places_of_the_most_frequent_topology_are_found():
    model = nn.Sequential(stage(1, 4), nn.Flatten(), nn.Linear(256, 8), nn.Linear(8, 3))
    assert find_slots(model, torch.zeros(2, 1, 8, 8), EVERY, 3) == {"r0c0": "0"}
    assert find_slots(model, torch.zeros(2, 1, 8, 8), (Topology.FEATURES,), 3) == {"r0c0": "2"}


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.last, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.last(self.shared(self.shared(x))))


def test_a_module_that_is_called_twice_is_no_place():
    assert find_slots(Twice(), torch.zeros(2, 4), EVERY, 3) == {"r0c0": "last"}


def test_a_model_without_places_is_refused_with_an_example():
    with pytest.raises(ValueError, match=r"no submodule of Linear yields .* for example slots=\{'r0c0': 'layer1'\}"):
        find_slots(nn.Linear(4, 2), torch.zeros(2, 4), EVERY, 3)
    with pytest.raises(ValueError, match="no submodule of Twice yields images that a seed could work on"):
        find_slots(Twice(), torch.zeros(2, 4), (Topology.IMAGES,), 3)

"""Hosts with layers that mix the rows of a batch, and one pass for each coalition to compare with."""

import torch
from kasmina_builders import READY, WORTHY, wake
from torch import nn

from esper_ray.kasmina.hosts import CNN_VARIANTS
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.passes.branching import subsets
from esper_ray.leyline.config.host import MLPHostConfig, TransformerHostConfig

HOSTS = {
    "cifar_baseline": (CNN_VARIANTS["cifar_baseline"], (3, 32, 32)),
    "cifar_impaired": (CNN_VARIANTS["cifar_impaired"], (3, 32, 32)),
    "transformer": (TransformerHostConfig(embedding=8, heads=2, layers=2, context=8, segments=2), (8,)),
    "mlp": (MLPHostConfig(), (1, 8, 8)),
}
PLACES = {"r0c0": "first", "r0c1": "second"}


class Host(nn.Module):
    """Two linear layers with ``mixer`` before, between or after them, and a shortcut on request."""

    def __init__(self, mixer, place, shortcut):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.mixer, self.place, self.shortcut = mixer, place, shortcut

    def forward(self, x):
        x = self.mixer(x) if self.place == "before" else x
        h = self.first(x).tanh()
        h = self.mixer(h) if self.place == "between" else h
        h = self.second(h).tanh() + (h if self.shortcut else 0.0)
        h = self.mixer(h) if self.place == "after" else h
        return self.head(h)


def blended(host, places=PLACES, blueprint="mlp_small", example=None):
    """A model with one awake seed in each place, at full amplitude."""
    example = torch.zeros(2, 6) if example is None else example
    model = MorphogeneticModel.wrap(host, places, example, rules=READY)
    for slot in places:
        model.germinate(slot, blueprint, style="linear_add", tempo=1)
        for _ in range(2):
            assert model.advance(slot, WORTHY)
        model.tick()
        wake(model.cell(slot).seed)
    return model.eval()


def naive(model, x, on):
    """Output of a pass in which the amplitude of every seed outside ``on`` is zero."""
    before = {slot: model.cell(slot).alpha.item() for slot in model.slot_ids}
    for slot, alpha in before.items():
        model.cell(slot).alpha.fill_(alpha if slot in on else 0.0)
    out = model(x)
    for slot, alpha in before.items():
        model.cell(slot).alpha.fill_(alpha)
    return out


def assert_exact(model, x, atol=1e-6):
    """Branching equals the naive loop; the seeds matter."""
    with model.branching(frozenset(model.slot_ids)) as coalitions:
        blocks = model(x).split(len(x))
    assert sorted(map(sorted, coalitions)) == sorted(map(sorted, subsets(model.slot_ids)))
    for on, block in zip(coalitions, blocks, strict=True):
        assert torch.allclose(block, naive(model, x, on), rtol=0, atol=atol), on
    assert (blocks[0] - blocks[-1]).abs().max() > 1e-2


def noise(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


class InPlace(nn.Module):
    """Works in place on its input and mixes rows."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.first(x.mul_(2.0))
        return self.head(h - h.mean(0))

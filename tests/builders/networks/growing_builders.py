"""Small models, data and policies for tests of growth in a user's loop."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from esper_ray.leyline.actions import WAIT, Action, LifecycleOp
from esper_ray.leyline.policy import Decision


class Small(nn.Module):
    """Two stages of images and a head of three classes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.second(self.pool(self.first(x)))).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """One block of tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.block = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.block(self.embed(x))))


class Dropping(nn.Module):
    """Vectors with dropout, so that training depends on torch's random stream."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.3))
        self.second = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


class Script:
    """Policy that germinates in the first slot, commits as soon as it is legal, and waits otherwise."""

    def begin_episode(self, seed):
        self.decisions = 0

    def decide(self, view):
        self.decisions += 1
        first = view.reports[0]
        commit = Action(LifecycleOp.FOSSILIZE, 0)
        if first is None and view.signals.epoch < 3:
            blueprint = int(next(index for index, legal in enumerate(view.masks.arguments["blueprint"]) if legal))
            style = int(next(index for index, legal in enumerate(view.masks.arguments["style"]) if legal))
            action = Action(LifecycleOp.GERMINATE, 0, blueprint=blueprint, style=style, alpha_target=2)
        else:
            action = commit if view.masks.allows(commit) else WAIT
        return Decision(action if view.masks.allows(action) else WAIT)


def examples(count=24):
    """(count, 1, 8, 8) images and labels of three classes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def vectors(count=24):
    """(count, 4) vectors and labels of three classes that follow from them."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return x, (x.sum(dim=1) > 0).long() + (x[:, 0] > 1).long()


def seeded(build, seed=0):
    """A model whose weights are a function of ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def train_by_hand(growing, x, y, incubate=True):
    """The four lines of a step by hand, without clipping."""
    growing.optimizer.zero_grad()
    cross_entropy(growing.model(x), y).backward()
    if incubate:
        growing.model.incubate(lambda: cross_entropy(growing.model(x), y))
    growing.optimizer.step()


def weights_of(model):
    """All tensors of a model as one list of numbers."""
    return [value for tensor in model.state_dict().values() for value in tensor.flatten().double().tolist()]

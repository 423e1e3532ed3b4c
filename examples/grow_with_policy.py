"""Grow a model under a policy in your own training loop: no environment, no Ray.

    python examples/grow_with_policy.py                     # the heuristic policy
    python examples/grow_with_policy.py tamiyo              # the learned policy that ships
    python examples/grow_with_policy.py PATH.esper          # one that `esper export-policy` wrote

The model, its data and the loop are ordinary PyTorch but for `grow` and `train_step`. At the end the grown network is
an ordinary module again, and is compared with the same model trained alone.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from esper_ray import grow

HELD_OUT, TEST = 400, 300


class Narrow(nn.Module):
    """Network too simple for its task: its kernels cover single pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean(dim=(2, 3)))


def examples() -> tuple[Tensor, Tensor]:
    """Scikit-learn's digits in a fixed random order: (1797, 1, 8, 8) images and their labels."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    return images[order], torch.tensor(digits.target)[order]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy in per cent."""
    with torch.no_grad():
        return 100.0 * (model.eval()(images).argmax(dim=1) == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", nargs="?", default="heuristic", help="a name, or a bundle")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    images, labels = examples()
    train, held_out, test = (
        (images[a:b], labels[a:b]) for a, b in ((HELD_OUT + TEST, None), (TEST, HELD_OUT + TEST), (0, TEST))
    )
    torch.manual_seed(options.seed)
    growing = grow(
        Narrow(),
        held_out,
        policy=options.policy,
        slots={"r0c0": "first", "r0c1": "second"},
        epochs=options.epochs,
        optimizer=torch.optim.SGD,
        lr=0.1,
        momentum=0.9,
        seed=options.seed,
    )
    for epoch in growing:
        for rows in torch.randperm(len(train[0])).split(128):
            growing.train_step((train[0][rows], train[1][rows]))
        print(epoch)
    print(growing.model.drawing())
    grown = growing.plain()

    torch.manual_seed(options.seed)
    alone = Narrow()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    for _ in range(options.epochs):
        for rows in torch.randperm(len(train[0])).split(128):
            optimizer.zero_grad()
            cross_entropy(alone(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
    for name, model in (("alone", alone), ("grown", grown)):
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, test {accuracy(model, *test):.1f} %")


if __name__ == "__main__":
    main()

"""Grow an ordinary PyTorch module by hand: no policy, no environment, no Ray.

    python examples/grow_a_module.py

The module below has no code for seeds. A seed is germinated on the output of its first block, trained behind the host,
blended in, and kept. The gates ask for measurements on held-out examples. At the end it is an ordinary module again.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from esper_ray import GateRules, GrowingOptimizer, MorphogeneticModel, Rules


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 8.0 - 1.0
    labels = torch.tensor(digits.target)[order]
    held_out, (x, y) = (images[:400], labels[:400]), (images[400:], labels[400:])

    host = nn.Sequential(  # too simple for its task: its kernels cover single pixels
        nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(16, 10),
    )
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, x[:2], rules=Rules(GateRules(min_training_epochs=4)))
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.05, momentum=0.9)
    for epoch in range(30):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            model.incubate(lambda rows=rows: cross_entropy(model(x[rows]), y[rows]))  # gradients for the seed
            optimizer.step()
        model.epoch_elapsed()
        measured, state, answer = model.measure(held_out)["r0c0"], model.states["r0c0"], ""
        if state is None:
            answer = model.germinate("r0c0", "conv_light") if epoch == 4 else ""
        elif state.stage.name == "HOLDING":
            answer = model.fossilize("r0c0", measured)
        elif state.stage.name != "FOSSILIZED":
            answer = model.advance("r0c0", measured)
        print(f"epoch {epoch:2d}  held out {model.measurer.last.accuracy_pp:5.1f} %  {answer}")
    print(model.drawing())
    print(model.plain())


if __name__ == "__main__":
    main()

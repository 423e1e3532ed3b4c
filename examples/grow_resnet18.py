"""Grow torchvision's ResNet-18 on CIFAR-10 under the heuristic policy.

    python examples/grow_resnet18.py --data-dir ../shared/data/cifar10

The folder holds train*.parquet and test*.parquet in the layout of the Hugging Face data set. The
network is torchvision's, with unchanged code; slots are attached behind its first three stages. At the end
it is an ordinary module again, exported with its grown parts. It takes a few minutes on two CPU cores.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

from esper_policies.heuristic import HeuristicConfig, HeuristicPolicy
from esper_ray.environment import MorphogenesisEnv
from esper_ray.kasmina.hosts import HostSpec
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.tolaria.data import ImageData, image_dataset
from esper_ray.tolaria.sources.cifar import CLASSES, read_cifar10

SETTINGS = {
    "growth.slots": ["r0c0", "r0c1", "r0c2"],
    "growth.blueprints": ["conv_light", "depthwise", "bottleneck", "norm"],
    "growth.auto_forward": ["g1", "g2", "g3"],
    "growth.min_training_epochs": 2,
    "training.batch_size": 32,
    "training.steps_per_epoch": 15,
    "training.lr": 0.02,
    "training.seed_lr": 0.02,
    "reward.param_budget": 1_000_000,
}
HELD_OUT = 250


def load(folder: Path, images: int) -> ImageData:
    """The first ``images`` training images, and few for validation and testing."""
    train, test = read_cifar10(folder, "train", images + HELD_OUT), read_cifar10(folder, "test", HELD_OUT)
    cut = len(train.labels) - HELD_OUT
    return image_dataset(
        (train.images[:cut], train.labels[:cut]),
        (train.images[cut:], train.labels[cut:]),
        (test.images, test.labels),
        classes=CLASSES,
        device=torch.device("cpu"),
    )


def host(data: ImageData) -> HostSpec:
    """A fresh ResNet-18 whose first convolution suits small pictures, and its slots."""
    network = resnet18(num_classes=data.classes)
    network.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    return HostSpec(network, {"r0c0": "layer1", "r0c1": "layer2", "r0c2": "layer3"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=3000, help="training images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="where to write the grown network as an exported program (.pt2)")
    options = parser.parse_args()

    torch.set_num_threads(2)
    config = build(read_preset("digits"), SETTINGS | {"episode_length": options.epochs})
    env = MorphogenesisEnv(config, data=load(options.data_dir, options.images), host=host)
    policy = HeuristicPolicy(env.limits, HeuristicConfig(first_epoch=3, patience=3))
    env.reset(seed=options.seed)
    model = env.organism.model
    print(model.drawing())
    over = False
    while not over:
        decision = policy.decide(env.view)
        _, reward, terminated, truncated, info = env.step(decision.action.to_indices())
        over = terminated or truncated
        done = "" if decision.action.op == 0 else f"  {info['operation']} {info['slot']}: {decision.reason}"
        print(f"epoch {info['epoch']:2d}  validation {info['val_accuracy_pp']:5.1f} %  reward {reward:+6.2f}{done}")
    print(model.drawing())

    grown = model.plain().eval()
    with torch.no_grad():
        images, labels = env.data.prepared(env.data.test, 0, len(env.data.test))
        right = (grown(images).argmax(dim=1) == labels).float().mean().item()
    print(f"as an ordinary module: {sum(p.numel() for p in grown.parameters()):,} parameters, test {100 * right:.1f} %")
    if options.save is not None:
        torch.export.save(torch.export.export(grown, (images[:2],)), options.save)
        print(f"exported to {options.save}")


if __name__ == "__main__":
    main()

"""Grow torchvision's ResNet-18 on CIFAR-10 in two workers of Ray Train.

    python examples/grow_on_ray_train.py --data-dir ../shared/data/cifar10

The folder holds train*.parquet and test*.parquet in the layout of the Hugging Face data set. Each worker trains a copy
of the network on its part of every batch; rank 0 decides what grows. A checkpoint after each epoch holds the growth: if
a worker dies, Ray starts both again from the last one, and the result is the same. At the end the grown network is
written as an exported program. With GPUs (--gpus) each worker has one.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from esper_actors.cluster.settings import choose_ray_settings
from esper_ray import grow
from esper_ray.kasmina import seeded_initialisation
from esper_ray.tolaria.sources.cifar import CLASSES, read_cifar10

MEAN, DEVIATION = 0.45, 0.25


def load(folder: Path, images: int) -> tuple[Tensor, Tensor]:
    """(N, 3, 32, 32) normalised training images and their labels."""
    data = read_cifar10(folder, "train", images)
    return (torch.from_numpy(data.images).float() / 255.0 - MEAN) / DEVIATION, torch.from_numpy(data.labels)


def host() -> nn.Module:
    """A fresh ResNet-18 whose first convolution suits small pictures."""
    with seeded_initialisation(0):
        network = resnet18(num_classes=CLASSES)
        network.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    return network


def worker(config: dict[str, Any]) -> None:
    """Training of one worker; Ray calls it in each."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    rank, workers = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    device, size = get_device(), config["images"]
    images, labels = load(Path(config["data_dir"]), size + config["held_out"])
    growing = grow(
        host().to(device),
        (images[size:], labels[size:]),
        epochs=config["epochs"],
        policy=config["policy"],
        optimizer=torch.optim.SGD,
        lr=0.05,
        momentum=0.9,
        report=print if rank == 0 else lambda line: None,
    )
    growing.forward = prepare_model(growing.model)
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as saved:
            growing.load_state((Path(saved) / "growth.esper").read_bytes())
    for step in growing:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(step.epoch))
        for rows in order.split(config["batch_size"] * workers):
            own = rows[rank::workers]
            growing.train_step((images[own].to(device), labels[own].to(device)))
        with tempfile.TemporaryDirectory() as saved:
            if rank == 0:
                print(step)
                (Path(saved) / "growth.esper").write_bytes(growing.save_state())
            checkpoint = ray.train.Checkpoint.from_directory(saved) if rank == 0 else None
            ray.train.report({"epoch": step.epoch, "held_out_pp": step.val_accuracy_pp}, checkpoint=checkpoint)
    if rank == 0:
        print(growing.model.drawing())
        example = images[:2].to(device)
        torch.export.save(torch.export.export(growing.plain().eval(), (example,)), config["grown"])
    ray.train.report({"epoch": growing.epoch, "held_out_pp": growing.measured.accuracy_pp})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000, help="training images")
    parser.add_argument("--held-out", type=int, default=200, help="further images, for measurements")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16, help="images per worker and step")
    parser.add_argument("--policy", default="heuristic")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", action="store_true", help="one GPU per worker")
    parser.add_argument("--storage", type=Path, default=Path("runs/ray_train"), help="folder for checkpoints")
    options = parser.parse_args()

    choose_ray_settings()  # before anything imports Ray
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # else each line of a worker is shown twice
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    storage = options.storage.resolve()
    storage.mkdir(parents=True, exist_ok=True)
    config = vars(options) | {"data_dir": str(options.data_dir.resolve()), "grown": str(storage / "grown.pt2")}
    ray.init(num_cpus=None if options.gpus else options.workers, include_dashboard=False, logging_level="ERROR")
    trainer = TorchTrainer(
        worker,
        train_loop_config={name: value for name, value in config.items() if name != "storage"},
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpus),
        run_config=RunConfig(
            name="growth",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    result = trainer.fit()
    print(f"held out {result.metrics['held_out_pp']:.1f} %; the grown network is {config['grown']}")


if __name__ == "__main__":
    main()

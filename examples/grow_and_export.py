"""Grow a model of torchvision or transformers on CIFAR-10, and export it to ONNX.

    python examples/grow_and_export.py resnet18 --data-dir ../shared/data/cifar10
    python examples/grow_and_export.py vit --data-dir ../shared/data/cifar10

The folder holds train*.parquet and test*.parquet in the layout of the Hugging Face data set. Both models have random
weights and unchanged code; the slots are found. `--policy static` trains the same model without growth. ONNX needs the
packages onnx, onnxscript and onnxruntime. It takes about ten minutes on two CPU cores.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from esper_ray import grow
from esper_ray.tolaria.sources.cifar import CLASSES, read_cifar10

MEAN, DEVIATION = 0.45, 0.25


def examples(folder: Path, split: str, first: int, count: int) -> tuple[Tensor, Tensor]:
    """(N, 3, 32, 32) normalised images from number ``first``, and their labels."""
    data = read_cifar10(folder, split, first + count)
    images = (torch.from_numpy(data.images[first:]).float() / 255.0 - MEAN) / DEVIATION
    return images, torch.from_numpy(data.labels[first:])


def resnet18() -> nn.Module:
    """ResNet-18 of torchvision."""
    from torchvision.models import resnet18

    return resnet18(num_classes=CLASSES)


def vit() -> nn.Module:
    """Vision transformer of transformers: two narrow blocks on patches of 4x4 pixels."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"image_size": 32, "patch_size": 4, "hidden_size": 64, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, num_labels=CLASSES))


def logits(output: object) -> Tensor:
    """Logits of an output of either model."""
    return output if isinstance(output, Tensor) else output.logits


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy in per cent."""
    with torch.no_grad():
        right = [logits(model(x)).argmax(dim=1) == y for x, y in zip(images.split(250), labels.split(250), strict=True)]
    return 100.0 * torch.cat(right).float().mean().item()


def exported(model: nn.Module, example: Tensor, path: Path) -> float:
    """Write ``model`` to an ONNX file; the greatest difference of its logits under ONNX Runtime."""
    import onnxruntime

    program = torch.export.export(model, (example,))
    torch.onnx.export(program, (example,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    with torch.no_grad():
        return (torch.from_numpy(output) - logits(model(example))).abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["resnet18", "vit"])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000, help="training images")
    parser.add_argument("--held-out", type=int, default=1000, help="further training images, for measurements")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--policy", default="heuristic", help="a name, or a bundle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--onnx", type=Path, help="file for the grown model")
    options = parser.parse_args()

    began = time.perf_counter()
    torch.manual_seed(options.seed)
    train = examples(options.data_dir, "train", 0, options.images)
    held_out = examples(options.data_dir, "train", options.images, options.held_out)
    test = examples(options.data_dir, "test", 0, options.test)
    model = {"resnet18": resnet18, "vit": vit}[options.model]()
    growing = grow(
        model, held_out, epochs=options.epochs, policy=options.policy, causal=options.model != "vit", seed=options.seed
    )
    print(growing.model.drawing())
    loader = DataLoader(TensorDataset(*train), batch_size=options.batch_size, shuffle=True)
    for epoch in growing:
        for batch in loader:
            growing.train_step(batch)
        print(f"{epoch}  {time.perf_counter() - began:.0f} s")
    print(growing.model.drawing())
    grown = growing.plain().eval()
    parameters = sum(parameter.numel() for parameter in grown.parameters())
    print(f"{parameters:,} parameters, test {accuracy(grown, *test):.1f} %, {time.perf_counter() - began:.0f} s")
    if options.onnx is not None:
        difference = exported(grown, test[0][:2], options.onnx)
        print(f"{options.onnx}: {options.onnx.stat().st_size / 1e6:.1f} MB, logits differ by {difference:.1e} at most")


if __name__ == "__main__":
    main()

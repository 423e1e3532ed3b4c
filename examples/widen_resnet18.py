"""Widen the blocks of torchvision's ResNet-18 on CIFAR-10, up to a number of parameters.

    python examples/widen_resnet18.py --data-dir ../shared/data/cifar10 --onnx wide.onnx

The folder holds train*.parquet and test*.parquet in the layout of the Hugging Face data set. The network starts
narrow: a quarter of the usual channels. Seeds widen it between the two convolutions of a block; committed ones become
part of these layers. It prints the spans before and after, and exports a network without a side branch. ONNX needs the
packages onnx, onnxscript and onnxruntime. It takes about five minutes on two CPU cores.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock, ResNet

from esper_ray import grow
from esper_ray.kasmina import Span, find_spans
from esper_ray.tolaria.sources.cifar import CLASSES, read_cifar10

MEAN, DEVIATION = 0.45, 0.25


def examples(folder: Path, split: str, first: int, count: int) -> tuple[Tensor, Tensor]:
    """(N, 3, 32, 32) normalised images from number ``first``, and their labels."""
    data = read_cifar10(folder, split, first + count)
    images = (torch.from_numpy(data.images[first:]).float() / 255.0 - MEAN) / DEVIATION
    return images, torch.from_numpy(data.labels[first:])


def narrow_resnet18(width: int) -> ResNet:
    """ResNet-18 of torchvision for small pictures, with ``width`` channels in its first stage."""
    network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=CLASSES)
    network.inplanes = width
    network.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    network.maxpool = nn.Identity()
    for index in range(4):
        stage = network._make_layer(BasicBlock, width * 2**index, 2, stride=1 if index == 0 else 2)
        setattr(network, f"layer{index + 1}", stage)
    network.fc = nn.Linear(width * 8, CLASSES)
    return network


def table(spans: list[Span]) -> str:
    """Rows of spans: place, channels, price of a channel."""
    rows = [
        f"{span.place:34} {span.channels:4} channels  {span.parameters_per_channel:5,} parameters and "
        f"{span.flops_per_channel / 1e6:.2f} MFLOP a channel"
        for span in spans
    ]
    return "\n".join(rows)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy in per cent."""
    with torch.no_grad():
        right = [model(x).argmax(dim=1) == y for x, y in zip(images.split(250), labels.split(250), strict=True)]
    return 100.0 * torch.cat(right).float().mean().item()


def exported(model: nn.Module, example: Tensor, path: Path) -> float:
    """Write ``model`` to an ONNX file; the greatest difference of its logits under ONNX Runtime."""
    import onnxruntime

    program = torch.export.export(model, (example,))
    torch.onnx.export(program, (example,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    with torch.no_grad():
        return (torch.from_numpy(output) - model(example)).abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000, help="training images")
    parser.add_argument("--held-out", type=int, default=1000, help="further training images, for measurements")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage at the start")
    parser.add_argument("--parameters", type=int, default=250_000, help="number of parameters to grow to")
    parser.add_argument("--policy", default="heuristic", help="a name, or a bundle; static: no growth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--onnx", type=Path, help="file for the grown model")
    options = parser.parse_args()

    began = time.perf_counter()
    torch.manual_seed(options.seed)
    train = examples(options.data_dir, "train", 0, options.images)
    held_out = examples(options.data_dir, "train", options.images, options.held_out)
    test = examples(options.data_dir, "test", 0, options.test)
    model = narrow_resnet18(options.width)
    spans = find_spans(model, train[0][:2])
    print(table(spans))
    growing = grow(
        model,
        held_out,
        epochs=options.epochs,
        policy=options.policy,
        slots={f"r0c{index}": span for index, span in enumerate(spans)},
        parameters=options.parameters,
        seed=options.seed,
    )
    loader = DataLoader(TensorDataset(*train), batch_size=options.batch_size, shuffle=True)
    for epoch in growing:
        for batch in loader:
            growing.train_step(batch)
        print(f"{epoch}  {time.perf_counter() - began:.0f} s")
    grown = growing.plain().eval()
    print(table(find_spans(grown, train[0][:2])))
    parameters = sum(parameter.numel() for parameter in grown.parameters())
    print(f"{parameters:,} parameters, test {accuracy(grown, *test):.1f} %, {time.perf_counter() - began:.0f} s")
    if options.onnx is not None:
        difference = exported(grown, test[0][:2], options.onnx)
        print(f"{options.onnx}: {options.onnx.stat().st_size / 1e6:.1f} MB, logits differ by {difference:.1e} at most")


if __name__ == "__main__":
    main()

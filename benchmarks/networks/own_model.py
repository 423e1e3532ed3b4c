"""Cost of growing a model of one's own, as ratios against ordinary PyTorch.

A step of ``train_step`` over the hand-written step of the same host, without seeds and with three live ones; ``wrap``
of a ViT-B over one forward pass of a batch of two; peak memory without seeds over that of the host, a ResNet-50. A
session also keeps the last healthy state for rollbacks, which is a figure without a bar. One thread, CPU.

``wrap`` runs the host on inputs of other sizes. The kernels that torch compiles for them stay in memory: about 4 MB for
a ResNet-18, as five forward passes of other sizes without this package do.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.report import Bar, Measurements, paired_seconds
from esper_ray.growing import GrowthSession, grow
from esper_ray.kasmina import GrowingOptimizer, MorphogeneticModel, seeded_initialisation
from esper_ray.leyline.records import SeedMeasurements

BATCH, PAIRS, WRAPS = 32, 40, 5
SLOTS = {"r0c0": "layer1", "r0c1": "layer2", "r0c2": "layer3"}
VIT_SLOTS = {f"r0c{column}": f"encoder.layers.encoder_layer_{layer}" for column, layer in enumerate((3, 7, 11))}
WORTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=1.0)
MEMORY_STEPS = 3
RETURNED = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Settings of the C library by which freed memory is returned at once; without them a peak varies by 5 %."""
MEMORY_KINDS = ("by_hand", "wrapped", "session")
"""What is trained for the memory: the host, the host with empty slots, a session with its state for rollbacks."""

ImageBatch = tuple[Tensor, Tensor]


def resnet(layers: int = 18) -> nn.Module:
    """ResNet-18, or another, for ten classes of images of 32x32 pixels."""
    from torchvision import models

    with seeded_initialisation(0):
        model: nn.Module = getattr(models, f"resnet{layers}")(num_classes=10)
    return model


def batch() -> ImageBatch:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator)
    return images, torch.randint(0, 10, (BATCH,), generator=generator)


class HandWrittenStep:
    """Hand-written training step with clipping, as the session does it."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.model = model.train()
        self.optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3)

    def __call__(self, pair: ImageBatch) -> None:
        images, labels = pair
        self.optimizer.zero_grad()
        cross_entropy(self.model(images), labels).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def session(*, layers: int = 18, blended: bool = False) -> GrowthSession:
    """Session over the same host, with empty slots or three live seeds."""
    images, labels = batch()
    growing = grow(
        resnet(layers), (images[:8], labels[:8]), epochs=2, policy="static", slots=SLOTS, report=lambda line: None
    )
    if blended:
        for slot in SLOTS:
            growing.model.germinate(slot, "conv_light", style="linear_add", tempo=1)
            growing.model.advance(slot, WORTHY)
            growing.model.advance(slot, WORTHY)
        growing.model.tick()
    growing.begin_epoch()
    return growing


def wrap_over_forward() -> tuple[float, float]:
    """Median seconds of ``wrap`` of a ViT-B and of one forward pass."""
    from torchvision.models import vit_b_16

    example = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with seeded_initialisation(0):
        host = vit_b_16().eval()
    wraps, passes = [], []
    for _ in range(WRAPS):
        fresh = copy.deepcopy(host)  # slots stay on what was wrapped
        passes.append(_seconds(partial(host, example)))
        wraps.append(_seconds(partial(MorphogeneticModel.wrap, fresh, VIT_SLOTS, example)))
    return median(wraps), median(passes)


def _seconds(run: Callable[[], Any]) -> float:
    began = perf_counter()
    with torch.no_grad():
        run()
    return perf_counter() - began


def peak_megabytes(kind: str) -> float:
    """Peak memory of a process that trains a few steps, in MB above its imports."""
    command = [sys.executable, "-m", "benchmarks.networks.own_model", "--memory", kind]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | RETURNED)
    return float(json.loads(answer.stdout.splitlines()[-1]))


def _own_peak(kind: str) -> float:
    """Peak resident memory over a few steps, in MB above that before the host."""
    from torchvision import models  # noqa: F401 - not counted

    torch.set_num_threads(1)
    pair = batch()
    before = _peak_megabytes()
    step: Callable[[ImageBatch], object]
    if kind == "session":
        step = session(layers=50).train_step
    elif kind == "wrapped":
        model = MorphogeneticModel.wrap(resnet(50), SLOTS, pair[0][:2])
        step = HandWrittenStep(model, GrowingOptimizer(model, torch.optim.AdamW, lr=1e-3))
    else:
        step = HandWrittenStep(resnet(50))
    for _ in range(MEMORY_STEPS):
        step(pair)
    return _peak_megabytes() - before


def _peak_megabytes() -> float:
    """Peak resident memory of this program. ``getrusage`` would count the program that started it, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure() -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    pair = batch()
    by_hand, empty, grown = HandWrittenStep(resnet()), session(), session(blended=True)
    empty_s, hand_s, empty_ratio = paired_seconds(lambda: empty.train_step(pair), lambda: by_hand(pair), PAIRS)
    grown_s, _, grown_ratio = paired_seconds(lambda: grown.train_step(pair), lambda: by_hand(pair), PAIRS)
    wrap_s, pass_s = wrap_over_forward()
    memory = {kind: peak_megabytes(kind) for kind in MEMORY_KINDS}
    figures = {
        "by_hand_ms": 1e3 * hand_s,
        "train_step_ms": 1e3 * empty_s,
        "train_step_over_by_hand": empty_ratio,
        "three_seeds_ms": 1e3 * grown_s,
        "three_seeds_over_by_hand": grown_ratio,
        "vit_b_forward_s": pass_s,
        "vit_b_wrap_s": wrap_s,
        "wrap_over_forward": wrap_s / pass_s,
        **{f"{kind}_mb": amount for kind, amount in memory.items()},
        "memory_over_by_hand": memory["wrapped"] / memory["by_hand"],
        "session_memory_over_by_hand": memory["session"] / memory["by_hand"],
    }
    bars = {
        "train_step_over_by_hand": Bar(1.05),
        "three_seeds_over_by_hand": Bar(1.6),
        "wrap_over_forward": Bar(10.0),
        "memory_over_by_hand": Bar(1.02),
    }
    return Measurements("own_model", figures, bars)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print(json.dumps(_own_peak(sys.argv[2])))
        raise SystemExit(0)
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

"""Cost of measuring all coalitions of three blended seeds on ``cifar_baseline``, over one plain pass.

The plain pass is an evaluation of the same grown network with all seeds on. The naive way, one pass for
each of the eight coalitions, is measured too; both ways must agree. Images are random numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from benchmarks.networks.host_epoch import CPU, host_config, random_images
from benchmarks.report import Bar, Measurements, paired_seconds
from esper_ray.kasmina.measurement.coalition_sampling import few_coalitions
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.passes.branching import subsets
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.tolaria import validation as measurement
from esper_ray.tolaria.assembly import build_organism
from esper_ray.tolaria.data import ImageData

SLOTS = ("r0c0", "r0c1", "r0c2")
BLUEPRINTS = ("conv_light", "conv_light", "conv_light")
IMAGES = 2048
PAIRS = 7
READY = SeedMeasurements(gradient_health=1.0, exploding=False, finite=True, contribution_pp=1.0)


def grown_model(data: ImageData) -> MorphogeneticModel:
    """Host with three half blended seeds that change its output."""
    config = host_config("cifar_baseline").model_copy(deep=True)
    model = build_organism(config, data, CPU, seed=0).model
    generator = torch.Generator().manual_seed(0)
    for slot, blueprint in zip(SLOTS, BLUEPRINTS, strict=True):
        model.germinate(slot, blueprint, style="linear_add", tempo=2)
        model.advance(slot)
        for _ in range(config.growth.min_training_epochs):
            model.growth.count_epoch()
        if not model.advance(slot, READY):
            raise RuntimeError("the seed of the benchmark does not blend")
        model.tick()
        scale = dict(model.cell(slot).named_parameters())["seed.scale"]
        with torch.no_grad():
            scale.copy_(torch.randn(scale.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def plain_pass(model: MorphogeneticModel, data: ImageData) -> tuple[float, float]:
    """Loss and accuracy in percent, measured by a plain loop."""
    losses, right = 0.0, 0.0
    split = data.train
    for start in range(0, IMAGES, measurement.CHUNK):
        images, labels = data.prepared(split, start, start + measurement.CHUNK)
        logits = model(images)
        losses += cross_entropy(logits, labels, reduction="sum").item()
        right += (logits.argmax(dim=1) == labels).sum().item()
    return losses / IMAGES, 100.0 * right / IMAGES


@contextmanager
def without(model: MorphogeneticModel, slots: frozenset[str]) -> Iterator[None]:
    """Context in which the seeds of ``slots`` have amplitude zero."""
    alphas = {slot: model.cell(slot).alpha.clone() for slot in slots}
    for slot in slots:
        model.cell(slot).alpha.fill_(0.0)
    try:
        yield
    finally:
        for slot, alpha in alphas.items():
            model.cell(slot).alpha.copy_(alpha)


def naive_accuracies(model: MorphogeneticModel, data: ImageData) -> dict[frozenset[str], float]:
    """Accuracies of the coalitions, from one pass for each."""
    accuracies = {}
    for members in subsets(SLOTS):
        with without(model, frozenset(SLOTS) - members):
            accuracies[members] = plain_pass(model, data)[1]
    return accuracies


def measure_coalitions() -> dict[str, float]:
    """Milliseconds and ratios."""
    data = random_images(IMAGES)
    model = grown_model(data)
    table = measurement.measure(model, data, data.train, examples=IMAGES)
    expected = naive_accuracies(model, data)
    gaps = [abs(expected[coalition.members] - coalition.accuracy_pp) for coalition in table.coalitions]
    fast, plain, ratio = paired_seconds(
        lambda: measurement.measure(model, data, data.train, examples=IMAGES), lambda: plain_pass(model, data), PAIRS
    )
    _, _, slow = paired_seconds(lambda: naive_accuracies(model, data), lambda: plain_pass(model, data), 3)
    _, _, few = paired_seconds(
        lambda: measurement.measure(model, data, data.train, partial(few_coalitions, committed=frozenset()), IMAGES),
        lambda: plain_pass(model, data),
        PAIRS,
    )
    return {
        "coalitions": float(len(table.coalitions)),
        "largest_difference_pp": max(gaps),
        "plain_pass_ms": 1e3 * plain,
        "all_coalitions_ms": 1e3 * fast,
        "all_over_plain_pass": ratio,
        "naive_over_plain_pass": slow,
        "full_and_committed_over_plain_pass": few,
    }


def measure() -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    bars = {"all_over_plain_pass": Bar(3.5), "largest_difference_pp": Bar(100.0 / IMAGES)}
    return Measurements("coalitions", measure_coalitions(), bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

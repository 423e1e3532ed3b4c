"""Whether scores of places predict what seeds contribute that are born there.

A host is trained for some epochs and its places are scored. From this state each place alone gets a seed, at full
amplitude from the first step, and all arms train on the same batches. A figure ``<host>_..._correlation`` is Spearman's
rank correlation over the slots of a host, mean over seeds (first weights, batches, newborn weights);
``_lower`` is the lower end of its 95 % interval.

The score is a gain for each parameter. So every seed gets as nearly the same number of parameters as whole channels
allow, and the criterion of the bar, named before anything was measured, is the contribution for each parameter of the
seed: loss without it minus loss with it on held-out examples. With equal parameters it does not hold merely because
score and contribution are divided by the same number. ``nats`` is the same contribution undivided, ``points`` is in
accuracy, ``gain`` is the fall of the final loss below that of the host without any seed.

Naive predictors have the same criterion: ``depth`` is the position of a slot, ``width`` its present number of channels,
``price`` the parameters of one more channel. ``others`` predicts by the mean contribution at the place under the other
seeds: about as much as could be known. ``repeat`` compares the scores of two batches, ``many`` is the score of eight.

The score is that of one batch, the least there is: before any contribution was measured, its ranks agreed with those
of twelve other batches about as well as those of two. ``cost_of_epoch`` is its time over that of an epoch. The digits
have 16 batches an epoch, so that one batch is 6 % of it and the bar cannot hold there.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import mean

import torch
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from torch import Tensor, nn

from benchmarks.networks.width_cases import (
    CONTRIBUTES,
    WIDTH_PAIRS,
    Case,
    available,
    batches,
    cifar,
    digits,
    fresh,
    interval,
    loss_of,
)
from benchmarks.report import Bar, Measurements, paired_seconds
from esper_ray.kasmina import GateRules, GrowingOptimizer, MorphogeneticModel, Rules, SlotShape, Span, find_spans
from esper_ray.kasmina.blueprints.images import group_norm
from esper_ray.tolaria.sources.cifar import CLASSES

SCORED, MANY = 1, 8
"""Numbers of training batches of the score, and of the one from many."""
BRANCH_PARAMETERS = 1200
BRANCH = "benchmarks.networks.place_scores:side_branch"
"""Blueprint of side branches, by its place."""
RULES = Rules(GateRules(min_training_epochs=0, min_blending_epochs=0))

ScoreTable = dict[str, list[float]]
"""Figures of the slots of a host in forward order, by name."""
CORRELATIONS = {
    "rank": ("score", "contribution"),
    "many": ("many", "contribution"),
    "nats": ("score", "nats"),
    "points": ("score", "points"),
    "gain": ("score", "gain"),
    "depth": ("depth", "contribution"),
    "width": ("width", "contribution"),
    "price": ("price", "contribution"),
    "others": ("others", "contribution"),
    "repeat": ("score", "again"),
}
"""Predictor and criterion of each correlation."""


@dataclass(frozen=True)
class ScoredHost:
    """A host with its places."""

    case: Case
    """Its epochs come before the scores; its parameters are those of each seed."""
    epochs: int
    """Epochs with the seed."""
    branches: tuple[str, ...] = ()
    """Submodules behind which side branches grow; without them all spans are widened."""


def deep_mlp() -> nn.Module:
    """An MLP with hidden layers of 24, 6, 32, 8 and 16 units."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((64, 24), (24, 6), (6, 32), (32, 8), (8, 16)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 10))


def deep_cnn(inputs: int, widths: tuple[int, ...], first: int) -> nn.Module:
    """Convolutions with batch normalisation, and a pool after every second from ``first`` on."""
    layers: list[nn.Module] = []
    for index, outputs in enumerate(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if index % 2 == first else []
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))


class Residual(nn.Module):
    """A convolution with batch normalisation that is added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.change(h)
        return out


def residual_cnn() -> nn.Module:
    """Stages of 8, 24 and 12 channels: convolution, pool and residual block."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 24), (24, 12)):
        stage = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Sequential(*stage), Residual(outputs)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES))


def side_branch(shape: SlotShape) -> nn.Module:
    """A 3x3 convolution, ReLU, a 1x1 convolution and a norm.

    At every width it has about :data:`BRANCH_PARAMETERS`. Without the norm, as in a first trial, most branches
    contributed less than 0.01 nats after two epochs.
    """
    hidden = max(1, round(BRANCH_PARAMETERS / (10 * shape.channels)))
    layers = [nn.Conv2d(shape.channels, hidden, 3, padding=1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(hidden, shape.channels, 1, bias=False), group_norm(shape.channels))


SCORED_HOSTS: Mapping[str, ScoredHost] = {
    "digits_mlp": ScoredHost(Case(deep_mlp, digits, 8, 300, 3e-3), 6),
    "digits_cnn": ScoredHost(Case(lambda: deep_cnn(1, (4, 12, 6, 16, 8, 12), 1), digits, 6, 510, 3e-3), 4),
    "cifar_cnn": ScoredHost(Case(lambda: deep_cnn(3, (8, 16, 8, 24, 12, 24), 0), cifar, 4, 1200, 3e-3), 2),
    "cifar_branches": ScoredHost(
        Case(residual_cnn, cifar, 4, BRANCH_PARAMETERS, 3e-3), 2, ("0", "1", "2", "3", "4", "5")
    ),
}


def wrapped(host: ScoredHost, seed: int) -> tuple[MorphogeneticModel, ScoreTable, dict[str, int]]:
    """Fresh host with its slots, naive predictors, and new channels (0 for branches)."""
    module, example = fresh(host.case, seed), host.case.examples().train[0][:2]
    spans = [] if host.branches else find_spans(module, example)
    places: Sequence[str | Span] = host.branches or spans
    slots = {f"r0c{index}": place for index, place in enumerate(places)}
    model = MorphogeneticModel.wrap(module, slots, example, rules=RULES, seed=seed)
    if host.branches:
        widths = [float(model.cell(slot).shape.channels) for slot in slots]
        prices, channels = [10.0 * width for width in widths], dict.fromkeys(slots, 0)
    else:
        widths, prices = [float(s.channels) for s in spans], [float(s.parameters_per_channel) for s in spans]
        wanted = [max(1, round(host.case.parameters / price)) for price in prices]
        channels = dict(zip(slots, wanted, strict=True))
    return model, {"depth": [float(i) for i in range(len(slots))], "width": widths, "price": prices}, channels


def train(model: MorphogeneticModel, case: Case, seed: int, epochs: range) -> None:
    """Train host and seeds on the batches of ``epochs``, with a new optimizer."""
    optimizer = GrowingOptimizer(model, torch.optim.AdamW, lr=case.lr)
    for epoch in epochs:
        model.train()
        for batch in batches(case, seed, epoch):
            optimizer.zero_grad()
            loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


def plant(model: MorphogeneticModel, slot: str, channels: int) -> None:
    """Plant a seed in ``slot`` and bring it to full amplitude at once."""
    if channels:
        model.germinate(slot, "widen", channels=channels, tempo=1)
    else:
        model.germinate(slot, BRANCH, tempo=1)
    for _ in range(2):
        model.advance(slot, CONTRIBUTES)
    model.tick()
    assert model.advance(slot, CONTRIBUTES)


@torch.no_grad()
def judged(model: MorphogeneticModel, case: Case, slot: str | None = None) -> list[tuple[float, float]]:
    """Loss and accuracy in points on held-out examples: without the seed in ``slot``, and with it."""
    slots = frozenset({slot} if slot else ())
    sums = dict.fromkeys({frozenset[str](), slots}, (0.0, 0.0))
    model.eval()
    inputs, targets = case.examples().held_out
    for x, y in zip(torch.split(inputs, 500), torch.split(targets, 500), strict=True):
        with model.branching(slots, list(sums)) as blocks:
            outputs = model(x).chunk(len(blocks))
        for block, logits in zip(blocks, outputs, strict=True):
            loss = nn.functional.cross_entropy(logits, y, reduction="sum").item()
            right = 100.0 * (logits.argmax(-1) == y).sum().item()
            sums[block] = sums[block][0] + loss, sums[block][1] + right
    count = len(targets)
    return [(sums[members][0] / count, sums[members][1] / count) for members in (frozenset[str](), slots)]


def scores(model: MorphogeneticModel, parts: list[tuple[Tensor, Tensor]], seed: int = 0) -> list[float]:
    """Gains of all slots."""
    scored = model.place_scores(parts, lambda batch: loss_of(model, batch), seed=seed)
    return [scored[slot].gain for slot in model.slot_ids]


def trial(host: ScoredHost, seed: int) -> ScoreTable:
    """Predictors and contributions of the slots of ``host`` with one seed of its randomness."""
    case = host.case
    model, table, channels = wrapped(host, seed)
    train(model, case, seed, range(case.epochs))
    parts = batches(case, seed, case.epochs)
    table["score"], table["many"] = scores(model, parts[:SCORED]), scores(model, parts[:MANY])
    table["again"] = scores(model, parts[SCORED : 2 * SCORED], seed=1000)
    later = range(case.epochs, case.epochs + host.epochs)
    alone = copy.deepcopy(model)
    train(alone, case, seed, later)
    final = judged(alone, case)[0][0]
    table |= {name: [] for name in ("contribution", "nats", "points", "gain")}
    for slot in model.slot_ids:
        grown = copy.deepcopy(model)
        plant(grown, slot, channels[slot])
        train(grown, case, seed, later)
        without, having = judged(grown, case, slot)
        table["nats"].append(without[0] - having[0])
        table["points"].append(having[1] - without[1])
        table["gain"].append(final - having[0])
        table["contribution"].append(table["nats"][-1] / grown.seed_parameters(slot))
    return table


def correlation(first: list[float], second: list[float]) -> float:
    """Spearman's rank correlation; 0 where all values of one are equal."""
    value = float(spearmanr(first, second).statistic) if len(set(first)) > 1 and len(set(second)) > 1 else 0.0
    assert not isnan(value)
    return value


def cost_of_epoch(host: ScoredHost) -> float:
    """Seconds of the scores over seconds of an epoch of the host."""
    model = wrapped(host, 0)[0]
    train(model, host.case, 0, range(1))
    parts = batches(host.case, 0, 1)
    alone = fresh(host.case, 0).train()
    optimizer = torch.optim.AdamW(alone.parameters(), lr=host.case.lr)

    def epoch() -> None:
        for batch in parts:
            optimizer.zero_grad()
            loss_of(alone, batch).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
            optimizer.step()

    return paired_seconds(lambda: scores(model, parts[:SCORED]), epoch, 5)[2]


def summary(name: str, tables: list[ScoreTable]) -> dict[str, float]:
    """Figures of the host ``name`` from the tables of its seeds."""
    for table in tables:
        rest = [other["contribution"] for other in tables if other is not table]
        table["others"] = [mean(values) for values in zip(*rest, strict=True)]
    figures: dict[str, float] = {}
    for kind, (predictor, criterion) in CORRELATIONS.items():
        center, half = interval([correlation(table[predictor], table[criterion]) for table in tables])
        figures |= {f"{name}_{kind}_correlation": center, f"{name}_{kind}_correlation_lower": center - half}
    return figures


def measure(seeds: int = WIDTH_PAIRS) -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for name, host in SCORED_HOSTS.items():
        if name.startswith("cifar") and not available("cifar_cnn"):
            continue
        figures |= summary(name, [trial(host, seed) for seed in range(seeds)])
        figures[f"{name}_cost_of_epoch"] = cost_of_epoch(host)
        bars[f"{name}_rank_correlation_lower"] = Bar(0.0, at_least=True)
        bars[f"{name}_cost_of_epoch"] = Bar(0.03)
    return Measurements("place_scores", figures, bars)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

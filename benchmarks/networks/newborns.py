"""How newborn seeds start: schedules of their learning rate, and first weights.

Hosts and data are those of ``width``. After a quarter of the epochs the host gets seeds that are born live and stay to
the end: on every span as many channels as it has, or behind one submodule a side branch. All arms have the same first
weights of the host and the same batches; learning rates are those that a run has, with a cosine. Figures are test
accuracies in points over the reference, which has the schedule of the host and channels in pairs: means of eight pairs
with the ends of a 95 % interval.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import mean

import torch

from benchmarks.networks.width_cases import (
    WIDTH_CASES,
    WIDTH_PAIRS,
    Case,
    accuracy,
    available,
    batches,
    fresh,
    interval,
    loss_of,
)
from benchmarks.report import Measurements
from esper_ray.kasmina import GrowingOptimizer, GrowthOptions, MorphogeneticModel, find_spans
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import GerminationStyle
from esper_ray.leyline.config.growth import Initialisation
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.run import RunConfig
from esper_ray.tolaria.stepping.learning_rates import learning_rates

BRANCHES: Mapping[str, tuple[str, str]] = {
    "digits_cnn": ("4", "conv_light"),
    "digits_mlp": ("2", "mlp_small"),
    "cifar_cnn": ("6", "conv_light"),
    "text": ("blocks.0", "mlp_small"),
}
"""Submodule behind which a side branch grows, and its blueprint."""
REFERENCE_SCHEDULE, REFERENCE_START = "host", "paired"


@dataclass(frozen=True)
class Start:
    """How the seeds of an arm start."""

    branch: bool = False
    schedule: str = REFERENCE_SCHEDULE
    widening: str = REFERENCE_START


def arms() -> Iterator[tuple[str, Start]]:
    """All arms by name."""
    for schedule in ("host", "restart", "rescaled"):
        yield f"width_{schedule}", Start(schedule=schedule)
        yield f"branch_{schedule}", Start(branch=True, schedule=schedule)
    for start in ("random", "gradmax", "tiny"):
        yield f"width_{start}", Start(widening=start)


def settings(case: Case, seed: int, start: Start) -> RunConfig:
    """Configuration of the learning rates of a run like ``case``."""
    training = {
        "training.lr": case.lr,
        "training.seed_lr": case.lr,
        "training.schedule": "cosine",
        "training.warmup_epochs": 0,
        "training.seed_warmup_epochs": 1,
        "training.newborn_schedule": start.schedule,
        "training.steps_per_epoch": len(batches(case, seed, 0)),
    }
    return build({}, training | {"episode_length": case.epochs})


def grown(name: str, seed: int, start: Start) -> float:
    """Test accuracy of one arm."""
    case = WIDTH_CASES[name]
    model, slots = wrapped(name, seed, start)
    optimizer = GrowingOptimizer(model, torch.optim.AdamW, lr=case.lr)
    organism, config = Organism(model, optimizer), settings(case, seed, start)
    for epoch in range(case.epochs):
        parts = batches(case, seed, epoch)
        if epoch == case.epochs // 4:
            for slot, (blueprint, channels) in slots.items():
                closure = lambda: loss_of(model, parts[0])  # noqa: B023, E731  # called at once
                model.germinate(slot, blueprint, channels=channels, tempo=0, closure=closure)
        rates = learning_rates(config, organism, epoch)
        model.train()
        for step, batch in enumerate(parts):
            for group in optimizer.param_groups:
                if group["name"] in rates:
                    group["lr"] = rates[group["name"]][step]
            optimizer.zero_grad()
            loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.clip(1.0, 1.0)
            optimizer.step()
        model.growth.count_epoch()
    return accuracy(model, case.examples().test)


def wrapped(name: str, seed: int, start: Start) -> tuple[MorphogeneticModel, dict[str, tuple[str, int | None]]]:
    """Host with its slots, and the blueprint and channels of the seed in each."""
    case = WIDTH_CASES[name]
    host, example = fresh(case, seed), case.examples().train[0][:2]
    ends: dict[GerminationStyle, Initialisation] = dict.fromkeys(GerminationStyle, "zero_output")
    options = GrowthOptions(initialisation=ends, widening=start.widening)  # type: ignore[arg-type]  # one of the starts
    if start.branch:
        place, blueprint = BRANCHES[name]
        return MorphogeneticModel.wrap(host, {"r0c0": place}, example, options=options, seed=seed), {
            "r0c0": (blueprint, None)
        }
    spans = {f"r0c{index}": span for index, span in enumerate(find_spans(host, example))}
    model = MorphogeneticModel.wrap(host, spans, example, options=options, seed=seed)
    return model, {slot: ("widen", span.channels) for slot, span in spans.items()}


def compared(name: str, seeds: int) -> dict[str, float]:
    """Figures of one host."""
    reached = {arm: [grown(name, seed, start) for seed in range(seeds)] for arm, start in arms()}
    figures = {f"{name}_{arm}_pp": mean(values) for arm, values in reached.items()}
    for arm, values in reached.items():
        reference = f"{arm.partition('_')[0]}_{REFERENCE_SCHEDULE}"
        if arm != reference:
            center, half = interval([new - old for new, old in zip(values, reached[reference], strict=True)])
            figures |= {f"{name}_{arm}_over_reference_pp": center}
            figures |= {f"{name}_{arm}_lower_pp": center - half, f"{name}_{arm}_upper_pp": center + half}
    return figures


def measure(seeds: int = WIDTH_PAIRS) -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    for name in WIDTH_CASES:
        if available(name):
            figures |= compared(name, seeds)
    return Measurements("newborns", figures, {})


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

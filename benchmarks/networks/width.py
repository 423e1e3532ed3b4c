"""Growth in width on honest small hosts, against controls.

The controls are the host alone, and the same topology from scratch. All arms of a pair have the same first weights of
the host, the same batches and equal epochs. The network from scratch has them too, at the scale of its own layers: it
is a draw of their usual initial weights that shares its random numbers with the host's. Figures are test accuracies in
points, paired over eight seeds, with 95 % intervals. Hosts whose data are absent are left out.
"""

from statistics import mean
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks.width_cases import (
    WIDTH_CASES,
    WIDTH_PAIRS,
    Case,
    accuracy,
    available,
    batches,
    fresh,
    from_scratch,
    interval,
    loss_of,
    trained,
)
from benchmarks.networks.width_picture import draw
from benchmarks.report import Bar, Measurements
from esper_ray import grow
from esper_ray.growing.session import GrowthSession
from esper_ray.kasmina import find_spans
from esper_ray.kasmina.modules import count_parameters


def grown(case: Case, seed: int, policy: str = "heuristic", **options: Any) -> tuple[GrowthSession, float]:
    """A finished growth in width, and its floating-point operations."""
    host = fresh(case, seed)
    slots = {f"r0c{index}": span for index, span in enumerate(find_spans(host, case.examples().train[0][:2]))}
    settings: dict[str, Any] = {"epochs": case.epochs, "slots": slots, "parameters": case.parameters, "lr": case.lr}
    session = grow(host, case.examples().held_out, policy=policy, seed=seed, report=len, **(settings | options))
    schedule = CosineAnnealingLR(session.optimizer, case.epochs)
    flops, known = 0.0, dict[Any, float]()
    for step in session:
        parts = batches(case, seed, step.epoch)
        key = session.model.host_parameters, session.model.growth.structure()[1:]
        if key not in known:
            with FlopCounterMode(display=False) as counter:
                session.train_step(parts[0])
            known[key] = float(counter.get_total_flops())
            parts = parts[1:]
        flops += known[key] * (len(batches(case, seed, step.epoch)))
        for batch in parts:
            session.train_step(batch)
        schedule.step()
    return session, flops


def step_flops(model: nn.Module, case: Case) -> float:
    """Floating-point operations of a training epoch of ``model``."""
    parts = batches(case, 0, 0)
    with FlopCounterMode(display=False) as counter:
        loss_of(model.train(), parts[0]).backward()
    model.zero_grad()
    return float(counter.get_total_flops()) * len(parts)


def compared(name: str, seeds: int = WIDTH_PAIRS) -> dict[str, float]:
    """Figures of one case."""
    case = WIDTH_CASES[name]
    arms: dict[str, list[float]] = {"alone": [], "widened": [], "scratch_epochs": [], "scratch_flops": []}
    parameters, costs = [], []
    for seed in range(seeds):
        session, flops = grown(case, seed)
        plain = session.plain()
        arms["widened"].append(accuracy(plain, case.examples().test))
        arms["alone"].append(trained(fresh(case, seed), case, seed, case.epochs))
        wide = from_scratch(plain, seed, fresh(case, seed))
        epoch = step_flops(wide, case)
        arms["scratch_flops"].append(trained(wide, case, seed, flops / epoch))
        arms["scratch_epochs"].append(trained(from_scratch(plain, seed, fresh(case, seed)), case, seed, case.epochs))
        parameters.append(float(count_parameters(plain)))
        costs.append(flops / (epoch * case.epochs))
    figures = {f"{name}_{arm}_pp": mean(values) for arm, values in arms.items()}
    for other in ("alone", "scratch_epochs", "scratch_flops"):
        gains = [new - old for new, old in zip(arms["widened"], arms[other], strict=True)]
        center, half = interval(gains)
        figures |= {f"{name}_over_{other}_pp": center, f"{name}_over_{other}_lower_pp": center - half}
    share = mean(parameters) / case.parameters
    return figures | {f"{name}_of_target": share, f"{name}_flops_of_wide": mean(costs)}


def measure(seeds: int = WIDTH_PAIRS) -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for name in WIDTH_CASES:
        if available(name):
            figures |= compared(name, seeds)
    if available("cifar_cnn"):
        bars["cifar_cnn_over_alone_lower_pp"] = Bar(0.0, at_least=True)
        bars["cifar_cnn_over_scratch_epochs_lower_pp"] = Bar(-1.0, at_least=True)
        bars["cifar_cnn_over_scratch_flops_lower_pp"] = Bar(0.0, at_least=True)
    draw(figures)
    from benchmarks.networks.width_gromo import peers  # it builds on this module

    more, limits = peers(seeds)
    return Measurements("width", figures | more, bars | limits)


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

"""Step time by number of live seeds, step rate by number of environments.

Seeds: the deep CIFAR host with 1x1 convolutions and ten slots, of which the first n hold a blended
seed. Environments: episodes of the digits preset without growth, one Ray actor for each environment.
Images of the first are random numbers.
"""

import os
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.networks.host_epoch import random_images
from benchmarks.report import RESULTS, Measurements
from esper_actors.factory import make_workers
from esper_actors.rollout.recorder import Assignment
from esper_actors.rollout.runner import episode_seed
from esper_actors.training.workers import play_round
from esper_ray.environment import MorphogenesisEnv
from esper_ray.kasmina.hosts import CNN_VARIANTS
from esper_ray.leyline.actions import WAIT, Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.stages import Stage

SEEDS = tuple(range(11))
ENVIRONMENTS = (1, 2, 4, 8)
STEPS = 5
"""Number of timed steps, after one warm-up step."""
EPISODE = 20
PICTURE = RESULTS / "scaling.png"
DEEP = CNN_VARIANTS["cifar_deep_impaired"]


def seed_milliseconds() -> dict[int, float]:
    """Median milliseconds of a step by number of live seeds."""
    slots = list(DEEP.available_slots())
    host = {f"host.{key}": value for key, value in DEEP.model_dump().items()}
    config = build(
        read_preset("digits"),
        host
        | {
            "growth.slots": slots,
            "growth.blueprints": ["conv_light"],
            "growth.min_training_epochs": 0,
            "growth.min_gradient_health": 0.0,
            "training.batch_size": 256,
            "training.steps_per_epoch": 4,
            "governor.collapse_share": 0.0,
            "episode_length": 10**5,
        },
    )
    env = MorphogenesisEnv(config, data=random_images(2048))
    env.reset(seed=0)
    times = {0: _step_milliseconds(env)}
    for count in SEEDS[1:]:
        style, blueprint = int(GerminationStyle.LINEAR_ADD), int(Blueprint.CONV_LIGHT)
        birth = Action(op=int(LifecycleOp.GERMINATE), slot=count - 1, blueprint=blueprint, style=style, tempo=0)
        *_, info = env.step(birth.to_indices())
        if not info["success"]:
            raise RuntimeError("the seed of the benchmark does not germinate")
        while _stage(env, count - 1) is not Stage.HOLDING:
            env.step(WAIT.to_indices())
        times[count] = _step_milliseconds(env)
    return times


def _stage(env: MorphogenesisEnv, slot: int) -> Stage | None:
    report = env.reports[slot]
    return None if report is None else report.stage


def _step_milliseconds(env: MorphogenesisEnv) -> float:
    times = []
    for _ in range(STEPS + 1):
        began = perf_counter()
        env.step(WAIT.to_indices())
        times.append(perf_counter() - began)
    return 1e3 * median(times[1:])


def environment_rates() -> dict[int, float]:
    """Environment steps per second of the whole machine by number of environments."""
    rates = {}
    for count in ENVIRONMENTS:
        config = build(
            read_preset("digits"),
            {"system.envs": count, "system.envs_per_actor": 1, "episode_length": EPISODE, "policy.memory_size": 64},
        )
        with make_workers(config) as workers:
            once = partial(_play, workers, config)
            once(0)
            began = perf_counter()
            once(1)
            rates[count] = count * EPISODE / (perf_counter() - began)
    return rates


def _play(workers: Any, config: RunConfig, index: int) -> None:
    assignments = [Assignment(env, env, episode_seed(config.seed, index, env)) for env in range(config.system.envs)]
    play_round(workers, assignments, 0.0)


def draw(seeds: dict[int, float], rates: dict[int, float]) -> None:
    """Draw the plot of both."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(list(seeds), list(seeds.values()), marker="o")
    left.set(xlabel="live seeds", ylabel="ms per step", title="deep CIFAR host, 4 steps of 256 images", ylim=(0, None))
    cores = os.cpu_count() or 1
    right.plot(list(rates), list(rates.values()), marker="o", label="measured")
    ideal = [rates[1] * min(count, cores) for count in rates]
    right.plot(list(rates), ideal, linestyle="--", color="grey", label=f"{cores} cores, perfectly used")
    right.set(xlabel="environments", ylabel="environment steps per second", title="digits on Ray", ylim=(0, None))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)


def measure() -> Measurements:
    """Run the benchmark and write the plot."""
    torch.set_num_threads(1)
    seeds, rates = seed_milliseconds(), environment_rates()
    draw(seeds, rates)
    figures = {f"step_ms_{count}_seeds": value for count, value in seeds.items()}
    figures |= {f"steps_per_second_{count}_environments": value for count, value in rates.items()}
    slope = float(np.polyfit(list(seeds), list(seeds.values()), 1)[0])
    return Measurements("scaling", figures | {"ms_per_seed": slope}, {})


if __name__ == "__main__":
    result = measure()
    result.show()
    raise SystemExit(0 if result.ok else 1)

"""What a critic would gain from more numbers than Obs V3 has.

160 episodes of ``digits_long`` are played once and kept: by the policy that ships, which samples, with some random
choices. Their discounted returns are regressed on the numbers that the critic sees and on each addition, by a ridge
regression and by boosted trees, in four folds of whole episodes. Figures are the variance explained on the episodes
that were held back, and its change by the addition with the ends of a 95 % interval (bootstrap over episodes).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.report import Measurements
from esper_policies.bundle import load_bundle, pretrained_path
from esper_ray.environment import MorphogenesisEnv
from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.config.layers import load_preset
from esper_ray.leyline.observation import symlog
from esper_ray.leyline.policy import View

EPISODES, FOLDS, RESAMPLES = 160, 4, 2000
FIRST_KEPT_SEED, EXPLORATION = 20_000, 0.15
KEPT_EPISODES = Path("runs") / "critic-features.npz"
"""File of the episodes, played again if it is removed."""
ADDITIONS: Mapping[str, tuple[str, ...]] = {
    "points": ("points",),
    "parameters": ("parameters",),
    "gap_to_control": ("gap",),
    "end_of_control": ("control",),
    "all": ("points", "parameters", "gap", "control"),
}
"""Columns of each addition."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kept:
    """Steps of the kept episodes: columns by name, returns, and the number of each step's episode."""

    columns: Mapping[str, Floats]
    returns: Floats
    episode: NDArray[np.int64]


def kept_episodes() -> Kept:
    """The kept episodes; they are played if there is no file."""
    if not KEPT_EPISODES.exists():
        KEPT_EPISODES.parent.mkdir(exist_ok=True)
        np.savez_compressed(KEPT_EPISODES, **_played())
    with np.load(KEPT_EPISODES) as arrays:
        columns = {name: arrays[name] for name in ("seen", "points", "parameters", "gap", "control")}
        return Kept(columns, arrays["returns"], arrays["episode"])


def _played() -> dict[str, NDArray[Any]]:
    config = load_preset("digits_long")
    env, path = MorphogenesisEnv(config), pretrained_path("tamiyo")
    assert path is not None
    policy = load_bundle(path).player(greedy=False)
    policy.epsilon = EXPLORATION
    rows: dict[str, list[Any]] = {}
    for index in range(EPISODES):
        env.reset(seed=FIRST_KEPT_SEED + index)
        policy.begin_episode(index)
        control, steps, over = env.control(FIRST_KEPT_SEED + index), 0, False
        while not over:
            view = env.view
            for name, values in _columns(view, control, env.organism.model.host_parameters).items():
                rows.setdefault(name, []).append(values)
            _, _, terminated, truncated, _ = env.step(policy.decide(view).action.to_indices())
            over, steps = terminated or truncated, steps + 1
        rows.setdefault("returns", []).extend(_returns(env.ledger.by_cause(steps), config.gamma))
        rows.setdefault("episode", []).extend([index] * steps)
    return {name: np.asarray(values) for name, values in rows.items()}


def _columns(view: View, control: Sequence[float], host: int) -> dict[str, list[float]]:
    """Numbers of one step: what a critic sees, and what could be added."""
    kinds = np.zeros((len(view.blueprints), len(Blueprint) + 1))
    kinds[np.arange(len(kinds)), view.blueprints + 1] = 1.0
    seeds = [0 if report is None else report.parameters for report in view.reports]
    points = [0.0 if report is None else report.measured.contribution_pp or 0.0 for report in view.reports]
    signals = view.signals
    return {
        "seen": [*view.features.tolist(), *kinds.ravel().tolist()],
        "points": [symlog(value) for value in points],
        "parameters": [math.log1p(number) for number in (*seeds, sum(seeds), host)],
        "gap": [symlog(signals.val_accuracy_pp - control[signals.epoch])],
        "control": [control[-1], signals.val_accuracy_pp - control[-1]],
    }


def _returns(rewards: NDArray[np.float64], gamma: float) -> list[float]:
    total, returns = 0.0, []
    for reward in reversed(rewards.tolist()):
        total = reward + gamma * total
        returns.append(total)
    return returns[::-1]


def predictions(kept: Kept, names: Sequence[str], *, trees: bool) -> Floats:
    """Predicted return of every step, by a model that has not seen its episode."""
    inputs = np.concatenate([kept.columns[name] for name in names], axis=1)
    order = np.random.default_rng(0).permutation(kept.episode.max() + 1)
    predicted = np.zeros_like(kept.returns)
    for held_back in np.array_split(order, FOLDS):
        test = np.isin(kept.episode, held_back)
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11)))
        model = HistGradientBoostingRegressor(max_iter=150, learning_rate=0.06, random_state=0) if trees else ridge
        model.fit(inputs[~test], kept.returns[~test])
        predicted[test] = model.predict(inputs[test])
    return predicted


def explained(kept: Kept, predicted: Floats, weights: Floats) -> float:
    """Share of the variance that is explained; ``weights`` of the episodes."""
    step = weights[kept.episode]
    error, spread = kept.returns - predicted, kept.returns - np.average(kept.returns, weights=step)
    return float(1.0 - np.average(error**2, weights=step) / np.average(spread**2, weights=step))


def measure() -> Measurements:
    """Run the benchmark."""
    torch.set_num_threads(1)
    kept = kept_episodes()
    episodes = int(kept.episode.max()) + 1
    rng = np.random.default_rng(1)
    resamples = [np.bincount(rng.integers(episodes, size=episodes), minlength=episodes) for _ in range(RESAMPLES)]
    figures = {}
    for trees in (False, True):
        kind = "trees" if trees else "ridge"
        base = predictions(kept, ["seen"], trees=trees)
        figures[f"{kind}_explained"] = explained(kept, base, np.ones(episodes))
        before = [explained(kept, base, weights) for weights in resamples]
        for addition, names in ADDITIONS.items():
            predicted = predictions(kept, ["seen", *names], trees=trees)
            gains = [explained(kept, predicted, w) - b for w, b in zip(resamples, before, strict=True)]
            gain = explained(kept, predicted, np.ones(episodes)) - figures[f"{kind}_explained"]
            low, high = np.quantile(gains, [0.025, 0.975])
            name = f"{kind}_{addition}"
            figures |= {name: gain, f"{name}_low": float(low), f"{name}_high": float(high)}
    return Measurements("critic_features", figures, {})
